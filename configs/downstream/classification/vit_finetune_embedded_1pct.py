# Few-shot on the embedded digits: 1 % of the labels. The small sibling of vitb_finetune_in1k_1pct.py.
#
#   python tools/train.py configs/downstream/classification/vit_finetune_embedded_1pct.py \
#       --cfg-options model.backbone.init_cfg.checkpoint=CHECKPOINT
#
# From random weights: model.backbone.init_cfg=None. Cost: about a minute on two CPU cores.
_base_ = './vit_finetune_embedded.py'

train_dataloader = dict(batch_size=16, dataset=dict(fraction=0.01))
auto_scale_lr = dict(base_batch_size=16)  # the learning rate is for 16, not for 64
train_cfg = dict(max_epochs=100, val_interval=50)
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-4, by_epoch=True, begin=0, end=10, convert_to_iter_based=True),
    dict(type='CosineAnnealingLR', by_epoch=True, begin=10, end=100, eta_min=1e-6, convert_to_iter_based=True),
]
default_hooks = dict(checkpoint=dict(interval=50))
