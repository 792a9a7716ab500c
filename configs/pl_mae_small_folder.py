# PL-MAE, ViT-S (384 wide, 12 blocks) at 96 x 96 with patches of 8, on a folder of your own images; one GPU or a CPU.
#
#   mmpl pretrain /path/to/images --arch vit-s    (writes a config that inherits from this one, and runs it)
#   python tools/train.py configs/pl_mae_small_folder.py \
#       --cfg-options train_dataloader.dataset.data_root=/path/to/images
#
# Decoder and heads are in proportion to the encoder. Jitter, weights and masks, and how labels are standardised, are
# what was measured on small images (docs/evidence/tried.md); balance of labels, sizes, epochs and clipping are our
# choice.
_base_ = './pl_mae_vitb_folder.py'

max_epochs = 100
warmup_epochs = 5

model = dict(
    backbone=dict(arch='deit-s', img_size=96, patch_size=8, embed_visible_only=True),
    masking=dict(num_masks=4, predict_ratio=0.5),  # masks share the teachers' work, half of the places are predicted
    neck=dict(decoder_embed_dims=192, depth=2, num_heads=6),  # half as wide as the encoder, heads of 32
    head=dict(loss='l2', target_norm='position_layer', target_blocks=4),
    jitter=dict(strength=0.5),  # of what the student sees: labels shall not follow the exposure
    label_head=dict(
        num_prototypes=512,
        hidden_dims=768,  # twice as wide as the encoder
        bottleneck_dims=128,
        assignment='sinkhorn',
        student_norm='batch',
        teacher_norm='batch',
        warmup_teacher_temp=0.025,
        teacher_temp=0.025,
    ),
    data_label_head=dict(teacher_norm='position'),
    momentum_label=dict(start=0.99),
    momentum_recon=dict(start=0.999),
    loss_weights=dict(label_cls=0.1, label_data=0.02),
)

train_pipeline = [
    dict(
        type='mmpl.LoadRandomResizedCrop',
        scale=96,
        crop_ratio_range=(0.4, 1.0),  # share of the area; a fifth of a small image would show other things
        interpolation='bicubic',
        flip_prob=0.5,
    ),
    dict(type='PackInputs'),
]
train_dataloader = dict(batch_size=64, num_workers=4, dataset=dict(pipeline=train_pipeline))
optim_wrapper = dict(optimizer=dict(lr=1e-3), clip_grad=dict(max_norm=3.0))  # for 64 images, four masks each
auto_scale_lr = dict(base_batch_size=64)
default_hooks = dict(logger=dict(interval=20), checkpoint=dict(interval=5, max_keep_ckpts=2))
param_scheduler = [
    dict(_base_.param_scheduler[0], end=warmup_epochs),
    dict(_base_.param_scheduler[1], begin=warmup_epochs, end=max_epochs),
]
train_cfg = dict(max_epochs=max_epochs)
custom_hooks = [_base_.teacher_hook, _base_.non_finite_hook]  # prototypes learn from the start
