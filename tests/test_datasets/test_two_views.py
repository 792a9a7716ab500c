"""The two views of MSA on an image whose colour tells the place."""

import numpy as np
import pytest
import torch
from mmengine.registry import TRANSFORMS, init_default_scope

from mmpl.models import match_places

pytestmark = pytest.mark.smoke
GRID, SIDE = 4, 32
HEIGHT, WIDTH = 96, 128
INVERT = dict(type='Invert', prob=1.0)
CROP = dict(type='mmpl.BoxedResizedCrop', scale=SIDE, crop_ratio_range=(0.1, 0.8))
FLIP = dict(type='RandomFlip', prob=[0.25, 0.25, 0.25], direction=['horizontal', 'vertical', 'diagonal'])


def marker():
    """Each pixel says where it is: x in the first channel, y in the second."""
    image = np.zeros((HEIGHT, WIDTH, 3), dtype=np.uint8)
    image[..., 0], image[..., 1] = np.arange(WIDTH), np.arange(HEIGHT)[:, None]
    return image


def build(**kwargs):
    init_default_scope('mmpretrain')
    fields = dict(type='mmpl.TwoViews', geometry=[CROP, FLIP], strong=[INVERT]) | kwargs
    return TRANSFORMS.build(fields)


def places(view):
    """Mean x and y of the source image over each token, in pixels, (GRID², 2)."""
    tokens = view[..., :2].astype(np.float64).reshape(GRID, SIDE // GRID, GRID, SIDE // GRID, 2)
    return tokens.mean((1, 3)).reshape(-1, 2) + 0.5  # pixel i reaches from i to i + 1


def centres(box):
    """Where the tokens' centres are according to a box, (GRID², 2)."""
    steps = (np.arange(GRID) + 0.5) / GRID
    x, y = box[0] + steps * (box[2] - box[0]), box[1] + steps * (box[3] - box[1])
    return np.stack(np.meshgrid(x, y), -1).reshape(-1, 2)


def test_views_of_one_geometry_show_the_same_places():
    np.random.seed(0)
    views = build()
    seen = set()
    for _ in range(30):
        results = views(dict(img=marker()))
        weak, strong = results['img']
        assert np.array_equal(strong, 255 - weak), 'the strong view is the inverted weak one, pixel by pixel'
        assert results['view_boxes'] is None
        first, last = places(weak)[[0, -1]]
        seen.add((first[0] < last[0], first[1] < last[1]))
    assert len(seen) == 4, 'all flips must occur'


def test_matched_tokens_of_own_crops_show_the_same_place():
    np.random.seed(1)
    views, matched, lost, flips = build(own_crop=True), 0, 0, set()
    for _ in range(40):
        results = views(dict(img=marker()))
        weak, strong = results['img'][0], 255 - results['img'][1]
        boxes = results['view_boxes']
        for view, box in zip((weak, strong), boxes, strict=True):
            np.testing.assert_allclose(places(view), centres(box), atol=0.75)  # what resizing rounds
            flips.add((box[0] < box[2], box[1] < box[3]))
        ids, found = (x[0].numpy() for x in match_places(*torch.tensor(boxes)[:, None], GRID))
        half = np.abs(boxes[1, 2:] - boxes[1, :2]) / GRID / 2  # of a token of the strong view
        gap = np.abs(places(weak)[found] - places(strong)[ids[found]])
        assert (gap <= half + 1.5).all()
        low, high = np.minimum(boxes[1, :2], boxes[1, 2:]), np.maximum(boxes[1, :2], boxes[1, 2:])
        outside = ((places(weak) < low - 1) | (places(weak) > high + 1)).any(1)
        assert not (outside & found).any()
        inside = ((places(weak) > low + 1) & (places(weak) < high - 1)).all(1)
        assert found[inside].all()
        matched, lost = matched + found.sum(), lost + (~found).sum()
    assert matched > 50 and lost > 50
    assert len(flips) == 4


def test_boxes_are_of_the_image_as_it_comes():
    """A flip before the views is none of theirs."""
    np.random.seed(4)
    flip, views = TRANSFORMS.build(dict(type='RandomFlip', prob=1.0)), build(own_crop=True, geometry=[CROP])
    results = flip(dict(img=marker()))
    results['img'] = marker()
    results = views(results)
    for view, box in zip((results['img'][0], 255 - results['img'][1]), results['view_boxes'], strict=True):
        np.testing.assert_allclose(places(view), centres(box), atol=0.75)


def test_crop_box_without_views():
    init_default_scope('mmpretrain')
    np.random.seed(2)
    results = TRANSFORMS.build(CROP)(dict(img=marker()))
    np.testing.assert_allclose(places(results['img']), centres(results['crop_box']), atol=0.75)


def test_packed_views():
    pipeline = [build(own_crop=True), TRANSFORMS.build(dict(type='PackInputs', meta_keys=('view_boxes',)))]
    results = dict(img=marker())
    for transform in pipeline:
        results = transform(results)
    assert [tuple(view.shape) for view in results['inputs']] == [(3, SIDE, SIDE)] * 2
    assert results['data_samples'].get('view_boxes').shape == (2, 4)


@pytest.mark.parametrize(
    ('fields', 'message'),
    [
        (dict(strong=[]), '`strong` must hold at least one transform'),
        (dict(own_crop=1), r'`own_crop` must be one of \[False, True\], but got 1'),
        (dict(strong=[FLIP]), r"`strong` must leave pixels where they are, but got \['RandomFlip'\]"),
        (
            dict(own_crop=True, geometry=[dict(type='RandomResizedCrop', scale=SIDE)]),
            r"`geometry` must hold one `mmpl.BoxedResizedCrop` .* but got \['RandomResizedCrop'\]",
        ),
        (dict(own_crop=True, geometry=[FLIP, CROP]), 'one `RandomFlip`, behind it'),
        (dict(own_crop=True, geometry=[CROP, FLIP, FLIP]), 'at most one `RandomFlip`'),
    ],
)
def test_refuses(fields, message):
    with pytest.raises(ValueError, match=message):
        build(**fields)


def test_refuses_a_strong_view_of_another_size():
    views = build(strong=[dict(type='Resize', scale=(16, 16))])
    with pytest.raises(ValueError, match=r'must keep the size that `geometry` gives.*\(32, 32, 3\).*\(16, 16, 3\)'):
        views(dict(img=marker()))
