# No labels of data tokens.
_base_ = './pl_mae.py'

model = dict(loss_weights=dict(label_data=0))
