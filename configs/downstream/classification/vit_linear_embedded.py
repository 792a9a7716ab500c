# The small sibling of vitb_linear_90e_in1k.py: a linear probe on the embedded digits, 10 epochs.
#
#   python tools/train.py configs/downstream/classification/vit_linear_embedded.py \
#       --cfg-options model.backbone.init_cfg.checkpoint=CHECKPOINT
#
# From random weights: model.backbone.init_cfg=None. Cost: about a minute on two CPU cores.
_base_ = './vitb_linear_90e_in1k.py'

model = dict(
    backbone=dict(
        arch=dict(_delete_=True, embed_dims=96, num_layers=4, num_heads=3, feedforward_channels=384),
        img_size=32,
        patch_size=4,
        frozen_stages=4,
    ),
    neck=dict(input_features=96),
    head=dict(num_classes=10, in_channels=96),
)

# No flips, mixup or RandAugment: a mirrored digit is another one.
data_preprocessor = dict(num_classes=10, mean=[53.46] * 3, std=[57.20] * 3)  # as in pre-training
pipeline = [dict(type='LoadImageFromFile'), dict(type='PackInputs')]
dataset = dict(type='mmpl.EmbeddedClassification', data_root='data/mmpl_embedded/', size='demo', pipeline=pipeline)
loader = dict(num_workers=0, persistent_workers=False, collate_fn=dict(type='default_collate'))
train_dataloader = dict(
    _delete_=True,
    batch_size=64,
    sampler=dict(type='DefaultSampler', shuffle=True),
    dataset=dict(split='train', **dataset),
    **loader,
)
val_dataloader = dict(
    _delete_=True,
    batch_size=250,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(split='val', **dataset),
    **loader,
)
test_dataloader = dict(
    _delete_=True,
    batch_size=250,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(split='test', **dataset),
    **loader,
)
val_evaluator = dict(type='Accuracy', topk=(1,))
test_evaluator = val_evaluator

optim_wrapper = dict(optimizer=dict(lr=0.4))
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-4, by_epoch=True, begin=0, end=1, convert_to_iter_based=True),
    dict(type='CosineAnnealingLR', by_epoch=True, begin=1, end=10, eta_min=0.0, convert_to_iter_based=True),
]
train_cfg = dict(by_epoch=True, max_epochs=10, val_interval=5)
default_hooks = dict(logger=dict(interval=20), checkpoint=dict(interval=5, max_keep_ckpts=1))
auto_scale_lr = dict(enable=False)
