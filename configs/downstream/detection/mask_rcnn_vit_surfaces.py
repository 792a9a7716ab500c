# As mask_rcnn_vit_embedded.py, a small sibling of mask_rcnn_vitb_1x_coco.py: scenes made of pieces of
# photographs, patches of 8.
#
#   python tools/train.py configs/downstream/detection/mask_rcnn_vit_surfaces.py \
#       --cfg-options model.backbone.init_cfg.checkpoint=CHECKPOINT
#
# From random weights: model.backbone.init_cfg=None. Cost: minutes on two CPU cores.
# Tuned on another build (seed=1), one run each, box / mask AP from PL-MAE (random weights): lr 2.5e-4 14.3 / 15.6
# (6.9 / 7.6), 5e-4 16.4 / 17.4 (9.4 / 10.1), 1e-3 15.2 / 16.2 (8.8 / 9.6). At 2e-3, without flips and for 8 epochs,
# the box head hardly learns classes: 6.0 / 6.8 (4.5 / 5.0).
_base_ = ['./mask_rcnn_vit_embedded.py', '../../_base_/models/surfaces_encoder.py']

encoder = _base_.surfaces_encoder
strides = [8, 16, 32]  # pixels; the finest map is the encoder's own, as for the digits
model = dict(
    data_preprocessor=dict(**_base_.surfaces_pixels),
    backbone=dict(arch=dict(**encoder.arch), img_size=encoder.img_size, patch_size=encoder.patch_size, window_size=4),
    neck=dict(scale_factors=[encoder.patch_size / stride for stride in strides]),
    rpn_head=dict(anchor_generator=dict(strides=strides)),
    roi_head=dict(
        bbox_roi_extractor=dict(featmap_strides=strides, finest_scale=56),
        bbox_head=dict(num_classes=16),
        mask_roi_extractor=dict(featmap_strides=strides, finest_scale=56),
        mask_head=dict(num_classes=16),
    ),
    train_cfg=dict(rcnn=dict(sampler=dict(pos_fraction=0.5))),  # what is hard here is the class, not the ground
)
optim_wrapper = dict(optimizer=dict(lr=5e-4))
auto_scale_lr = dict(base_batch_size=2)
flip = dict(type='RandomFlip', prob=0.75, direction=['horizontal', 'vertical', 'diagonal'])
steps = _base_.train_dataloader.dataset.pipeline
train_dataloader = dict(batch_size=2, dataset=dict(variant='surfaces', pipeline=[*steps[:-1], flip, steps[-1]]))
val_dataloader = dict(dataset=dict(variant='surfaces'))
test_dataloader = val_dataloader
val_evaluator = dict(ann_file='data/mmpl_embedded/demo_surfaces/coco/annotations/instances_val.json')
test_evaluator = val_evaluator

max_epochs = 12  # 1,200 iterations of 2 scenes
param_scheduler = [
    dict(type='LinearLR', start_factor=0.001, by_epoch=False, begin=0, end=30),
    dict(type='CosineAnnealingLR', by_epoch=True, begin=0, end=max_epochs, eta_min=0.0, convert_to_iter_based=True),
]
train_cfg = dict(max_epochs=max_epochs, val_interval=max_epochs)
