default_scope = 'mmpretrain'  # ours are written `mmpl.`, so mmpretrain's own train.py runs these configs too

default_hooks = dict(
    timer=dict(type='IterTimerHook'),
    logger=dict(type='LoggerHook', interval=100),
    param_scheduler=dict(type='ParamSchedulerHook'),
    checkpoint=dict(
        type='mmpl.SafeCheckpointHook',
        interval=1,  # epochs
        max_keep_ckpts=3,
        iter_interval=-1,  # iterations between further checkpoints inside the epochs
        on_save_error='raise',  # 'continue' if, say, the disk is full
    ),
    sampler_seed=dict(type='DistSamplerSeedHook'),
)

teacher_hook = dict(
    type='mmpl.DualTeacherHook',
    health_interval=10,  # iterations between two looks at the health of what is learnt
)

non_finite_hook = dict(
    type='mmpl.NonFiniteHook',
    max_skips=10,  # steps with NaN or Inf in a row after which the run stops
    on_bad_state='stop',  # if NaN is in the weights or teachers themselves; or 'reload' these from a checkpoint
)

env_cfg = dict(
    cudnn_benchmark=False, mp_cfg=dict(mp_start_method='fork', opencv_num_threads=0), dist_cfg=dict(backend='nccl')
)

vis_backends = [
    dict(type='LocalVisBackend'),
    dict(type='TensorboardVisBackend'),
    # dict(type='WandbVisBackend', init_kwargs=dict(project='mmpl')),  # needs `pip install wandb`
]
visualizer = dict(type='UniversalVisualizer', vis_backends=vis_backends)

log_level = 'INFO'
load_from = None  # weights that a new run starts from
resume = True  # goes on from the last checkpoint of the work directory, if there is one; see docs/robustness.md
randomness = dict(seed=0, diff_rank_seed=True)
