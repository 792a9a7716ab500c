# MSA: pixels of the weak view, alignment with the teacher's tokens of the strong view, which has a crop of its own; two
# masks an image share the teacher's work. What each choice gained: docs/evidence/tried.md.
_base_ = './_surfaces.py'

model = dict(
    type='mmpl.MSA',
    data_preprocessor=_base_.data_preprocessor,
    backbone=dict(type='mmpl.MaskedViT', embed_visible_only=True, **_base_.encoder),
    masking=dict(mask_ratio=0.75, num_masks=2),
    neck=dict(type='mmpl.TokenDecoder', decoder_embed_dims=96, depth=1, num_heads=3),
    head=dict(type='mmpl.TokenReconHead', target='pixel', norm_pix=True),
    align_head=dict(hidden_dims=256, out_dims=64, temperature=0.2, norm='batch'),
    momentum_align=dict(start=0.9, end=1.0),
    loss_weights=dict(align_cls=1.0, align_tokens=0.1),
)
custom_hooks = [dict(type='mmpl.DualTeacherHook')]

views = dict(
    type='mmpl.TwoViews',
    geometry=[
        dict(type='mmpl.BoxedResizedCrop', scale=32, crop_ratio_range=(0.4, 1.0)),
        dict(type='RandomFlip', prob=0.5),
    ],
    own_crop=True,
    strong=[
        dict(type='ColorJitter', brightness=0.4, contrast=0.4),  # the images are grey: no hue, no saturation
    ],
)
train_dataloader = dict(
    batch_size=64,
    dataset=dict(pipeline=[dict(type='LoadImageFromFile'), views, dict(type='PackInputs', meta_keys=('view_boxes',))]),
)
