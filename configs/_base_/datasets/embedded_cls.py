# The embedded digits for mmpretrain's classifiers, one 32 x 32 image each. No flips, mixup or RandAugment: a mirrored
# digit is another one.
embedded_dataset = dict(
    type='mmpl.EmbeddedClassification',
    data_root='data/mmpl_embedded/',
    size='demo',
    pipeline=[dict(type='LoadImageFromFile'), dict(type='PackInputs')],
)
embedded_loader = dict(num_workers=0, persistent_workers=False, collate_fn=dict(type='default_collate'))
embedded_train_dataloader = dict(
    batch_size=64,
    sampler=dict(type='DefaultSampler', shuffle=True),
    dataset=dict(split='train', **embedded_dataset),
    **embedded_loader,
)
embedded_val_dataloader = dict(
    batch_size=250,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(split='val', **embedded_dataset),
    **embedded_loader,
)
embedded_test_dataloader = dict(
    batch_size=250,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(split='test', **embedded_dataset),
    **embedded_loader,
)
