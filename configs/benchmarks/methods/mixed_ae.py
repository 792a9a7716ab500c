# MixedAE: four images mixed into one, with as many encoded patches as MAE. Untuned: the fields are those of
# ../../mixed_ae_vitb.py.
_base_ = './_surfaces.py'

model = dict(
    type='mmpl.MixedAE',
    data_preprocessor=_base_.data_preprocessor,
    backbone=dict(type='mmpl.MaskedViT', **_base_.encoder),
    neck=dict(type='mmpl.TokenDecoder', decoder_embed_dims=96, depth=1, num_heads=3),
    head=dict(type='mmpl.TokenReconHead', target='pixel', norm_pix=True),
    contrast_head=dict(hidden_dims=256, out_dims=64),
)
optim_wrapper = dict(paramwise_cfg=dict(custom_keys=dict(segment_embed=dict(decay_mult=0.0))))
custom_hooks = [dict(type='mmpl.DualTeacherHook')]
