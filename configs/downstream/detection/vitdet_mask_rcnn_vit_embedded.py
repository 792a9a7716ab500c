# The small sibling of vitdet_mask_rcnn_vitb_100e_coco.py: 8 epochs on the embedded scenes (96 x 96, patches of 4).
#
#   python tools/train.py configs/downstream/detection/vitdet_mask_rcnn_vit_embedded.py \
#       --cfg-options model.backbone.init_cfg.checkpoint=CHECKPOINT
#
# From random weights: model.backbone.init_cfg=None. Cost: minutes on two CPU cores.
_base_ = './vitdet_mask_rcnn_vitb_100e_coco.py'

model = dict(
    data_preprocessor=dict(batch_augments=None, mean=[53.46] * 3, std=[57.20] * 3),
    backbone=dict(
        arch=dict(_delete_=True, embed_dims=96, num_layers=4, num_heads=3, feedforward_channels=384),
        img_size=32,
        patch_size=4,
        window_size=8,
        global_attn_indexes=[1, 3],
        drop_path_rate=0.0,
    ),
    neck=dict(in_channels=96, out_channels=64, scale_factors=(1, 0.5, 0.25), num_outs=3),
    rpn_head=dict(in_channels=64, feat_channels=64, anchor_generator=dict(scales=[4], strides=[4, 8, 16])),
    roi_head=dict(
        bbox_roi_extractor=dict(out_channels=64, featmap_strides=[4, 8, 16], finest_scale=28),
        bbox_head=dict(in_channels=64, conv_out_channels=64, fc_out_channels=256, num_classes=10),
        mask_roi_extractor=dict(out_channels=64, featmap_strides=[4, 8, 16], finest_scale=28),
        mask_head=dict(num_convs=2, in_channels=64, conv_out_channels=64, num_classes=10),
    ),
    train_cfg=dict(rpn_proposal=dict(nms_pre=500, max_per_img=200), rcnn=dict(sampler=dict(num=64))),
    test_cfg=dict(rpn=dict(nms_pre=300, max_per_img=100)),
)
optim_wrapper = dict(optimizer=dict(lr=1e-3))

# No flips: a mirrored digit is another one.
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
    dict(type='Resize', scale=(96, 96), keep_ratio=True),
    dict(type='PackDetInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=(96, 96), keep_ratio=True),
    dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
    dict(type='PackDetInputs', meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor')),
]
dataset = dict(type='mmpl.EmbeddedCocoDataset', data_root='data/mmpl_embedded/', size='demo')
train_dataloader = dict(
    _delete_=True,
    batch_size=8,
    num_workers=0,
    sampler=dict(type='DefaultSampler', shuffle=True),
    dataset=dict(split='train', pipeline=train_pipeline, **dataset),
)
val_dataloader = dict(
    _delete_=True,
    batch_size=8,
    num_workers=0,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(split='val', test_mode=True, pipeline=test_pipeline, **dataset),
)
test_dataloader = val_dataloader
val_evaluator = dict(ann_file='data/mmpl_embedded/demo/coco/annotations/instances_val.json')
test_evaluator = val_evaluator

param_scheduler = [
    dict(type='LinearLR', start_factor=0.001, by_epoch=False, begin=0, end=50),
    dict(type='MultiStepLR', by_epoch=True, begin=0, end=8, milestones=[6], gamma=0.1),
]
train_cfg = dict(max_epochs=8, val_interval=8)
default_hooks = dict(logger=dict(type='LoggerHook', interval=20), checkpoint=dict(type='CheckpointHook', interval=8))
