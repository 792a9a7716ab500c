# PL-MAE with ViT-B/16 at 224 x 224. Sizes that follow from the backbone are filled in by the model.
model = dict(
    type='mmpl.PLMAE',
    data_preprocessor=dict(
        type='SelfSupDataPreprocessor', mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], bgr_to_rgb=True
    ),
    backbone=dict(type='mmpl.MaskedViT', arch='b', img_size=224, patch_size=16),
    masking=dict(
        type='mmpl.RandomMasking',
        mask_ratio=0.75,  # share of the patches hidden from the student
        num_masks=1,  # masks of one image per step; more of them share the teachers' forward passes
        predict_ratio=1.0,  # share of the masked places that the decoder predicts
        seed=0,
    ),
    neck=dict(type='mmpl.TokenDecoder', decoder_embed_dims=512, depth=8, num_heads=16),
    head=dict(
        type='mmpl.TokenReconHead',
        target='feature',  # 'feature' | 'discrete' | 'pixel'
        loss='smooth_l1',  # 'smooth_l1' | 'l2' | 'cosine'
        target_norm='layer',  # 'layer' | 'batch' | 'position' | 'position_layer' | 'none'
        target_blocks=1,  # mean of the teacher's last blocks
    ),
    label_head=dict(
        type='mmpl.PseudoLabelHead',
        num_prototypes=8192,
        hidden_dims=2048,
        bottleneck_dims=256,
        student_temp=0.1,
        warmup_teacher_temp=0.04,  # rises to teacher_temp over the first warmup_ratio of the run
        teacher_temp=0.07,
        warmup_ratio=0.1,
        assignment='centering',  # 'centering' | 'sinkhorn'
        center_momentum=0.9,
        student_norm='none',  # 'none' | 'batch'
        teacher_norm='none',  # 'none' | 'batch' | 'position': young encoders need one, see docs/evidence/tried.md
        chunk_size=4096,  # tokens whose logits are in memory at once
    ),
    data_label_head=dict(),  # fields in which the head of data tokens differs from label_head
    data_tokens='visible',  # 'visible' | 'masked' | 'all'
    teacher_input='full',  # 'full' | 'folds'
    # jitter=dict(strength=0.5): photometric jitter of what the student sees, see docs/evidence/tried.md
    teacher_view='same',  # 'same' | 'other': of mmpl.TwoViews the weak view, the student then sees the strong one
    shared_projector=False,  # one for both kinds of labels
    single_teacher=False,
    momentum_label=dict(start=0.996, end=1.0),  # labelling teacher, cosine over the run
    momentum_recon=dict(start=0.9995, end=1.0),  # reconstruction teacher
    loss_weights=dict(recon=1.0, label_cls=1.0, label_data=1.0),
)
