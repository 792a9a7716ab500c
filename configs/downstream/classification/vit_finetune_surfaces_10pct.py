# As vit_finetune_embedded_10pct.py, another small sibling of vitb_finetune_in1k_10pct.py: crops of photographs, patches
# of 8.
#
#   python tools/train.py configs/downstream/classification/vit_finetune_surfaces_10pct.py \
#       --cfg-options model.backbone.init_cfg.checkpoint=CHECKPOINT
#
# From random weights: model.backbone.init_cfg=None. Cost: about a minute on two CPU cores.
_base_ = ['./vit_finetune_embedded_10pct.py', '../../_base_/models/surfaces_encoder.py']

encoder = _base_.surfaces_encoder
model = dict(
    backbone=dict(arch=dict(**encoder.arch), img_size=encoder.img_size, patch_size=encoder.patch_size),
    head=dict(num_classes=16),
)
data_preprocessor = dict(num_classes=16, **_base_.surfaces_pixels)
train_dataloader = dict(dataset=dict(variant='surfaces'))
val_dataloader = dict(dataset=dict(variant='surfaces'))
test_dataloader = dict(dataset=dict(variant='surfaces'))
