# Class labels of another crop, as in MC-SSL; what belongs to places (data labels, token features) is not taught then.
_base_ = './pl_mae_pixels.py'

model = dict(teacher_view='other')
views = dict(
    type='mmpl.TwoViews',
    geometry=[
        dict(type='mmpl.BoxedResizedCrop', scale=32, crop_ratio_range=(0.4, 1.0)),
        dict(type='RandomFlip', prob=0.5),
    ],
    own_crop=True,
)
pipeline = [dict(type='LoadImageFromFile'), views, dict(type='PackInputs', meta_keys=('view_boxes',))]
train_dataloader = dict(dataset=dict(pipeline=pipeline))
