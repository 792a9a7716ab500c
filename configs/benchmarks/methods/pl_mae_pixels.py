# Pixels instead of token features, with labels.
_base_ = './pl_mae.py'

model = dict(head=dict(target='pixel', norm_pix=True))
