"""The embedded photographs: tiles of a split, outlines of pieces, and that nothing but content tells the class."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO

from mmpl.datasets.embedded.base import SPLITS
from mmpl.datasets.embedded.build import build_embedded
from mmpl.datasets.embedded.surfaces import (
    SURFACES,
    SurfaceParams,
    SurfaceRenderer,
    random_outline,
    split_tiles,
)


@pytest.fixture(scope='module')
def build(embedded_root: Path) -> Path:
    return build_embedded(embedded_root, 'test', 'surfaces', progress=False).folder


def test_tiles_are_split_without_rest():
    for count in (4, 5, 20, 112):
        parts = split_tiles(np.arange(count), SurfaceParams().shares)
        assert sorted(np.concatenate(list(parts.values()))) == list(range(count)) and tuple(parts) == SPLITS
        assert min(len(parts['val']), len(parts['test'])) >= 2
    counts = [len(tiles) for tiles in SurfaceRenderer(SurfaceParams(), SURFACES.sizes['test'], 0).tiles]
    assert min(counts) >= 6  # so that each split has two


def test_crops_are_those_of_earlier_versions(build):
    """Results of the comparison hold for these; only photographs in PNG, JPEG decoders differ."""
    digest = hashlib.sha256()
    for name in ('brick', 'camera', 'grass', 'text'):
        for path in sorted((build / 'cls').rglob(f'{name}/*.png')):
            digest.update(np.asarray(Image.open(path)).tobytes())
    assert digest.hexdigest() == 'a73d7b483f5d3a54b8886081ad20105d8130ba91361def122a2c0a5ee21ac20b'


@pytest.mark.parametrize('split', ['train', 'val'])
def test_pieces_come_from_the_tiles_of_their_split_and_look_like_its_crops(build, split):
    params, classes, deviations = SurfaceParams(), set(), []
    tiles = SurfaceRenderer(params, SURFACES.sizes['test'], 0).split
    coco = COCO(str(build / 'coco' / 'annotations' / f'instances_{split}.json'))
    for image in coco.imgs.values():
        pixels = np.asarray(Image.open(build / 'coco' / split / image['file_name']))
        ground = np.ones((96, 96), dtype=bool)
        for annotation in coco.imgToAnns[image['id']]:
            assert annotation['source_id'] in tiles[annotation['category_id'] - 1][split]
            assert annotation['area'] > 100 and max(annotation['bbox'][2:]) <= 48
            inside = coco.annToMask(annotation).astype(bool)
            deviations.append(pixels[..., 0][inside].std())
            ground &= ~inside
            classes.add(annotation['category_id'])
        # noise, and what JPEG does at an outline
        assert abs(pixels[ground].mean() - 124) < 1.5 and pixels[ground].std() < 8
    assert len(classes) > 10  # of 16
    assert abs(np.median(deviations) - params.contrast[0]) < 8  # an outline leaves out part of the crop


def test_outlines():
    rng = np.random.default_rng(0)
    disc = random_outline(rng, 40.0, 0.0)
    assert disc.shape == (40, 40) and abs(disc.sum() / (np.pi * 20**2) - 1) < 0.01
    areas = [random_outline(rng, 40.0, 0.2).mean() for _ in range(50)]
    assert 0.25 < min(areas) and max(areas) < np.pi / 4 and np.std(areas) > 0.03


def test_every_image_has_the_same_brightness_and_contrast(build):
    pixels = np.stack([np.asarray(Image.open(path)) for path in sorted((build / 'cls' / 'train').rglob('*.png'))])
    means, stds = pixels.mean((1, 2, 3)), pixels.std((1, 2, 3))
    assert means.std() < 3 and np.abs(means - 124).max() < 10  # but for what is cut off at 0 and 255
    assert stds.std() < 8 and np.median(np.abs(stds - 45)) < 2


def test_exposure_varies_and_does_not_tell_the_class(embedded_root):
    build = build_embedded(embedded_root, 'test', 'surfaces_exposure', progress=False).folder
    figures = np.array(
        [
            [
                (pixels.mean() / 25, pixels.std() / 10)
                for path in sorted((build / 'cls' / 'train' / name).iterdir())
                for pixels in [np.asarray(Image.open(path), dtype=float)]
            ]
            for name in SURFACES.classes
        ]
    )  # (classes, images, 2), both of about unit spread
    centres, others = figures[:, ::2].mean(1), figures[:, 1::2]
    nearest = np.linalg.norm(others[:, :, None] - centres, axis=-1).argmin(-1)
    accuracy = (nearest == np.arange(len(SURFACES.classes))[:, None]).mean()
    assert accuracy < 0.25  # chance is 0.06; a linear probe of untrained features has more than 0.3
