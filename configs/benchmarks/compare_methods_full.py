# Five seeds, ten times the images.
_base_ = './compare_methods.py'

images = 768_000
seeds = [0, 1, 2, 3, 4]
