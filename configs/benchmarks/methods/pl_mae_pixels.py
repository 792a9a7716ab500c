# Pixels instead of token features, with labels.
_base_ = './pl_mae.py'

model = dict(head=dict(_delete_=True, type='mmpl.TokenReconHead', target='pixel', norm_pix=True))
