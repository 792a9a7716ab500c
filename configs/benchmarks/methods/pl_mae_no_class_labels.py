# No labels of the class token.
_base_ = './pl_mae.py'

model = dict(loss_weights=dict(label_cls=0))
