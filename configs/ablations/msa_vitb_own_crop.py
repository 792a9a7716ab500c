# Ablation: the strong view has a crop and a flip of its own; data tokens are matched where the two overlap.
#
#   tools/dist_train.sh configs/ablations/msa_vitb_own_crop.py 8
_base_ = '../msa_vitb.py'

geometry = [dict(_base_.train_pipeline[1].geometry[0], type='mmpl.BoxedResizedCrop'), dict(type='RandomFlip', prob=0.5)]
train_pipeline = [
    _base_.train_pipeline[0],
    dict(_base_.train_pipeline[1], geometry=geometry, own_crop=True),
    _base_.train_pipeline[2],
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
