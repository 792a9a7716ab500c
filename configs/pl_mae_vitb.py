# PL-MAE, ViT-B/16, ImageNet-1K, 400 epochs.
#
#   tools/dist_train.sh configs/pl_mae_vitb.py 8
#
# Not run at this scale yet: no result to expect is stated. Memory falls with train_dataloader.batch_size;
# the learning rate follows it.
_base_ = [
    './_base_/models/pl_mae_vitb.py',
    './_base_/datasets/imagenet.py',
    './_base_/schedules/adamw_400e.py',
    './_base_/default_runtime.py',
]

optim_wrapper = dict(clip_grad=dict(max_norm=3.0))  # from MC-SSL, as iBOT and DINO
frozen_prototypes_hook = dict(
    type='mmpl.FrozenWarmupHook',
    parts=['label_heads.*.prototypes'],
    epochs=1,  # from MC-SSL, as iBOT and DINO
)
custom_hooks = [_base_.teacher_hook, _base_.probe, _base_.non_finite_hook, frozen_prototypes_hook]
