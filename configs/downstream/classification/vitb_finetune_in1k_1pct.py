# Few-shot: fine-tuning on 1 % of ImageNet-1K's labels (about 13 images per class), ViT-B/16.
#
#   torchrun --nproc_per_node=8 tools/train.py configs/downstream/classification/vitb_finetune_in1k_1pct.py \
#       --launcher pytorch --amp --cfg-options model.backbone.init_cfg.checkpoint=CHECKPOINT
#
# data/imagenet/meta/train_1percent.txt lists the images, '<wnid>/<file> <class index>' a line, classes counted in the
# order of their wnids. So that numbers compare, take the list that SimCLR published, of bare file names. In
# data/imagenet, with all of train/ in place:
#
#   curl -fsSLO https://raw.githubusercontent.com/google-research/simclr/master/imagenet_subsets/1percent.txt
#   ls train | awk -F_ 'NR==FNR {n[$1]=NR-1; next} {print $1 "/" $0, n[$1]}' - 1percent.txt > meta/train_1percent.txt
#
# Cost: 200 epochs of 12.8 k images are 2.7e17 FLOP, under one A100 hour: computed, not measured.
# Reference: none; papers differ in protocol here. Schedule and learning rate are our choice.
_base_ = './vitb_finetune_100e_in1k.py'

train_dataloader = dict(batch_size=64, dataset=dict(ann_file='meta/train_1percent.txt'))
model = dict(train_cfg=None)  # no mixup, no CutMix: with few labels they hide the little there is
optim_wrapper = dict(optimizer=dict(lr=1e-3), paramwise_cfg=dict(layer_decay_rate=0.75))
auto_scale_lr = dict(base_batch_size=512)  # 8 GPUs x 64, which the learning rate is for
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-4, by_epoch=True, begin=0, end=20, convert_to_iter_based=True),
    dict(type='CosineAnnealingLR', by_epoch=True, begin=20, end=200, eta_min=1e-6, convert_to_iter_based=True),
]
train_cfg = dict(by_epoch=True, max_epochs=200, val_interval=20)
