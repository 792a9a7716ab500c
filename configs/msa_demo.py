# MSA on the embedded digits, ViT 96 x 4 with 64 patches; for two CPU cores.
#
#   python tools/train.py configs/msa_demo.py
_base_ = ['./_base_/models/msa_vitb.py', './_base_/datasets/embedded.py', './_base_/default_runtime.py']

# As pl_mae_demo where the two share something; what is MSA's own has not been tuned.
max_epochs = 3
lr = 3e-3

strong = [  # for grey digits: there is no colour to change, and solarised ones would be bright everywhere
    dict(type='RandomApply', transforms=[dict(type='ColorJitter', brightness=0.4, contrast=0.4)], prob=0.8),
    dict(type='GaussianBlur', magnitude_range=(0.1, 1.0), magnitude_std='inf', prob=0.5),
]
train_pipeline = [
    _base_.train_pipeline[0],  # load
    dict(type='mmpl.TwoViews', geometry=_base_.train_pipeline[1:2], strong=strong, own_crop=False),  # crop
    dict(type='PackInputs', meta_keys=('view_boxes',)),  # where the views lie; None unless own_crop
]

model = dict(
    data_preprocessor=_base_.data_preprocessor,
    backbone=dict(
        arch=dict(_delete_=True, embed_dims=96, num_layers=4, num_heads=3, feedforward_channels=384),
        img_size=32,
        patch_size=4,
        embed_visible_only=True,
    ),
    masking=dict(num_masks=4, predict_ratio=0.5),
    neck=dict(decoder_embed_dims=64, depth=1, num_heads=4),
    align_head=dict(hidden_dims=256, out_dims=64),
)

optim_wrapper = dict(
    type='OptimWrapper',
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
train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=max_epochs)

custom_hooks = [
    dict(type='mmpl.DualTeacherHook', momentum_align=dict(start=0.99, end=1.0), health_interval=10),
    _base_.probe,
]
train_dataloader = dict(batch_size=32, dataset=dict(pipeline=train_pipeline))
default_hooks = dict(logger=dict(interval=25), checkpoint=dict(max_keep_ckpts=1))
