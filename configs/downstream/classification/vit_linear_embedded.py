# The small sibling of vitb_linear_90e_in1k.py: a linear probe on the embedded digits, 10 epochs.
#
#   python tools/train.py configs/downstream/classification/vit_linear_embedded.py \
#       --cfg-options model.backbone.init_cfg.checkpoint=CHECKPOINT
#
# From random weights: model.backbone.init_cfg=None. Cost: about a minute on two CPU cores.
_base_ = [
    './vitb_linear_90e_in1k.py',
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
        frozen_stages=encoder.arch.num_layers,
    ),
    neck=dict(input_features=width),
    head=dict(num_classes=10, in_channels=width),
)

data_preprocessor = dict(num_classes=10, **_base_.embedded_pixels)
train_dataloader = dict(_delete_=True, **_base_.embedded_train_dataloader)
val_dataloader = dict(_delete_=True, **_base_.embedded_val_dataloader)
test_dataloader = dict(_delete_=True, **_base_.embedded_test_dataloader)
val_evaluator = dict(type='Accuracy', topk=(1,))
test_evaluator = val_evaluator

optim_wrapper = dict(optimizer=dict(lr=0.4))
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-4, by_epoch=True, begin=0, end=1, convert_to_iter_based=True),
    dict(type='CosineAnnealingLR', by_epoch=True, begin=1, end=10, eta_min=0.0, convert_to_iter_based=True),
]
train_cfg = dict(by_epoch=True, max_epochs=10, val_interval=5)
default_hooks = dict(logger=dict(interval=20), checkpoint=dict(interval=5, max_keep_ckpts=1))
auto_scale_lr = dict(enable=False, base_batch_size=64)
