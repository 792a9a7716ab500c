# The student sees the image as its teachers do.
_base_ = './pl_mae.py'

model = dict(jitter=None)
