# PL-MAE: class labels and data labels, token targets, two teachers; four masks an image share their work. What each
# choice gained: docs/evidence/tried.md.
_base_ = './_surfaces.py'

model = dict(
    type='mmpl.PLMAE',
    data_preprocessor=_base_.data_preprocessor,
    backbone=dict(type='mmpl.MaskedViT', embed_visible_only=True, **_base_.encoder),
    masking=dict(mask_ratio=0.75, num_masks=4, predict_ratio=0.5),
    neck=dict(type='mmpl.TokenDecoder', decoder_embed_dims=96, depth=1, num_heads=3),
    head=dict(type='mmpl.TokenReconHead', loss='l2', target_norm='position_layer', target_blocks=4),
    jitter=dict(strength=0.5),  # of what the student sees; teachers see the image as it is
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
    momentum_recon=dict(horizon=0.02, end=1.0),
    loss_weights=dict(label_cls=0.1, label_data=0.02),
)
custom_hooks = [dict(type='mmpl.DualTeacherHook')]
train_dataloader = dict(batch_size=64)
optim_wrapper = dict(optimizer=dict(lr=3e-3))
