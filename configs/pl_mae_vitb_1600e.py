# PL-MAE, ViT-B/16, ImageNet-1K, 1600 epochs.
#
#   tools/dist_train.sh configs/pl_mae_vitb_1600e.py 8
_base_ = './pl_mae_vitb.py'

max_epochs = 1600
param_scheduler = [_base_.param_scheduler[0], dict(_base_.param_scheduler[1], end=max_epochs)]
train_cfg = dict(max_epochs=max_epochs)
