# MSA on the images of easy-vqa, for tools/benchmarks/vqa.sh:
#
#   python tools/train.py configs/benchmarks/vqa/msa.py --work-dir work_dirs/vqa_msa
_base_ = ['../methods/msa.py', './_easy_vqa.py']

model = dict(
    data_preprocessor=_base_.easy_vqa_pixels,
    backbone=dict(img_size=64),
    head=dict(norm_pix=False),  # patches that are standardised by themselves have no colour, which is asked for
)
views = dict(
    type='mmpl.TwoViews',
    geometry=[
        dict(type='mmpl.BoxedResizedCrop', scale=64, crop_ratio_range=(0.4, 1.0)),
        dict(type='RandomFlip', prob=0.5),
    ],
    own_crop=True,
    strong=[dict(type='ColorJitter', brightness=0.2, contrast=0.2)],  # colours are asked for: no hue, no saturation
)
pipeline = [dict(type='LoadImageFromFile'), views, dict(type='PackInputs', meta_keys=('view_boxes',))]
images = dict(_base_.easy_vqa_images)
images.update(pipeline=pipeline)
train_dataloader = dict(dataset=dict(_delete_=True, **images))
log_level = 'INFO'
train_cfg = _base_.easy_vqa_small_batches.train_cfg
param_scheduler = _base_.easy_vqa_small_batches.param_scheduler
default_hooks = dict(checkpoint=dict(_base_.easy_vqa_checkpoint, interval=1200))
