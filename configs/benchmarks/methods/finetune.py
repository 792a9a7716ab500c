# Fine-tuning of the whole encoder with a tenth of the labels, the same for every method.
default_scope = 'mmpretrain'

data_preprocessor = dict(num_classes=16, mean=[123.5] * 3, std=[42.6] * 3, to_rgb=True)
model = dict(
    type='ImageClassifier',
    backbone=dict(
        type='VisionTransformer',
        arch=dict(embed_dims=96, num_layers=4, num_heads=3, feedforward_channels=384),
        img_size=32,
        patch_size=8,
        out_type='avg_featmap',
        final_norm=False,
        pre_norm=False,
        init_cfg=dict(type='mmpl.StrictPretrained', checkpoint='', prefix='backbone.', ignore=('ln1.*', 'ln2.*')),
    ),
    head=dict(type='LinearClsHead', num_classes=16, in_channels=96, loss=dict(type='CrossEntropyLoss')),
)
pipeline = [dict(type='LoadImageFromFile'), dict(type='PackInputs')]
dataset = dict(type='mmpl.EmbeddedClassification', data_root='data/mmpl_embedded/', pipeline=pipeline)
loader = dict(num_workers=0, collate_fn=dict(type='default_collate'))
train_dataloader = dict(
    batch_size=64,
    sampler=dict(type='DefaultSampler', shuffle=True),
    dataset=dict(split='train', fraction=0.1, **dataset),
    **loader,
)
val_dataloader = dict(
    batch_size=250, sampler=dict(type='DefaultSampler', shuffle=False), dataset=dict(split='val', **dataset), **loader
)
test_dataloader = dict(
    batch_size=250, sampler=dict(type='DefaultSampler', shuffle=False), dataset=dict(split='test', **dataset), **loader
)
val_evaluator = dict(type='Accuracy', topk=(1,))
test_evaluator = val_evaluator

optim_wrapper = dict(optimizer=dict(type='AdamW', lr=1e-3, weight_decay=0.05), clip_grad=dict(max_norm=3.0))
train_cfg = dict(by_epoch=True, max_epochs=20, val_interval=1000)
val_cfg = dict()
test_cfg = dict()
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=True, begin=0, end=2, convert_to_iter_based=True),
    dict(type='CosineAnnealingLR', by_epoch=True, begin=2, end=20, convert_to_iter_based=True),
]
default_hooks = dict(checkpoint=None, logger=dict(type='LoggerHook', interval=100))
visualizer = dict(type='UniversalVisualizer', vis_backends=[])
log_level = 'WARNING'
