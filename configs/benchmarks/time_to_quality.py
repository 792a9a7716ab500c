# How much of MAE's time does the fast form of PL-MAE need for the accuracy that a long run of MAE ends with, and what
# does that form cost in accuracy at equal images? And what does the second teacher give in a long run?
#
#   python tools/benchmarks/compare_methods.py --config configs/benchmarks/time_to_quality.py
_base_ = './compare_methods.py'

data = dict(_delete_=True, surfaces=dict(_base_.data.surfaces, budgets=['images']))
fast = '{{ fileDirname }}/methods/pl_mae_fast.py'
methods = dict(
    _delete_=True,
    mae=dict(label='MAE, 8 x the images', config='{{ fileDirname }}/methods/mae.py', images=614_400),
    fast_short=dict(label='PL-MAE, fast, 0.7 x the images', config=fast, images=55_040),  # a quarter of MAE's time
    fast_long=dict(label='PL-MAE, fast, 3.2 x the images', config=fast, images=245_760),  # MAE's time
    fast_long_one_teacher=dict(
        label='PL-MAE, fast, one teacher, 3.2 x the images',
        config='{{ fileDirname }}/methods/pl_mae_fast_one_teacher.py',
        images=245_760,
    ),
    fast=dict(label='PL-MAE, fast', config=fast),
    one_mask=dict(label='PL-MAE, one mask', config='{{ fileDirname }}/methods/pl_mae_one_mask.py'),
)
reference = 'one_mask'
