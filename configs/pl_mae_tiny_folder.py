# PL-MAE, ViT-Ti (192 wide, 12 blocks) at 64 x 64 with patches of 8, on a folder of your own images; for a CPU too.
#
#   mmpl pretrain /path/to/images --arch vit-t    (writes a config that inherits from this one, and runs it)
#   python tools/train.py configs/pl_mae_tiny_folder.py \
#       --cfg-options train_dataloader.dataset.data_root=/path/to/images
_base_ = './pl_mae_small_folder.py'

model = dict(
    backbone=dict(arch='deit-t', img_size=64),
    neck=dict(decoder_embed_dims=96, num_heads=3),
    label_head=dict(num_prototypes=256, hidden_dims=384, bottleneck_dims=64),
)
train_pipeline = [dict(_base_.train_pipeline[0], scale=64), *_base_.train_pipeline[1:]]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
