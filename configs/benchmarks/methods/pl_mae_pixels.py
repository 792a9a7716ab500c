# Pixels instead of token features, and labels of the class token alone.
_base_ = './pl_mae.py'

model = dict(
    head=dict(_delete_=True, type='mmpl.TokenReconHead', target='pixel', norm_pix=True), loss_weights=dict(label_data=0)
)
