# The small sibling of vitb_finetune_10e_vqav2.py: easy-vqa (pip install easy-vqa), 64 patches of 8, 3 epochs.
#
#   python tools/train.py configs/downstream/vqa/vit_finetune_easy_vqa.py \
#       --cfg-options model.backbone.init_cfg.checkpoint=CHECKPOINT
#
# From random weights: model.backbone.init_cfg=None. Question only: model.blind=True besides.
# Cost: 15 minutes of one CPU core.
_base_ = [
    '../../_base_/default_runtime.py',
    '../../_base_/models/surfaces_encoder.py',
    '../../_base_/datasets/easy_vqa.py',
]
custom_imports = dict(imports=['mmpl'])

model = dict(
    type='mmpl.VQAClassifier',
    # Mean and standard deviation of the training images, most of which is white.
    data_preprocessor=dict(type='mmpl.VQAPreprocessor', mean=[230.0] * 3, std=[50.0] * 3, bgr_to_rgb=True),
    backbone=dict(
        type='mmpretrain.VisionTransformer',
        arch=dict(**_base_.surfaces_encoder.arch),
        img_size=64,
        patch_size=_base_.surfaces_encoder.patch_size,
        out_type='raw',
        init_cfg=dict(
            type='mmpl.StrictPretrained', checkpoint='work_dirs/vqa_pl_mae/iter_1200.pth', prefix='backbone.'
        ),
    ),
    vocabulary=_base_.easy_vqa_vocabulary,
    dims=96,
    num_heads=3,
    text_layers=1,
    fusion_layers=2,
    max_length=_base_.easy_vqa_dataset.max_length,
)

train_dataloader = _base_.easy_vqa_train_dataloader
val_dataloader = _base_.easy_vqa_val_dataloader
test_dataloader = _base_.easy_vqa_test_dataloader
val_evaluator = dict(type='mmpl.VQAMetric')
test_evaluator = val_evaluator

optim_wrapper = dict(
    type='OptimWrapper',
    constructor='mmpl.StrictOptimWrapperConstructor',
    optimizer=dict(type='AdamW', lr=1e-3, betas=(0.9, 0.98), weight_decay=0.01),
    paramwise_cfg=dict(norm_decay_mult=0.0, bias_decay_mult=0.0),
    clip_grad=dict(max_norm=1.0),
)
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-3, by_epoch=True, begin=0, end=0.5, convert_to_iter_based=True),
    dict(type='CosineAnnealingLR', by_epoch=True, begin=0.5, end=3, eta_min=1e-6, convert_to_iter_based=True),
]
train_cfg = dict(by_epoch=True, max_epochs=3, val_interval=1)
val_cfg = dict()
test_cfg = dict()
default_hooks = dict(logger=dict(interval=50), checkpoint=dict(interval=1, max_keep_ckpts=1))
auto_scale_lr = dict(enable=False, base_batch_size=64)
