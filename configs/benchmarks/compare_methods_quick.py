# One seed, a tenth of the images and the main data: what the default bench does, in minutes.
_base_ = './compare_methods.py'

images = 7_680
seeds = [0]
data = dict(_delete_=True, surfaces=_base_.data.surfaces)
methods = dict(one_teacher=dict(data=['surfaces']), pixels=dict(data=['surfaces']))
