# PL-MAE, ViT-L/16, ImageNet-1K, 400 epochs.
#
#   tools/dist_train.sh configs/pl_mae_vitl.py 8
_base_ = './pl_mae_vitb.py'

model = dict(backbone=dict(arch='l', with_cp=True))  # with_cp: less memory for a second forward pass
train_dataloader = dict(batch_size=256)
