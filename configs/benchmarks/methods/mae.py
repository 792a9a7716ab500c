# MAE: mmpretrain's own classes, unmodified.
_base_ = './_surfaces.py'

model = dict(
    type='MAE',
    data_preprocessor=_base_.data_preprocessor,
    backbone=dict(type='MAEViT', mask_ratio=0.75, **_base_.encoder),
    neck=dict(
        type='MAEPretrainDecoder',
        num_patches=16,
        patch_size=8,
        embed_dim=96,
        decoder_embed_dim=96,
        decoder_depth=1,
        decoder_num_heads=3,
    ),
    head=dict(
        type='MAEPretrainHead', norm_pix=True, patch_size=8, loss=dict(type='PixelReconstructionLoss', criterion='L2')
    ),
)
