# PL-MAE, ViT-S/16 (384 wide, 12 blocks), ImageNet-1K, 400 epochs.
#
#   tools/dist_train.sh configs/pl_mae_vits.py 8
_base_ = './pl_mae_vitb.py'

model = dict(backbone=dict(arch='deit-s'), label_head=dict(num_prototypes=4096))
