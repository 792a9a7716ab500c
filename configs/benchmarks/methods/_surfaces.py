# What all methods of the comparison share: data, encoder size, schedule. `compare_methods.py` sets data set, length and
# seed. Encoder: ViT 96 x 4 with 16 patches of 8 x 8 pixels: few enough that runs of a minute get somewhere.
default_scope = 'mmpretrain'

encoder = dict(arch=dict(embed_dims=96, num_layers=4, num_heads=3, feedforward_channels=384), img_size=32, patch_size=8)
data_preprocessor = dict(type='SelfSupDataPreprocessor', mean=[123.5] * 3, std=[42.6] * 3, bgr_to_rgb=True)

pipeline = [dict(type='LoadImageFromFile'), dict(type='PackInputs')]
train_dataloader = dict(
    batch_size=128,
    num_workers=0,
    drop_last=True,
    sampler=dict(type='InfiniteSampler', shuffle=True),
    collate_fn=dict(type='default_collate'),
    dataset=dict(type='mmpl.EmbeddedClassification', data_root='data/mmpl_embedded/', split='train', pipeline=pipeline),
)

optim_wrapper = dict(
    type='OptimWrapper',
    constructor='mmpl.StrictOptimWrapperConstructor',
    optimizer=dict(type='AdamW', lr=2e-3, betas=(0.9, 0.95), weight_decay=0.05),
    clip_grad=dict(max_norm=3.0),
    paramwise_cfg=dict(
        norm_decay_mult=0.0,
        bias_decay_mult=0.0,
        custom_keys=dict(mask_token=dict(decay_mult=0.0), cls_token=dict(decay_mult=0.0)),
    ),
)
train_cfg = dict(type='IterBasedTrainLoop', max_iters=600)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=60),
    dict(type='CosineAnnealingLR', by_epoch=False, begin=60, end=600),
]

default_hooks = dict(
    timer=dict(type='IterTimerHook'),
    logger=dict(type='LoggerHook', interval=100),
    param_scheduler=dict(type='ParamSchedulerHook'),
    checkpoint=None,
)
visualizer = dict(type='UniversalVisualizer', vis_backends=[])
log_level = 'WARNING'
randomness = dict(seed=0)
