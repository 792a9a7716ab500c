# PL-MAE on the images of easy-vqa, for tools/benchmarks/vqa.sh:
#
#   python tools/train.py configs/benchmarks/vqa/pl_mae.py --work-dir work_dirs/vqa_pl_mae
_base_ = ['../methods/pl_mae_pixels.py', './_easy_vqa.py']

model = dict(
    data_preprocessor=_base_.easy_vqa_pixels,
    backbone=dict(img_size=64),
    head=dict(norm_pix=False),  # colours are asked for, which features that are standardised by place do not keep
    jitter=None,  # it shifts the colours
)
train_dataloader = dict(dataset=dict(_delete_=True, **_base_.easy_vqa_images))
log_level = 'INFO'
train_cfg = _base_.easy_vqa_small_batches.train_cfg
param_scheduler = _base_.easy_vqa_small_batches.param_scheduler
default_hooks = dict(checkpoint=dict(_base_.easy_vqa_checkpoint, interval=1200))
