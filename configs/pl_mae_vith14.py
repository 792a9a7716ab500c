# PL-MAE, ViT-H/14, ImageNet-1K, 400 epochs, split over all GPUs.
#
#   NNODES=4 NODE_RANK=0 MASTER_ADDR=host0 tools/dist_train.sh configs/pl_mae_vith14.py 8   # on each machine
#
# Encoder and decoder are those of MAE's ViT-H (table 8 and section A.1); all else is the recipe of pl_mae_vitb.
_base_ = ['./pl_mae_vitb.py', './_base_/fully_sharded.py']

model = dict(backbone=dict(arch='h', patch_size=14, with_cp=True))  # with_cp: less memory for a second forward pass
train_dataloader = dict(batch_size=128)  # 4,096 on 32 GPUs
