# A linear head on the frozen ViT-B/16, ADE20K, 160k iterations at 512 x 512: what the patch tokens know by themselves.
#
#   torchrun --nproc_per_node=8 tools/train.py configs/downstream/segmentation/linear_vitb_160k_ade20k.py \
#       --launcher pytorch --amp --cfg-options model.backbone.init_cfg.checkpoint=CHECKPOINT
#
# Cost: 5e17 FLOP (107 GMAC forward x 2 x 2.56 M images), a few A100 hours: computed, not measured.
# Reference: none given; papers differ in protocol here (layers, norms, resolution). PL-MAE: not run by us.
_base_ = './upernet_vitb_160k_ade20k.py'

model = dict(
    backbone=dict(out_indices=[11], out_norm='last', frozen_stages=12, drop_path_rate=0.0),
    neck=None,
    decode_head=dict(
        _delete_=True,
        type='FCNHead',
        in_channels=768,
        channels=768,
        num_convs=0,
        concat_input=False,
        dropout_ratio=0.0,
        num_classes=150,
        align_corners=False,
        loss_decode=dict(type='CrossEntropyLoss', use_sigmoid=False, loss_weight=1.0),
    ),
    auxiliary_head=None,
)
optim_wrapper = dict(optimizer=dict(lr=1e-3, weight_decay=1e-4), paramwise_cfg=dict(layer_decay_rate=1.0))
