# Three epochs with two CPU cores.
max_epochs = 3
lr = 3e-3

optim_wrapper = dict(
    type='mmpl.GuardedOptimWrapper',
    constructor='mmpl.StrictOptimWrapperConstructor',
    optimizer=dict(type='AdamW', lr=lr, betas=(0.9, 0.95), weight_decay=0.05),
    clip_grad=dict(max_norm=3.0),
    paramwise_cfg=dict(
        norm_decay_mult=0.0,
        bias_decay_mult=0.0,
        custom_keys=dict(mask_token=dict(decay_mult=0.0), cls_token=dict(decay_mult=0.0)),
    ),
)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=True, end=0.1 * max_epochs, convert_to_iter_based=True),
    dict(type='CosineAnnealingLR', by_epoch=True, begin=0.1 * max_epochs, end=max_epochs, convert_to_iter_based=True),
]
train_cfg = dict(type='mmpl.ExactEpochLoop', max_epochs=max_epochs)
