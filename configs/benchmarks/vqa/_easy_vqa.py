# What pre-training on the images of easy-vqa (64 x 64, mostly white) changes in the configs of ../methods: the encoder
# has 64 patches of 8, as that of ../../downstream/vqa/vit_*_easy_vqa.py. An image comes as often as it is asked about.
easy_vqa_images = dict(
    type='mmpl.EasyVQADataset',
    data_root='data/mmpl_embedded/',
    pipeline=[dict(type='LoadImageFromFile'), dict(type='PackInputs')],
)
easy_vqa_pixels = dict(mean=[230.0] * 3, std=[50.0] * 3)
easy_vqa_checkpoint = dict(
    _delete_=True, type='mmpl.SafeCheckpointHook', by_epoch=False, interval=600, max_keep_ckpts=1
)
easy_vqa_small_batches = dict(  # of 64 images: as many images as MAE sees in 600 steps of 128
    train_cfg=dict(max_iters=1200),
    param_scheduler=[
        dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=120),
        dict(type='CosineAnnealingLR', by_epoch=False, begin=120, end=1200),
    ],
)
