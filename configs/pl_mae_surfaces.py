# PL-MAE on crops of photographs, ViT 96 x 4 with 16 patches: the comparison's PL-MAE (benchmarks/methods/pl_mae.py) as
# a run of 6 epochs, 750 steps, with checkpoints, probe and report; for one CPU core.
#
#   tools/demo.sh                                      (beside MAE, and the report)
#   python tools/train.py configs/pl_mae_surfaces.py   (alone)
#
# Its encoder is fine-tuned by downstream/*/*_surfaces*.py; tools/benchmarks/transfer.sh --data surfaces runs them all.
_base_ = './benchmarks/methods/pl_mae.py'

dataset = dict(_base_.train_dataloader.dataset, variant='surfaces')
train_dataloader = dict(
    sampler=dict(_delete_=True, type='DefaultSampler', shuffle=True), dataset=dict(_delete_=True, **dataset)
)
max_epochs = 6
train_cfg = dict(_delete_=True, type='mmpl.ExactEpochLoop', max_epochs=max_epochs)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=True, end=0.1 * max_epochs, convert_to_iter_based=True),
    dict(type='CosineAnnealingLR', by_epoch=True, begin=0.1 * max_epochs, end=max_epochs, convert_to_iter_based=True),
]
optim_wrapper = dict(type='mmpl.GuardedOptimWrapper')

loader = dict(batch_size=250, num_workers=0)
probe = dict(
    type='mmpl.FeatureProbeHook',
    interval=2,  # epochs
    before_train=True,  # the same encoder, randomly initialised
    linear='last',  # linear probe before training and at its end, kNN in between
    pool='avg',  # mean of the patch tokens
    k=20,
    temperature=0.07,
    train_dataloader=dict(dataset=dict(dataset, split='train'), **loader),
    val_dataloader=dict(dataset=dict(dataset, split='test'), **loader),
)
teacher_hook = dict(_base_.custom_hooks[0], health_interval=10)
non_finite_hook = dict(type='mmpl.NonFiniteHook', max_skips=10, on_bad_state='stop')
custom_hooks = [teacher_hook, probe, non_finite_hook]

# As _base_/default_runtime.py, which cannot be a second base: both have these fields.
default_hooks = dict(
    logger=dict(interval=25),
    checkpoint=dict(_delete_=True, type='mmpl.SafeCheckpointHook', interval=1, max_keep_ckpts=2),
    sampler_seed=dict(type='DistSamplerSeedHook'),
)
env_cfg = dict(
    cudnn_benchmark=False, mp_cfg=dict(mp_start_method='fork', opencv_num_threads=0), dist_cfg=dict(backend='nccl')
)
visualizer = dict(vis_backends=[dict(type='LocalVisBackend'), dict(type='TensorboardVisBackend')])
log_level = 'INFO'
load_from = None  # weights that a new run starts from
resume = True  # goes on from the last checkpoint of the work directory, if there is one; see docs/robustness.md
randomness = dict(diff_rank_seed=True)
