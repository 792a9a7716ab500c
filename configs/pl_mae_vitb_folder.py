# PL-MAE, ViT-B/16, on any folder of your own images: no labels, any depth of sub-folders.
#
#   tools/dist_train.sh configs/pl_mae_vitb_folder.py 8 --cfg-options train_dataloader.dataset.data_root=/path/to/images
# Images of more than 8 bits, of other bands, of many pages: docs/own_images.md.
_base_ = './pl_mae_vitb.py'

train_pipeline = [dict(type='mmpl.LoadImage'), *_base_.train_pipeline[1:]]
train_dataloader = dict(
    dataset=dict(_delete_=True, type='mmpl.UnlabelledFolder', data_root='data/images/', pipeline=train_pipeline)
)
# without labels there is nothing to probe
custom_hooks = [_base_.teacher_hook, _base_.non_finite_hook, _base_.frozen_prototypes_hook]
