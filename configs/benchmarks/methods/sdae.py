# SdAE: the teacher sees the masked patches in folds of four. It moves at each step, and looks back as far, in shares of
# the run, as with the paper's 0.96 -> 0.99 once an epoch of 300. No path is dropped (../../sdae_vitb.py: a
# quarter). What was searched: docs/evidence/tried.md.
_base_ = './_surfaces.py'

model = dict(
    type='mmpl.SdAE',
    data_preprocessor=_base_.data_preprocessor,
    backbone=dict(type='mmpl.MaskedViT', **_base_.encoder),
    masking=dict(mask_ratio=0.75),
    neck=dict(type='mmpl.TokenDecoder', decoder_embed_dims=96, depth=1, num_heads=3),
    momentum=dict(horizon=0.083, end_horizon=0.33),
)
custom_hooks = [dict(type='mmpl.DualTeacherHook')]
train_dataloader = dict(batch_size=64)
