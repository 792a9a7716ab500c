# How much of MAE's time does the fast form of PL-MAE need for MAE's accuracy, and what does that form cost in accuracy?
#
#   python tools/benchmarks/compare_methods.py --config configs/benchmarks/time_to_quality.py
_base_ = './compare_methods.py'

data = dict(_delete_=True, surfaces=dict(_base_.data.surfaces, budgets=['images']))
fast = 'configs/benchmarks/methods/pl_mae_fast.py'
methods = dict(
    _delete_=True,
    mae=dict(label='MAE, 2.7 x the images', config='configs/benchmarks/methods/mae.py', images=204_800),
    fast_short=dict(label='PL-MAE, fast, a quarter of the images', config=fast, images=19_200),
    fast=dict(label='PL-MAE, fast', config=fast),
    plain=dict(label='PL-MAE, one mask', config='configs/benchmarks/methods/pl_mae_one_mask.py'),
)
reference = 'plain'
