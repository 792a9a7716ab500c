# PL-MAE: two teachers, class labels and data labels, token targets; two masks an image share the teachers' work.
# What each choice gained: docs/evidence/tried.md.
_base_ = './_surfaces.py'

model = dict(
    type='mmpl.PLMAE',
    data_preprocessor=_base_.data_preprocessor,
    backbone=dict(type='mmpl.MaskedViT', embed_visible_only=True, **_base_.encoder),
    masking=dict(mask_ratio=0.75, num_masks=2),
    neck=dict(type='mmpl.TokenDecoder', decoder_embed_dims=64, depth=1, num_heads=4),
    head=dict(type='mmpl.TokenReconHead', loss='l2', target_norm='position_layer', target_blocks=4),
    label_head=dict(
        num_prototypes=256,
        hidden_dims=256,
        bottleneck_dims=64,
        assignment='sinkhorn',
        student_norm='batch',
        teacher_norm='batch',
        warmup_teacher_temp=0.025,
        teacher_temp=0.025,
    ),
    data_label_head=dict(teacher_norm='position'),
    momentum_label=dict(start=0.9, end=1.0),
    momentum_recon=dict(start=0.999, end=1.0),
    loss_weights=dict(label_cls=2.0, label_data=0.1),
)
custom_hooks = [dict(type='mmpl.DualTeacherHook')]
train_dataloader = dict(batch_size=64)
optim_wrapper = dict(optimizer=dict(lr=3e-3))
