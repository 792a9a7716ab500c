# MSA on the embedded digits, ViT 96 x 4 with 64 patches; for two CPU cores.
#
#   python tools/train.py configs/msa_demo.py
_base_ = [
    './_base_/models/msa_vitb.py',
    './_base_/models/embedded_encoder.py',
    './_base_/datasets/embedded.py',
    './_base_/schedules/adamw_demo.py',
    './_base_/default_runtime.py',
]

# As pl_mae_demo where the two share something; what is MSA's own has not been tuned.
strong = [  # for grey digits: there is no colour to change, and solarised ones would be bright everywhere
    dict(type='RandomApply', transforms=[dict(type='ColorJitter', brightness=0.4, contrast=0.4)], prob=0.8),
    dict(type='GaussianBlur', magnitude_range=(0.1, 1.0), magnitude_std='inf', prob=0.5),
]
train_pipeline = [
    _base_.train_pipeline[0],  # load
    dict(type='mmpl.TwoViews', geometry=_base_.train_pipeline[1:2], strong=strong, own_crop=False),  # crop
    dict(type='PackInputs', meta_keys=('view_boxes',)),  # where the views lie; None unless own_crop
]

model = dict(
    data_preprocessor=_base_.data_preprocessor,
    backbone=dict(
        arch=dict(_delete_=True, **_base_.embedded_encoder.arch),
        img_size=_base_.embedded_encoder.img_size,
        patch_size=_base_.embedded_encoder.patch_size,
        embed_visible_only=True,
    ),
    masking=dict(num_masks=4, predict_ratio=0.5),
    neck=dict(decoder_embed_dims=64, depth=1, num_heads=4),
    # T, weights, momentum: of an earlier search on photographs (docs/evidence/tried.md); not tuned on these digits
    align_head=dict(hidden_dims=256, out_dims=64, temperature=0.1),
    momentum_align=dict(start=0.9),
    loss_weights=dict(align_cls=1.0, align_tokens=0.1),
)

custom_hooks = [_base_.teacher_hook, _base_.probe, _base_.non_finite_hook]
train_dataloader = dict(batch_size=32, dataset=dict(pipeline=train_pipeline))
default_hooks = dict(logger=dict(interval=25), checkpoint=dict(max_keep_ckpts=2))
