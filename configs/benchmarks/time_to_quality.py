# How much of MAE's time does the fast form of PL-MAE need for MAE's accuracy? MAE sees ten times the images.
#
#   python tools/benchmarks/compare_methods.py --config configs/benchmarks/time_to_quality.py
_base_ = './compare_methods.py'

data = dict(_delete_=True, surfaces=dict(_base_.data.surfaces, budgets=['images']))
methods = dict(
    _delete_=True,
    mae=dict(_base_.methods.mae, images=768_000),
    fast=dict(label='PL-MAE, fast', config='configs/benchmarks/methods/pl_mae_fast.py'),
)
reference = 'fast'
