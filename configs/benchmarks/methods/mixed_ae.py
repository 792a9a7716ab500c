# MixedAE: four images mixed into one, in two ways. What was searched: docs/evidence/tried.md; all else is as in
# ../../mixed_ae_vitb.py.
_base_ = './_surfaces.py'

model = dict(
    type='mmpl.MixedAE',
    data_preprocessor=_base_.data_preprocessor,
    backbone=dict(type='mmpl.MaskedViT', **_base_.encoder),
    masking=dict(num_masks=2),
    neck=dict(type='mmpl.TokenDecoder', decoder_embed_dims=96, depth=1, num_heads=3),
    head=dict(type='mmpl.TokenReconHead', target='pixel', norm_pix=True),
    contrast_head=dict(hidden_dims=256, out_dims=64),
)
train_dataloader = dict(batch_size=64)
optim_wrapper = dict(optimizer=dict(lr=3e-3), paramwise_cfg=dict(custom_keys=dict(segment_embed=dict(decay_mult=0.0))))
custom_hooks = [dict(type='mmpl.DualTeacherHook')]
