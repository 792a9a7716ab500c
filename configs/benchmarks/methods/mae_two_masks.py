# MAE with two masks an image: PL-MAE without teachers. One mask would be mmpretrain's MAE bit for bit.
_base_ = './mae.py'

model = dict(
    _delete_=True,
    type='mmpl.PLMAE',
    data_preprocessor=_base_.data_preprocessor,
    backbone=dict(type='mmpl.MaskedViT', embed_visible_only=True, **_base_.encoder),
    masking=dict(mask_ratio=0.75, num_masks=2),
    neck=dict(type='mmpl.TokenDecoder', decoder_embed_dims=64, depth=1, num_heads=4),
    head=dict(type='mmpl.TokenReconHead', target='pixel', norm_pix=True),
    loss_weights=dict(label_cls=0.0, label_data=0.0),
)
train_dataloader = dict(batch_size=64)
