"""The photographs' data set: splits share no tile, builds repeat to the byte, nothing but content tells the class."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mmpl.datasets import EmbeddedClassification
from mmpl.datasets.embedded_surfaces import (
    SURFACES,
    SurfaceParams,
    _photographs,
    _share,
    _tiles,
    build_embedded_surfaces,
)


@pytest.fixture(scope='module')
def build(tmp_path_factory) -> Path:
    return build_embedded_surfaces(tmp_path_factory.mktemp('surfaces'), size='test')


def files(build: Path) -> dict[str, bytes]:
    return {str(path.relative_to(build)): path.read_bytes() for path in sorted(build.rglob('*')) if path.is_file()}


def test_counts_and_statistics(build):
    meta = json.loads((build / 'meta.json').read_text())
    for split, amount in (('train', 20), ('val', 6), ('test', 6)):
        for name in SURFACES:
            assert len(list((build / 'cls' / split / name).iterdir())) == amount
    pixels = np.stack([np.asarray(Image.open(path)) for path in sorted((build / 'cls' / 'train').rglob('*.png'))])
    assert pixels.shape == (320, 32, 32, 3)
    np.testing.assert_allclose(meta['cls_train_mean'], [pixels.mean()] * 3, atol=1e-3)
    np.testing.assert_allclose(meta['cls_train_std'], [pixels.std()] * 3, atol=1e-3)


def test_no_tile_is_in_two_splits(build):
    params = SurfaceParams()
    for label, name in enumerate(SURFACES):
        seen = [{path.name.split('_')[0] for path in (build / 'cls' / split / name).iterdir()} for split in
                ('train', 'val', 'test')]  # fmt: skip
        assert not (seen[0] & seen[1] or seen[0] & seen[2] or seen[1] & seen[2])
        tiles = len(_tiles(_photographs(params)[label], params)) if label == 0 else 20
        shares = [set(_share(np.arange(tiles), split, params)) for split in range(3)]
        assert sum(map(len, shares)) == len(set.union(*shares)) == tiles
        assert min(map(len, shares)) >= 2


def test_the_same_arguments_give_the_same_bytes_and_a_complete_build_is_kept(build, tmp_path):
    again = build_embedded_surfaces(tmp_path, size='test')
    assert files(again) == files(build)
    (again / 'meta.json').touch()
    before = (again / 'meta.json').stat().st_mtime_ns
    build_embedded_surfaces(tmp_path, size='test')
    assert (again / 'meta.json').stat().st_mtime_ns == before
    next((again / 'cls' / 'val' / 'grass').iterdir()).unlink()
    build_embedded_surfaces(tmp_path, size='test')
    assert files(again) == files(build)
    assert files(build_embedded_surfaces(tmp_path, size='test', seed=1)) != files(build)


def test_every_image_has_the_same_brightness_and_contrast(build):
    pixels = np.stack([np.asarray(Image.open(path)) for path in sorted((build / 'cls' / 'train').rglob('*.png'))])
    means, stds = pixels.mean((1, 2, 3)), pixels.std((1, 2, 3))
    assert means.std() < 3 and np.abs(means - 124).max() < 10  # but for what is cut off at 0 and 255
    assert stds.std() < 8 and np.median(np.abs(stds - 45)) < 2


def test_exposure_varies_and_does_not_tell_the_class(tmp_path):
    build = build_embedded_surfaces(tmp_path, size='test', variant='surfaces_exposure')
    figures = np.array(
        [
            [
                (pixels.mean() / 25, pixels.std() / 10)
                for path in sorted((build / 'cls' / 'train' / name).iterdir())
                for pixels in [np.asarray(Image.open(path), dtype=float)]
            ]
            for name in SURFACES
        ]
    )  # (classes, images, 2), both of about unit spread
    centres, others = figures[:, ::2].mean(1), figures[:, 1::2]
    nearest = np.linalg.norm(others[:, :, None] - centres, axis=-1).argmin(-1)
    accuracy = (nearest == np.arange(len(SURFACES))[:, None]).mean()
    assert accuracy < 0.25  # chance is 0.06; a linear probe of untrained features has more than 0.3


def test_as_a_dataset(build):
    kwargs = dict(data_root=str(build.parent), size='test', variant='surfaces')
    train, test = (EmbeddedClassification(split=split, **kwargs) for split in ('train', 'test'))
    assert tuple(train.CLASSES) == tuple(test.CLASSES) == SURFACES
    assert (len(train), len(test)) == (320, 96)
    assert np.bincount(train.get_gt_labels()).tolist() == [20] * 16
    few, fewer = (EmbeddedClassification(split='train', fraction=f, **kwargs) for f in (0.5, 0.2))
    paths = [{info['img_path'] for info in (d.get_data_info(i) for i in range(len(d)))} for d in (train, few, fewer)]
    assert paths[2] < paths[1] < paths[0]
    assert np.bincount(fewer.get_gt_labels(), minlength=16).min() >= 1


@pytest.mark.parametrize(
    'kwargs, message',
    [
        (dict(size='huge'), "size='huge' is unknown: choose one of"),
        (dict(seed=-1), 'seed=-1 is not allowed'),
        (dict(variant='plain'), "variant='plain' is unknown: choose one of"),
        (dict(seed=True), 'seed=True is not allowed'),
    ],
)
def test_rejects(kwargs, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        build_embedded_surfaces(tmp_path, **kwargs)


def test_an_unknown_variant_names_all(tmp_path):
    with pytest.raises(ValueError, match="variant='x' is unknown: choose one of .*surfaces"):
        EmbeddedClassification(data_root=str(tmp_path), variant='x')
