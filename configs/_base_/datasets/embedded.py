# Handwritten digits, 32 x 32, made on first use from what the pip packages carry: 8,000 images to train on, 1,000 `val`
# to tune with and 1,000 `test` to report. The splits share no digit.
data_root = 'data/mmpl_embedded/'
data_preprocessor = dict(type='SelfSupDataPreprocessor', mean=[53.46] * 3, std=[57.20] * 3, bgr_to_rgb=True)

train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='RandomResizedCrop', scale=32, crop_ratio_range=(0.6, 1.0)),  # no flip: a mirrored digit is none
    dict(type='PackInputs'),
]
probe_pipeline = [dict(type='LoadImageFromFile'), dict(type='PackInputs')]

train_dataloader = dict(
    batch_size=64,
    num_workers=1,
    persistent_workers=True,
    drop_last=True,
    sampler=dict(type='DefaultSampler', shuffle=True),
    collate_fn=dict(type='default_collate'),
    dataset=dict(type='mmpl.EmbeddedClassification', data_root=data_root, split='train', pipeline=train_pipeline),
)

probe = dict(
    type='mmpl.FeatureProbeHook',
    interval=1,  # epochs
    before_train=True,  # the same encoder, randomly initialised
    linear='last',  # linear probe before training and at its end, kNN in between
    pool='avg',  # mean of the patch tokens
    k=20,
    temperature=0.07,
    train_dataloader=dict(
        batch_size=250,
        num_workers=0,
        dataset=dict(type='mmpl.EmbeddedClassification', data_root=data_root, split='train', pipeline=probe_pipeline),
    ),
    val_dataloader=dict(
        batch_size=250,
        num_workers=0,
        dataset=dict(type='mmpl.EmbeddedClassification', data_root=data_root, split='test', pipeline=probe_pipeline),
    ),
)
