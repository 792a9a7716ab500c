# PL-MAE, ViT-B/16, ImageNet-1K, at less cost a masked view than MAE. What each line gained: docs/performance.md.
#
#   tools/dist_train.sh configs/pl_mae_vitb_fast.py 8
#
# An image is loaded once and seen through eight masks, so an epoch is eight times the views of pl_mae_vitb.py.
_base_ = './pl_mae_vitb.py'

max_epochs = 100
warmup_epochs = 10

model = dict(
    single_teacher=True,  # two gained nothing in short runs (docs/evidence.md); pl_mae_vitb.py has the paper's two
    masking=dict(num_masks=8, predict_ratio=0.5),  # the teacher's forward pass serves eight masks
    neck=dict(depth=2),
    label_head=dict(logits_dtype='bfloat16'),
    # It gives the features too, which want a longer look back than labels: as that of the runs in docs/evidence.md.
    momentum_label=dict(_delete_=True, horizon=0.008, end=1.0),
)
optim_wrapper = dict(optimizer=dict(fused=True))
auto_scale_lr = dict(base_batch_size=512)  # images; in masked views it is the 4096 of the other configs

train_pipeline = [
    dict(
        type='mmpl.LoadRandomResizedCrop',
        scale=224,
        crop_ratio_range=(0.2, 1.0),
        interpolation='bicubic',
        flip_prob=0.5,
    ),
    dict(type='PackInputs'),
]
train_dataloader = dict(batch_size=64, dataset=dict(pipeline=train_pipeline))  # 512 masked views a GPU

param_scheduler = [
    dict(_base_.param_scheduler[0], end=warmup_epochs),
    dict(_base_.param_scheduler[1], begin=warmup_epochs, end=max_epochs),
]
train_cfg = dict(max_epochs=max_epochs)
