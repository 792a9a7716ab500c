# The fast form with one teacher instead of two.
_base_ = './pl_mae_fast.py'

model = dict(single_teacher=True)
