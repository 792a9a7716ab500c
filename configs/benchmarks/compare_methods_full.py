# Five seeds, ten times the images, and a fourth data set, on which exposure varies more than content does.
_base_ = './compare_methods.py'

images = 768_000
seeds = [0, 1, 2, 3, 4]
data = dict(
    exposure=dict(
        label='surfaces, each with an exposure of its own',
        dataset=dict(variant='surfaces_exposure'),
        mean=124.5,
        std=48.1,
        num_classes=16,
        budgets=['images'],
    ),
)
