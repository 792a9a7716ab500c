# GreenMIM: pixels of masked units of 8 x 8, the same ones in all images of a step. The Swin transformer is that of
# simmim.py, but encodes the visible units only. What was searched: docs/evidence/tried.md. Biases
# of relative positions decay here (../../green_mim_swinb.py: they do not).
_base_ = './_surfaces.py'

model = dict(
    type='mmpl.GreenMIM',
    data_preprocessor=_base_.data_preprocessor,
    backbone=dict(
        type='mmpl.MaskedSwin',
        arch=dict(embed_dims=48, depths=[2, 2], num_heads=[2, 4]),
        img_size=32,
        patch_size=4,
        window_size=4,
    ),
    masking=dict(mask_ratio=0.75),
    neck=dict(type='mmpl.TokenDecoder', decoder_embed_dims=96, depth=1, num_heads=3),
)
custom_hooks = [dict(type='mmpl.DualTeacherHook')]
optim_wrapper = dict(paramwise_cfg=dict(custom_keys=dict(_delete_=True, mask_token=dict(decay_mult=0.0))))
