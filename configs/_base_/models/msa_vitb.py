# MSA with ViT-B/16 at 224 x 224. Sizes that follow from the backbone are filled in by the model.
model = dict(
    type='mmpl.MSA',
    data_preprocessor=dict(
        type='SelfSupDataPreprocessor', mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], bgr_to_rgb=True
    ),
    backbone=dict(type='mmpl.MaskedViT', arch='b', img_size=224, patch_size=16),
    masking=dict(
        type='mmpl.RandomMasking',
        mask_ratio=0.75,  # share of the patches hidden from the student
        num_masks=1,  # masks of one image per step; more of them share the teacher's forward pass
        predict_ratio=1.0,  # share of the masked places that the decoder predicts
        seed=0,
    ),
    neck=dict(type='mmpl.TokenDecoder', decoder_embed_dims=512, depth=8, num_heads=16),
    head=dict(type='mmpl.TokenReconHead', target='pixel', norm_pix=True),  # of the weak view, as MAE
    align_head=dict(
        type='mmpl.AlignHead',
        loss='infonce',  # of class tokens: 'infonce' | 'cosine'
        num_layers=2,
        hidden_dims=2048,
        out_dims=256,
        norm='none',  # 'none' | 'batch'
        temperature=0.2,
    ),
    tokens_align_head=dict(loss='cosine'),  # of data tokens; further fields in which it differs from align_head
    momentum_align=dict(start=0.996, end=1.0),  # BYOL's, cosine over the run
    loss_weights=dict(recon=1.0, align_cls=1.0, align_tokens=1.0),
)
