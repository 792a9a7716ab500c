# CAE-style context autoencoder, ViT-B/16, ImageNet-1K, 1600 epochs: the recipe of Chen et al. (IJCV 2024).
#
#   tools/dist_train.sh configs/cae_vitb.py 8
#
# They report after 1600 epochs: linear 70.3 %, fine-tuning 83.9 %, ADE20K (UperNet) 50.3 mIoU, COCO 50.3 box AP and
# 44.2 mask AP. That is with codes of DALL-E's tokenizer, whose weights are somebody else's; the codes here need none,
# so these are not the numbers of this config. Crops (a fifth of the image at least) and the end of the cosine (0) are
# those of our other configs. Not run at this scale yet. Cost: 2.3e20 FLOP (counted), some 63 hours on 8 A100 at 40 %
# (computed).
#
# The encoder has layer scale: downstream configs want `backbone.layer_scale_init_value=0.1`, or an exported encoder,
# into which it is folded (tools/model_converters/export_backbone.py CHECKPOINT OUT).
_base_ = [
    './_base_/datasets/imagenet.py',
    './_base_/schedules/adamw_400e.py',
    './_base_/default_runtime.py',
]
max_epochs = 1600
warmup_epochs = 10  # mmpretrain's for 300 epochs

model = dict(
    type='mmpl.CAE',
    data_preprocessor=dict(
        type='SelfSupDataPreprocessor', mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], bgr_to_rgb=True
    ),
    backbone=dict(
        type='mmpl.MaskedViT',
        arch='b',
        img_size=224,
        patch_size=16,
        drop_path_rate=0.1,
        layer_cfgs=dict(layer_scale_init_value=0.1),
    ),
    masking=dict(
        type='mmpl.BlockMasking',  # or 'mmpl.RandomMasking'
        mask_ratio=0.5,  # 98 of 196 patches
        min_block=0.08,  # least area of a rectangle, as a share of the patches
        max_aspect=3.3,
        seed=0,
    ),
    regressor=dict(depth=4, layer_scale_init_value=0.1),
    neck=dict(type='mmpl.CodeDecoder', depth=4, layer_scale_init_value=0.1),
    tokenizer=dict(
        type='mmpl.RandomTokenizer',  # or 'mmpl.OnlineTokenizer', with `momentum` in place of `code_dims` and `seed`
        num_codes=8192,
        code_dims=16,
        norm_pix=True,
        seed=0,
    ),
    loss_weights=dict(code=1.0, align=2.0),
)

train_dataloader = dict(batch_size=256)
optim_wrapper = dict(
    optimizer=dict(lr=1.5e-3, betas=(0.9, 0.999), weight_decay=0.05),
    clip_grad=dict(max_norm=3.0),
    paramwise_cfg=dict(custom_keys={'gamma': dict(decay_mult=0.0)}),
)
auto_scale_lr = dict(base_batch_size=2048)
param_scheduler = [
    dict(_base_.param_scheduler[0], end=warmup_epochs),
    dict(_base_.param_scheduler[1], begin=warmup_epochs, end=max_epochs),
]
train_cfg = dict(max_epochs=max_epochs)
custom_hooks = [_base_.teacher_hook, _base_.probe, _base_.non_finite_hook]
