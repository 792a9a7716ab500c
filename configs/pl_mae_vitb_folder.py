# PL-MAE, ViT-B/16, on any folder of your own images: no labels, any depth of sub-folders.
#
#   tools/dist_train.sh configs/pl_mae_vitb_folder.py 8 --cfg-options train_dataloader.dataset.data_root=/path/to/images
_base_ = './pl_mae_vitb.py'

train_dataloader = dict(
    dataset=dict(_delete_=True, type='mmpl.UnlabelledFolder', data_root='data/images/', pipeline=_base_.train_pipeline)
)
custom_hooks = [_base_.teacher_hook, _base_.non_finite_hook]  # without labels there is nothing to probe
