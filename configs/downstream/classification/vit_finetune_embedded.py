# The small sibling of vitb_finetune_100e_in1k.py: 10 epochs on the embedded digits (32 x 32, patches of 4).
#
#   python tools/train.py configs/downstream/classification/vit_finetune_embedded.py \
#       --cfg-options model.backbone.init_cfg.checkpoint=CHECKPOINT
#
# From random weights: model.backbone.init_cfg=None. Cost: minutes on two CPU cores.
_base_ = [
    './vitb_finetune_100e_in1k.py',
    '../../_base_/models/embedded_encoder.py',
    '../../_base_/datasets/embedded_cls.py',
]

encoder = _base_.embedded_encoder
width = encoder.arch.embed_dims
model = dict(
    backbone=dict(
        arch=dict(_delete_=True, **encoder.arch),
        img_size=encoder.img_size,
        patch_size=encoder.patch_size,
    ),
    head=dict(num_classes=10, in_channels=width),
    train_cfg=None,
)

data_preprocessor = dict(num_classes=10, **_base_.embedded_pixels)
train_dataloader = dict(_delete_=True, **_base_.embedded_train_dataloader)
val_dataloader = dict(_delete_=True, **_base_.embedded_val_dataloader)
test_dataloader = dict(_delete_=True, **_base_.embedded_test_dataloader)
val_evaluator = dict(type='Accuracy', topk=(1,))
test_evaluator = val_evaluator

optim_wrapper = dict(optimizer=dict(lr=1e-3))
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-4, by_epoch=True, begin=0, end=1, convert_to_iter_based=True),
    dict(type='CosineAnnealingLR', by_epoch=True, begin=1, end=10, eta_min=1e-6, convert_to_iter_based=True),
]
train_cfg = dict(by_epoch=True, max_epochs=10, val_interval=5)
default_hooks = dict(logger=dict(interval=20), checkpoint=dict(interval=5, max_keep_ckpts=1))
auto_scale_lr = dict(enable=False, base_batch_size=64)
