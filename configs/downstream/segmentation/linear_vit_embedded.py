# The small sibling of linear_vitb_160k_ade20k.py: a linear head on the frozen encoder, 300 iterations.
#
#   python tools/train.py configs/downstream/segmentation/linear_vit_embedded.py \
#       --cfg-options model.backbone.init_cfg.checkpoint=CHECKPOINT
#
# From random weights: model.backbone.init_cfg=None. Cost: a minute on two CPU cores.
_base_ = './linear_vitb_160k_ade20k.py'

model = dict(
    data_preprocessor=dict(size=(96, 96), mean=[53.46] * 3, std=[57.20] * 3),
    backbone=dict(
        arch=dict(_delete_=True, embed_dims=96, num_layers=4, num_heads=3, feedforward_channels=384),
        img_size=32,
        patch_size=4,
        frozen_stages=4,
        out_indices=[3],
    ),
    decode_head=dict(in_channels=96, channels=96, num_classes=11),
    test_cfg=dict(_delete_=True, mode='whole'),
)
optim_wrapper = dict(optimizer=dict(lr=1e-2))

# Eleven classes: the background and ten digits. No flips: a mirrored digit is another one.
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', reduce_zero_label=False),
    dict(type='PackSegInputs'),
]
dataset = dict(
    type='mmpl.EmbeddedSegDataset',
    data_root='data/mmpl_embedded/',
    size='demo',
    reduce_zero_label=False,
    pipeline=train_pipeline,
)
train_dataloader = dict(
    _delete_=True,
    batch_size=8,
    num_workers=0,
    sampler=dict(type='InfiniteSampler', shuffle=True),
    dataset=dict(split='train', **dataset),
)
val_dataloader = dict(
    _delete_=True,
    batch_size=1,
    num_workers=0,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(split='val', test_mode=True, **dataset),
)
test_dataloader = val_dataloader

param_scheduler = [
    dict(type='LinearLR', start_factor=1e-6, by_epoch=False, begin=0, end=30),
    dict(type='PolyLR', eta_min=0.0, power=1.0, by_epoch=False, begin=30, end=300),
]
train_cfg = dict(max_iters=300, val_interval=300)
default_hooks = dict(logger=dict(interval=20), checkpoint=dict(interval=300, max_keep_ckpts=1))
