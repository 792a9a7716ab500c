# PL-MAE on crops of photographs, ViT 96 x 4 with 16 patches: the comparison's PL-MAE (benchmarks/methods/pl_mae.py) as
# a run of 6 epochs, 750 steps, with checkpoints, probe and report; for one CPU core.
#
#   tools/demo.sh                                      (beside MAE, and the report)
#   python tools/train.py configs/pl_mae_surfaces.py   (alone)
#
# Its encoder is fine-tuned by downstream/*/*_surfaces*.py; tools/benchmarks/transfer.sh --data surfaces runs them all.
_base_ = ['./benchmarks/methods/pl_mae.py', './_base_/surfaces_run.py']

train_dataloader = _base_.surfaces_train_dataloader
train_cfg = _base_.surfaces_train_cfg
param_scheduler = _base_.surfaces_schedule
optim_wrapper = dict(type='mmpl.GuardedOptimWrapper')
custom_hooks = _base_.surfaces_hooks
default_hooks = _base_.surfaces_default_hooks
visualizer = _base_.surfaces_visualizer
log_level = 'INFO'
randomness = dict(diff_rank_seed=True)
