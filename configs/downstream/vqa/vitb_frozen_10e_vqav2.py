# Visual question answering as in vitb_finetune_10e_vqav2.py, with a frozen encoder: what its tokens hold as they are.
#
#   torchrun --nproc_per_node=8 tools/train.py configs/downstream/vqa/vitb_frozen_10e_vqav2.py \
#       --launcher pytorch --amp --cfg-options model.backbone.init_cfg.checkpoint=CHECKPOINT
#
# Cost: 1.5e18 FLOP ((55 + 3 x 40) GMAC x 2 x 444 k x 10), some 4 A100 hours at 40 % utilisation: computed, not
# measured.
# Reference: none. Not run at this scale yet.
_base_ = './vitb_finetune_10e_vqav2.py'

model = dict(backbone=dict(frozen_stages=12))
