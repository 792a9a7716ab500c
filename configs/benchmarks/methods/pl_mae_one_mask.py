# One mask an image, and all masked places, as in the paper.
_base_ = './pl_mae.py'

model = dict(masking=dict(num_masks=1, predict_ratio=1.0))
