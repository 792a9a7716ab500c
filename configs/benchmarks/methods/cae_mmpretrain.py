# CAE: mmpretrain's own classes, unmodified, with the codes of DALL-E's tokenizer. Its weights are somebody else's
# (mmpretrain's CAE config names their address): put the file at data/dalle_encoder.pth. Depths and masks are those of
# cae.py, the image is seen as it is, and its 16 codes are of 8 x 8 pixels. Untuned.
_base_ = './_surfaces.py'

tokenizer = 'data/dalle_encoder.pth'
model = dict(
    type='CAE',
    data_preprocessor=dict(
        _base_.data_preprocessor,
        type='TwoNormDataPreprocessor',
        second_mean=[-31.875] * 3,  # DALL-E's
        second_std=[318.75] * 3,
        to_rgb=True,
    ),
    backbone=dict(type='CAEPretrainViT', layer_scale_init_value=0.1, bias='qv_bias', **_base_.encoder),
    neck=dict(
        type='CAENeck',
        embed_dims=96,
        num_heads=3,
        regressor_depth=2,
        decoder_depth=1,
        mask_tokens_num=8,
        layer_scale_init_value=0.1,
    ),
    head=dict(type='CAEHead', loss=dict(type='CAELoss', lambd=2)),
    target_generator=dict(type='DALL-E', init_cfg=dict(type='Pretrained', checkpoint=tokenizer)),
    base_momentum=0.0,
)
model['data_preprocessor'].pop('bgr_to_rgb')
views = dict(
    type='RandomResizedCropAndInterpolationWithTwoPic',
    size=32,
    second_size=32,
    interpolation='bicubic',
    second_interpolation='lanczos',
    scale=(1.0, 1.0),
    ratio=(1.0, 1.0),
)
masks = dict(
    type='BEiTMaskGenerator', input_size=(4, 4), num_masking_patches=8, max_num_patches=None, min_num_patches=2
)
train_dataloader = dict(dataset=dict(pipeline=[dict(type='LoadImageFromFile'), views, masks, dict(type='PackInputs')]))
