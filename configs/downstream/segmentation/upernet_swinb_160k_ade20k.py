# UperNet, Swin-B, ADE20K, 160k iterations at 512 x 512, batch 16 (the recipe of Swin, in mmseg).
#
#   torchrun --nproc_per_node=8 tools/train.py configs/downstream/segmentation/upernet_swinb_160k_ade20k.py \
#       --launcher pytorch --amp --cfg-options model.backbone.init_cfg.checkpoint=CHECKPOINT
#
# Runs under mmseg's own tools/train.py too, and without mmcv's compiled operators.
# Data: data/ade/ADEChallengeData2016/{images,annotations}/{training,validation}.
# Cost: 5e18 FLOP (300 GMAC, counted, x 2 x 3 x 2.56 M images), some 20 A100 hours at 20 % (computed).
# Reference, mIoU: mmseg's Swin-B with window 7, pre-trained with ImageNet-1K's labels: 48.0. GreenMIM: not run by us.
_base_ = './upernet_vitb_160k_ade20k.py'

model = dict(
    backbone=dict(
        _delete_=True,
        type='mmpretrain.SwinTransformer',
        arch='base',
        img_size=224,  # of pre-training; there are no positions but those inside of a window
        window_size=7,
        pad_small_map=True,  # maps of any size
        drop_path_rate=0.3,
        out_indices=(0, 1, 2, 3),
        init_cfg=dict(
            type='mmpl.StrictPretrained',
            checkpoint='work_dirs/green_mim_swinb/epoch_800.pth',
            prefix='backbone.',
            ignore=('norm0.*', 'norm1.*', 'norm2.*'),  # of maps that pre-training does not use
        ),
    ),
    neck=None,
    decode_head=dict(in_channels=[128, 256, 512, 1024], channels=512),
    auxiliary_head=dict(in_channels=512),
    test_cfg=dict(_delete_=True, mode='whole'),
)

optim_wrapper = dict(
    _delete_=True,
    type='OptimWrapper',
    constructor='mmpl.StrictOptimWrapperConstructor',
    optimizer=dict(type='AdamW', lr=6e-5, betas=(0.9, 0.999), weight_decay=0.01),
    paramwise_cfg=dict(
        custom_keys={'norm': dict(decay_mult=0.0), 'relative_position_bias_table': dict(decay_mult=0.0)}
    ),
)
