# One projector for the labels of class and data tokens, as in MC-SSL.
_base_ = './pl_mae.py'

model = dict(shared_projector=True)
