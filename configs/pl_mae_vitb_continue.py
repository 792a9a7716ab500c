# PL-MAE on a folder of your own images, continued from public weights: MAE's ViT-B/16, or any others that mmpl reads.
#
#   mmpl pretrain /path/to/images --from mae_pretrain_vit_base.pth \
#       --mean 123.675 116.28 103.53 --std 58.395 57.12 57.375    (writes a config that inherits from this one)
#   python tools/train.py configs/pl_mae_vitb_continue.py \
#       --cfg-options load_from=mae_pretrain_vit_base.pth train_dataloader.dataset.data_root=/path/to/images
#
# All numbers are our choice. Layer-wise decay of the learning rate:
#   optim_wrapper.constructor=mmpl.LayerDecayOptimWrapperConstructor optim_wrapper.paramwise_cfg.layer_decay_rate=0.75
_base_ = './pl_mae_small_folder.py'

model = dict(
    backbone=dict(arch='b', img_size=224, patch_size=16),  # of the weights; positions are interpolated to img_size
    neck=dict(decoder_embed_dims=384, num_heads=12),
    label_head=dict(num_prototypes=1024, hidden_dims=1536, bottleneck_dims=256),
    momentum_label=dict(start=0.996),
    momentum_recon=dict(start=0.9995),
)
train_pipeline = [dict(_base_.train_pipeline[0], scale=224), *_base_.train_pipeline[1:]]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
optim_wrapper = dict(optimizer=dict(lr=1e-4))  # a tenth of a run from the start, for 64 images

frozen_warmup_hook = dict(
    type='mmpl.FrozenWarmupHook',
    parts=['backbone'],  # stays as it is while the new heads and the decoder learn what it says
    epochs=2,
)
continue_guard_hook = dict(
    type='mmpl.ContinueGuardHook',
    epochs=5,  # after each of the first, and after the last, features are compared with those of the start
    num_images=256,
    tolerated=0.3,  # share of a figure that may be lost before it is warned of
)
custom_hooks = [*_base_.custom_hooks, frozen_warmup_hook, continue_guard_hook]

load_from = 'mae_pretrain_vit_base.pth'
