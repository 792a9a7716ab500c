# MAE for 20 epochs, about as long as the 6 epochs of pl_mae_surfaces.py take.
_base_ = './mae_surfaces.py'

max_epochs = 20
train_cfg = dict(max_epochs=max_epochs)
param_scheduler = [
    dict(_base_.param_scheduler[0], end=0.1 * max_epochs),
    dict(_base_.param_scheduler[1], begin=0.1 * max_epochs, end=max_epochs),
]
