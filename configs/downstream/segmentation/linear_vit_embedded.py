# The small sibling of linear_vitb_160k_ade20k.py: a linear head on the frozen encoder, 300 iterations.
#
#   python tools/train.py configs/downstream/segmentation/linear_vit_embedded.py \
#       --cfg-options model.backbone.init_cfg.checkpoint=CHECKPOINT
#
# From random weights: model.backbone.init_cfg=None. Cost: a minute on two CPU cores.
_base_ = [
    './linear_vitb_160k_ade20k.py',
    '../../_base_/models/embedded_encoder.py',
    '../../_base_/datasets/embedded_seg.py',
]

encoder = _base_.embedded_encoder
width, depth = encoder.arch.embed_dims, encoder.arch.num_layers
model = dict(
    data_preprocessor=dict(size=(96, 96), **_base_.embedded_pixels),
    backbone=dict(
        arch=dict(_delete_=True, **encoder.arch),
        img_size=encoder.img_size,
        patch_size=encoder.patch_size,
        frozen_stages=depth,
        out_indices=[depth - 1],
    ),
    decode_head=dict(in_channels=width, channels=width, num_classes=11),
    test_cfg=dict(_delete_=True, mode='whole'),
)
optim_wrapper = dict(optimizer=dict(lr=1e-2))
auto_scale_lr = dict(base_batch_size=8)

train_dataloader = dict(_delete_=True, **_base_.embedded_train_dataloader)
val_dataloader = dict(_delete_=True, **_base_.embedded_val_dataloader)
test_dataloader = val_dataloader

param_scheduler = [
    dict(type='LinearLR', start_factor=1e-6, by_epoch=False, begin=0, end=30),
    dict(type='PolyLR', eta_min=0.0, power=1.0, by_epoch=False, begin=30, end=300),
]
train_cfg = dict(max_iters=300, val_interval=300)
default_hooks = dict(logger=dict(interval=20), checkpoint=dict(interval=300, max_keep_ckpts=1))
