# CAE-style: codes of a frozen random projection, which need no weights; blocks of half of the patches. The
# encoder has no layer scale and drops no path (../../cae_vitb.py: 0.1 each); scales of regressor and decoder decay
# (there they do not). What was searched: docs/evidence/tried.md.
_base_ = './_surfaces.py'

model = dict(
    type='mmpl.CAE',
    data_preprocessor=_base_.data_preprocessor,
    backbone=dict(type='mmpl.MaskedViT', embed_visible_only=True, **_base_.encoder),
    masking=dict(type='mmpl.BlockMasking', mask_ratio=0.5),
    regressor=dict(depth=2),
    neck=dict(type='mmpl.CodeDecoder', depth=1),
    tokenizer=dict(num_codes=256),
    loss_weights=dict(align=0.25),  # the paper's is 2
)
custom_hooks = [dict(type='mmpl.DualTeacherHook')]
train_dataloader = dict(batch_size=64)
optim_wrapper = dict(optimizer=dict(lr=1e-3))
