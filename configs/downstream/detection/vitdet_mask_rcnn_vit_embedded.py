# The small sibling of vitdet_mask_rcnn_vitb_100e_coco.py: 8 epochs on the embedded scenes (96 x 96, patches of 4).
#
#   python tools/train.py configs/downstream/detection/vitdet_mask_rcnn_vit_embedded.py \
#       --cfg-options model.backbone.init_cfg.checkpoint=CHECKPOINT
#
# From random weights: model.backbone.init_cfg=None. Cost: minutes on two CPU cores.
_base_ = [
    './vitdet_mask_rcnn_vitb_100e_coco.py',
    '../../_base_/models/embedded_encoder.py',
    '../../_base_/datasets/embedded_coco.py',
]

encoder = _base_.embedded_encoder
width, depth = encoder.arch.embed_dims, encoder.arch.num_layers
strides = [4, 8, 16]  # pixels
model = dict(
    data_preprocessor=dict(pad_size_divisor=32, batch_augments=None, **_base_.embedded_pixels),
    backbone=dict(
        arch=dict(_delete_=True, **encoder.arch),
        img_size=encoder.img_size,
        patch_size=encoder.patch_size,
        window_size=8,
        global_attn_indexes=[depth // 2 - 1, depth - 1],
        rel_pos=24,
        drop_path_rate=0.0,
    ),
    neck=dict(
        in_channels=width,
        out_channels=64,
        scale_factors=[encoder.patch_size / stride for stride in strides],
        num_outs=3,
    ),
    rpn_head=dict(in_channels=64, feat_channels=64, anchor_generator=dict(scales=[4], strides=strides)),
    roi_head=dict(
        bbox_roi_extractor=dict(out_channels=64, featmap_strides=strides, finest_scale=28),
        bbox_head=dict(in_channels=64, conv_out_channels=64, fc_out_channels=256, num_classes=10),
        mask_roi_extractor=dict(out_channels=64, featmap_strides=strides, finest_scale=28),
        mask_head=dict(num_convs=2, in_channels=64, conv_out_channels=64, num_classes=10),
    ),
    train_cfg=dict(rpn_proposal=dict(nms_pre=500, max_per_img=200), rcnn=dict(sampler=dict(num=64))),
    test_cfg=dict(rpn=dict(nms_pre=300, max_per_img=100)),
)
optim_wrapper = dict(optimizer=dict(lr=1e-3))
auto_scale_lr = dict(base_batch_size=8)

train_dataloader = dict(_delete_=True, **_base_.embedded_train_dataloader)
val_dataloader = dict(_delete_=True, **_base_.embedded_val_dataloader)
test_dataloader = val_dataloader
val_evaluator = dict(ann_file=_base_.embedded_ann_file)
test_evaluator = val_evaluator

param_scheduler = [
    dict(type='LinearLR', start_factor=0.001, by_epoch=False, begin=0, end=50),
    dict(type='MultiStepLR', by_epoch=True, begin=0, end=8, milestones=[6], gamma=0.1),
]
train_cfg = dict(max_epochs=8, val_interval=8)
default_hooks = dict(logger=dict(type='LoggerHook', interval=20), checkpoint=dict(type='CheckpointHook', interval=8))
