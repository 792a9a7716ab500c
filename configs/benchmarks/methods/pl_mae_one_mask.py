# One mask an image, as in the paper.
_base_ = './pl_mae.py'

model = dict(masking=dict(num_masks=1))
