# The small sibling of vitb_frozen_10e_vqav2.py: vit_finetune_easy_vqa.py with a frozen encoder.
#
#   python tools/train.py configs/downstream/vqa/vit_frozen_easy_vqa.py \
#       --cfg-options model.backbone.init_cfg.checkpoint=CHECKPOINT
#
# From random weights: model.backbone.init_cfg=None. Cost: 9 minutes of one CPU core.
_base_ = './vit_finetune_easy_vqa.py'

model = dict(backbone=dict(frozen_stages=4))
