# MAE beside pl_mae_surfaces.py, with the comparison's settings (benchmarks/methods/mae.py): pixels, one mask, no label,
# mmpretrain's MAE up to rounding. As many images as PL-MAE there, in a third of its time.
_base_ = './pl_mae_surfaces.py'

model = dict(
    masking=dict(num_masks=1, predict_ratio=1.0),
    head=dict(_delete_=True, type='mmpl.TokenReconHead', target='pixel', norm_pix=True),
    jitter=None,
    label_head=None,
    data_label_head=None,
    loss_weights=dict(label_cls=0, label_data=0),
)
train_dataloader = dict(batch_size=128)
optim_wrapper = dict(optimizer=dict(lr=2e-3))
