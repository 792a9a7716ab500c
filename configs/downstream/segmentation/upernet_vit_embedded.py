# The small sibling of upernet_vitb_160k_ade20k.py: 700 iterations on the embedded scenes (patches of 4).
#
#   python tools/train.py configs/downstream/segmentation/upernet_vit_embedded.py \
#       --cfg-options model.backbone.init_cfg.checkpoint=CHECKPOINT
#
# From random weights: model.backbone.init_cfg=None. Cost: minutes on two CPU cores.
# Crops cover 64 of 96 pixels, because a short run needs many steps; five of six pixels are background, hence the class
# weights.
_base_ = [
    './upernet_vitb_160k_ade20k.py',
    '../../_base_/models/embedded_encoder.py',
    '../../_base_/datasets/embedded_seg.py',
]

encoder = _base_.embedded_encoder
width, depth = encoder.arch.embed_dims, encoder.arch.num_layers
crop_size = (64, 64)
norm_cfg = dict(type='BN', requires_grad=True)  # SyncBN needs GPUs as soon as there is more than one process
head = dict(
    norm_cfg=norm_cfg,
    num_classes=11,
    channels=64,
    loss_decode=dict(class_weight=[0.2] + [1.0] * 10, avg_non_ignore=False),  # mmseg has not both of these
)
model = dict(
    data_preprocessor=dict(size=crop_size, **_base_.embedded_pixels),
    backbone=dict(
        arch=dict(_delete_=True, **encoder.arch),
        img_size=encoder.img_size,
        patch_size=encoder.patch_size,
        drop_path_rate=0.0,
        out_indices=[(i + 1) * depth // 4 - 1 for i in range(4)],
    ),
    neck=dict(embed_dim=width, rescales=[encoder.patch_size / stride for stride in (2, 4, 8, 16)], norm_cfg=norm_cfg),
    decode_head=dict(in_channels=[width] * 4, **head),
    auxiliary_head=dict(in_channels=width, **head),
    test_cfg=dict(_delete_=True, mode='whole'),
)
optim_wrapper = dict(optimizer=dict(lr=2e-3), paramwise_cfg=dict(layer_decay_rate=0.75), clip_grad=dict(max_norm=1.0))
auto_scale_lr = dict(base_batch_size=8)

train_dataloader = dict(_delete_=True, **_base_.embedded_train_dataloader)
train_dataloader['dataset'] = dict(
    train_dataloader['dataset'],
    pipeline=[
        dict(type='LoadImageFromFile'),
        dict(type='LoadAnnotations', reduce_zero_label=False),
        dict(type='RandomCrop', crop_size=crop_size),
        dict(type='PackSegInputs'),
    ],
)
val_dataloader = dict(_delete_=True, **_base_.embedded_val_dataloader)
test_dataloader = val_dataloader

max_iters = 700
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-6, by_epoch=False, begin=0, end=30),
    dict(type='PolyLR', eta_min=0.0, power=1.0, by_epoch=False, begin=30, end=max_iters),
]
train_cfg = dict(max_iters=max_iters, val_interval=max_iters)
default_hooks = dict(logger=dict(interval=20), checkpoint=dict(interval=100, max_keep_ckpts=1))
