# The embedded scenes for mmdet, 96 x 96 with 2 to 6 digits. No flips: a mirrored digit is another one.
embedded_dataset = dict(type='mmpl.EmbeddedCocoDataset', data_root='data/mmpl_embedded/', size='demo')
embedded_train_dataloader = dict(
    batch_size=8,
    num_workers=0,
    sampler=dict(type='DefaultSampler', shuffle=True),
    dataset=dict(
        split='train',
        pipeline=[
            dict(type='LoadImageFromFile'),
            dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
            dict(type='Resize', scale=(96, 96), keep_ratio=True),
            dict(type='PackDetInputs'),
        ],
        **embedded_dataset,
    ),
)
embedded_val_dataloader = dict(
    batch_size=8,
    num_workers=0,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        split='val',
        test_mode=True,
        pipeline=[
            dict(type='LoadImageFromFile'),
            dict(type='Resize', scale=(96, 96), keep_ratio=True),
            dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
            dict(type='PackDetInputs', meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor')),
        ],
        **embedded_dataset,
    ),
)
embedded_ann_file = 'data/mmpl_embedded/demo/coco/annotations/instances_val.json'
