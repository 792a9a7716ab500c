# The embedded scenes for mmseg, 96 x 96 with 2 to 6 digits. Eleven classes: the background and ten digits. No flips: a
# mirrored digit is another one.
embedded_dataset = dict(
    type='mmpl.EmbeddedSegDataset',
    data_root='data/mmpl_embedded/',
    size='demo',
    reduce_zero_label=False,
    pipeline=[
        dict(type='LoadImageFromFile'),
        dict(type='LoadAnnotations', reduce_zero_label=False),
        dict(type='PackSegInputs'),
    ],
)
embedded_train_dataloader = dict(
    batch_size=8,
    num_workers=0,
    sampler=dict(type='InfiniteSampler', shuffle=True),
    dataset=dict(split='train', **embedded_dataset),
)
embedded_val_dataloader = dict(
    batch_size=1,
    num_workers=0,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(split='val', test_mode=True, **embedded_dataset),
)
