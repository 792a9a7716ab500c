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
