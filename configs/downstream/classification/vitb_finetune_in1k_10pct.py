# Few-shot: fine-tuning on 10 % of ImageNet-1K's labels (about 128 images per class), ViT-B/16.
#
#   torchrun --nproc_per_node=8 tools/train.py configs/downstream/classification/vitb_finetune_in1k_10pct.py \
#       --launcher pytorch --amp --cfg-options model.backbone.init_cfg.checkpoint=CHECKPOINT
#
# data/imagenet/meta/train_10percent.txt lists the images, '<wnid>/<file> <class index>' a line, classes counted in the
# order of their wnids. So that numbers compare, take the list that SimCLR published, of bare file names. In
# data/imagenet, with all of train/ in place:
#
#   curl -fsSLO https://raw.githubusercontent.com/google-research/simclr/master/imagenet_subsets/10percent.txt
#   ls train | awk -F_ 'NR==FNR {n[$1]=NR-1; next} {print $1 "/" $0, n[$1]}' - 10percent.txt > meta/train_10percent.txt
#
# Cost: 100 epochs of 128 k images are 1.4e18 FLOP, some 3 A100 hours at 40 % utilisation: computed, not measured.
# Reference: none; papers differ in protocol here. Schedule and learning rate are our choice.
_base_ = './vitb_finetune_100e_in1k.py'

train_dataloader = dict(batch_size=64, dataset=dict(ann_file='meta/train_10percent.txt'))
optim_wrapper = dict(optimizer=dict(lr=1e-3), paramwise_cfg=dict(layer_decay_rate=0.75))
auto_scale_lr = dict(base_batch_size=512)  # 8 GPUs x 64, which the learning rate is for
