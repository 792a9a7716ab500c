# One teacher instead of two.
_base_ = './pl_mae.py'

model = dict(single_teacher=True)
