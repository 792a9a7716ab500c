# One seed and a fifth of the images: what the default bench does, in minutes.
_base_ = './compare_methods.py'

images = 15_360
seeds = [0]
