# Mask R-CNN, ViT-B/16 with windows and a simple feature pyramid, COCO, 12 epochs (1x), batch 16.
#
#   torchrun --nproc_per_node=8 tools/train.py configs/downstream/detection/mask_rcnn_vitb_1x_coco.py \
#       --launcher pytorch --amp --cfg-options model.backbone.init_cfg.checkpoint=CHECKPOINT
#
# Runs under mmdet's own tools/train.py too, and without mmcv's compiled operators.
# Data: data/coco/{annotations,train2017,val2017}.
# Cost: 7e18 FLOP (0.8 TMAC, ViTDet's figure, x 2 x 3 x 1.4 M images), some 30 A100 hours at 20 % (computed).
# Reference, box / mask AP at 1x: MAE, 1600 epochs: 48.4 / 42.6; CAE, 1600: 50.3 / 44.2; SdAE, 300: 48.9 / -. They use
# global attention and a pyramid of four blocks' outputs: compare protocols before numbers. PL-MAE: not run by us.
_base_ = [
    'mmdet::_base_/models/mask-rcnn_r50_fpn.py',
    'mmdet::_base_/datasets/coco_instance.py',
    'mmdet::_base_/schedules/schedule_1x.py',
    'mmdet::_base_/default_runtime.py',
]
custom_imports = dict(imports=['mmpl'])

model = dict(
    backbone=dict(
        _delete_=True,
        type='mmpl.DenseViT',
        arch='base',
        img_size=224,  # of pre-training; the position embedding is interpolated to each image
        patch_size=16,
        window_size=14,  # four of the twelve blocks are global
        drop_path_rate=0.1,
        init_cfg=dict(
            type='mmpl.StrictPretrained', checkpoint='work_dirs/pl_mae_vitb/epoch_400.pth', prefix='backbone.'
        ),
    ),
    neck=dict(
        _delete_=True,
        type='mmpl.SimpleFPN',
        in_channels=768,
        out_channels=256,
        scale_factors=(4, 2, 1, 0.5),
        num_outs=5,
    ),
)

optim_wrapper = dict(
    _delete_=True,
    type='OptimWrapper',
    constructor='mmpl.LayerDecayOptimWrapperConstructor',
    optimizer=dict(type='AdamW', lr=3e-4, betas=(0.9, 0.999), weight_decay=0.1),
    paramwise_cfg=dict(layer_decay_rate=0.75),
)
custom_hooks = [dict(type='mmpl.ClassCountHook')]
