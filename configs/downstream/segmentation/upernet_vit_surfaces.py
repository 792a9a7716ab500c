# As upernet_vit_embedded.py, a small sibling of upernet_vitb_160k_ade20k.py: scenes made of pieces of
# photographs, patches of 8.
#
#   python tools/train.py configs/downstream/segmentation/upernet_vit_surfaces.py \
#       --cfg-options model.backbone.init_cfg.checkpoint=CHECKPOINT
#
# From random weights: model.backbone.init_cfg=None. Cost: minutes on two CPU cores.
# Schedule and rates are the digits'. On another build (seed=1; its encoders had seen some of the held-out tiles,
# without labels) mIoU was 21.8, 20.9 from random weights and 25.9, 27.1 from PL-MAE (two runs each); from
# random weights also 21.9 without layer decay, and 24.2 at twice the iterations (one each).
_base_ = ['./upernet_vit_embedded.py', '../../_base_/models/surfaces_encoder.py']

encoder = _base_.surfaces_encoder
head = dict(num_classes=17, loss_decode=dict(class_weight=[0.2] + [1.0] * 16))
model = dict(
    data_preprocessor=dict(**_base_.surfaces_pixels),
    backbone=dict(arch=dict(**encoder.arch), img_size=encoder.img_size, patch_size=encoder.patch_size),
    neck=dict(rescales=[encoder.patch_size / stride for stride in (4, 8, 16, 32)]),
    decode_head=dict(**head),
    auxiliary_head=dict(**head),
)
train_dataloader = dict(dataset=dict(variant='surfaces'))
val_dataloader = dict(dataset=dict(variant='surfaces'))
test_dataloader = val_dataloader
