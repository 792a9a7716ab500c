# MAE on the images of easy-vqa, for tools/benchmarks/vqa.sh:
#
#   python tools/train.py configs/benchmarks/vqa/mae.py --work-dir work_dirs/vqa_mae
_base_ = ['../methods/mae.py', './_easy_vqa.py']

model = dict(
    data_preprocessor=_base_.easy_vqa_pixels,
    backbone=dict(img_size=64),
    neck=dict(num_patches=64),
    head=dict(norm_pix=False),  # patches that are standardised by themselves have no colour, which is asked for
)
train_dataloader = dict(dataset=dict(_delete_=True, **_base_.easy_vqa_images))
log_level = 'INFO'
default_hooks = dict(checkpoint=_base_.easy_vqa_checkpoint)
