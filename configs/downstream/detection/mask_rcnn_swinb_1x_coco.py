# Mask R-CNN, Swin-B with a feature pyramid, COCO, 12 epochs (1x), batch 16 (the recipe of Swin, in mmdet).
#
#   torchrun --nproc_per_node=8 tools/train.py configs/downstream/detection/mask_rcnn_swinb_1x_coco.py \
#       --launcher pytorch --amp --cfg-options model.backbone.init_cfg.checkpoint=CHECKPOINT
#
# Runs under mmdet's own tools/train.py too, and without mmcv's compiled operators.
# Data: data/coco/{annotations,train2017,val2017}.
# Cost: 3e18 FLOP (363 GMAC of encoder and pyramid, counted, x 2 x 3 x 1.4 M images), some 14 A100 hours at 20 %
# (computed), and the heads.
# Reference, box / mask AP at 1x: mmdet's Swin-T, pre-trained with ImageNet-1K's labels: 42.7 / 39.3.
# GreenMIM: not run by us.
_base_ = './mask_rcnn_vitb_1x_coco.py'

model = dict(
    backbone=dict(
        _delete_=True,
        type='mmpretrain.SwinTransformer',
        arch='base',
        img_size=224,  # of pre-training; there are no positions but those inside of a window
        window_size=7,
        pad_small_map=True,  # maps of any size
        drop_path_rate=0.2,
        out_indices=(0, 1, 2, 3),
        init_cfg=dict(
            type='mmpl.StrictPretrained',
            checkpoint='work_dirs/green_mim_swinb/epoch_800.pth',
            prefix='backbone.',
            ignore=('norm0.*', 'norm1.*', 'norm2.*'),  # of maps that pre-training does not use
        ),
    ),
    neck=dict(_delete_=True, type='FPN', in_channels=[128, 256, 512, 1024], out_channels=256, num_outs=5),
)

param_scheduler = [
    dict(type='LinearLR', start_factor=0.001, by_epoch=False, begin=0, end=1000),
    dict(type='MultiStepLR', by_epoch=True, begin=0, end=12, milestones=[8, 11], gamma=0.1),
]
optim_wrapper = dict(
    _delete_=True,
    type='OptimWrapper',
    constructor='mmpl.StrictOptimWrapperConstructor',
    optimizer=dict(type='AdamW', lr=1e-4, betas=(0.9, 0.999), weight_decay=0.05),
    paramwise_cfg=dict(
        custom_keys={'norm': dict(decay_mult=0.0), 'relative_position_bias_table': dict(decay_mult=0.0)}
    ),
)
