# SdAE beside pl_mae_surfaces.py, with the comparison's settings (benchmarks/methods/sdae.py).
#
#   python tools/train.py configs/sdae_surfaces.py
_base_ = ['./benchmarks/methods/sdae.py', './_base_/surfaces_run.py']

train_dataloader = _base_.surfaces_train_dataloader
train_cfg = _base_.surfaces_train_cfg
param_scheduler = _base_.surfaces_schedule
optim_wrapper = dict(type='mmpl.GuardedOptimWrapper')
custom_hooks = _base_.surfaces_hooks
default_hooks = _base_.surfaces_default_hooks
visualizer = _base_.surfaces_visualizer
log_level = 'INFO'
randomness = dict(diff_rank_seed=True)
