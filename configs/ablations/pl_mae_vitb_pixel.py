# Ablation: pixels instead of token features, no labels. This is MAE, bit for bit.
#
#   tools/dist_train.sh configs/ablations/pl_mae_vitb_pixel.py 8
_base_ = '../pl_mae_vitb.py'

model = dict(
    head=dict(_delete_=True, type='mmpl.TokenReconHead', target='pixel', norm_pix=True),
    loss_weights=dict(label_cls=0, label_data=0),
)
optim_wrapper = dict(clip_grad=None)
custom_hooks = [_base_.teacher_hook, _base_.probe, _base_.non_finite_hook]  # there are no prototypes
