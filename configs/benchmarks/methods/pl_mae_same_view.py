# The student sees the image as its teachers do, in its own colours.
_base_ = './pl_mae.py'

model = dict(teacher_view='same')
pipeline = [dict(type='LoadImageFromFile'), dict(type='PackInputs')]
train_dataloader = dict(dataset=dict(pipeline=pipeline))
