# ImageNet-1K: data/imagenet/{train,val}/<wnid>/*.JPEG, as mmpretrain expects it.
dataset_type = 'ImageNet'
data_root = 'data/imagenet/'

train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='RandomResizedCrop', scale=224, crop_ratio_range=(0.2, 1.0), backend='pillow', interpolation='bicubic'),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackInputs'),
]
probe_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='ResizeEdge', scale=256, edge='short', backend='pillow', interpolation='bicubic'),
    dict(type='CenterCrop', crop_size=224),
    dict(type='PackInputs'),
]

train_dataloader = dict(
    batch_size=512,  # per GPU
    num_workers=8,
    persistent_workers=True,
    pin_memory=True,
    drop_last=True,
    sampler=dict(type='DefaultSampler', shuffle=True),
    collate_fn=dict(type='default_collate'),
    dataset=dict(type=dataset_type, data_root=data_root, split='train', pipeline=train_pipeline),
)

# kNN on frozen features while pre-training goes on; the linear probe has its own recipe in configs/downstream
probe = dict(
    type='mmpl.FeatureProbeHook',
    interval=20,  # epochs
    before_train=False,
    linear=False,
    k=20,
    temperature=0.07,
    max_train_images=100_000,  # a fixed random subset as the kNN's bank
    train_dataloader=dict(
        batch_size=128,
        num_workers=8,
        dataset=dict(type=dataset_type, data_root=data_root, split='train', pipeline=probe_pipeline),
    ),
    val_dataloader=dict(
        batch_size=128,
        num_workers=8,
        dataset=dict(type=dataset_type, data_root=data_root, split='val', pipeline=probe_pipeline),
    ),
)
