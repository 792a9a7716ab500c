# The methods on data that no setting was ever chosen on; see docs/evidence.md. Settings are found on `surfaces` and on
# plain digits alone.
#
#   python tools/benchmarks/compare_methods.py --config configs/benchmarks/compare_reporting.py
_base_ = './compare_methods.py'

data = dict(
    _delete_=True,
    letters=dict(label='letters (typefaces on photographs)', reporting='letters', side=48),
    regions=dict(label='regions (parts of photographs, in colour)', reporting='regions', side=48),
    shapes=dict(label='shapes (circle, rectangle, triangle)', reporting='shapes', side=64),
)
methods = dict(
    _delete_=True,
    random=_base_.methods.random,
    mae=_base_.methods.mae,
    pl_mae=_base_.methods.pl_mae,
    one_teacher=dict(_base_.methods.one_teacher, data=['letters', 'regions', 'shapes']),
    msa=dict(_base_.methods.msa, data=['letters', 'regions', 'shapes']),
)
