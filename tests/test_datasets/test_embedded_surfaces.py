"""The photographs' data set: splits share no tile, builds repeat to the byte, nothing but content tells the class."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO
from scenes import check_scenes

from mmpl.datasets import EmbeddedClassification
from mmpl.datasets.embedded.surfaces import (
    SURFACE_PALETTE,
    SURFACES,
    SurfaceParams,
    _outline,
    _photographs,
    _scene,
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


def test_crops_are_those_of_earlier_versions(build):
    """Results of the comparison hold for these; only photographs in PNG, JPEG decoders differ."""
    digest = hashlib.sha256()
    for name in ('brick', 'camera', 'grass', 'text'):
        for path in sorted((build / 'cls').rglob(f'{name}/*.png')):
            digest.update(np.asarray(Image.open(path)).tobytes())
    assert digest.hexdigest() == 'a73d7b483f5d3a54b8886081ad20105d8130ba91361def122a2c0a5ee21ac20b'


@pytest.mark.parametrize('split', ['train', 'val'])
def test_boxes_areas_and_semantic_map_agree_with_the_masks(build, split):
    wanted = {'train': 24, 'val': 8}[split]
    seen = list(check_scenes(build, split, SURFACES, wanted, SurfaceParams().scene_pieces))
    assert len(seen) == wanted
    for pixels, semantic, annotations in seen:
        assert all(annotation['area'] > 100 and max(annotation['bbox'][2:]) <= 48 for annotation in annotations)
        ground = pixels[semantic == 0]
        assert abs(ground.mean() - 124) < 1.5 and ground.std() < 8  # noise, and what JPEG does at an outline


def test_pieces_come_from_the_tiles_of_their_split_and_look_like_its_crops(build):
    params, used, deviations = SurfaceParams(), 0, []
    counts = [len(_tiles(photo, params)) for photo in _photographs(params)]
    orders = [np.random.default_rng([0, 4, label]).permutation(count) for label, count in enumerate(counts)]
    for number, split in enumerate(('train', 'val')):
        coco = COCO(str(build / 'coco' / 'annotations' / f'instances_{split}.json'))
        for annotation in coco.dataset['annotations']:
            assert annotation['source_id'] in _share(orders[annotation['category_id'] - 1], number, params)
            path = build / 'coco' / split / coco.imgs[annotation['image_id']]['file_name']
            inside = coco.annToMask(annotation).astype(bool)
            deviations.append(np.asarray(Image.open(path))[..., 0][inside].std())
        used += len({annotation['category_id'] for annotation in coco.dataset['annotations']})
    assert used > 25  # of 16 classes in two splits
    assert abs(np.median(deviations) - params.contrast[0]) < 8  # an outline leaves out part of the crop


def test_outlines():
    rng = np.random.default_rng(0)
    disc = _outline(rng, 40.0, 0.0)
    assert disc.shape == (40, 40) and abs(disc.sum() / (np.pi * 20**2) - 1) < 0.01
    areas = [_outline(rng, 40.0, 0.2).mean() for _ in range(50)]
    assert 0.25 < min(areas) and max(areas) < np.pi / 4 and np.std(areas) > 0.03


def test_pieces_that_do_not_fit_are_an_error():
    params = SurfaceParams(scene_pieces=(30, 30), scene_overlap=0.0)
    tiles = [[np.random.default_rng(0).integers(0, 256, (64, 64), dtype=np.uint8)]]
    with pytest.raises(ValueError, match=r'scene_pieces=\(30, 30\) .* do not fit into scene_size=96'):
        _scene(np.random.default_rng(1), tiles, [np.array([0])], params)


@pytest.mark.parametrize(
    'kwargs, message',
    [
        (dict(scene_piece_size=(24, 60)), r'SurfaceParams.scene_piece_size=\(24, 60\).* b <= 56.8'),
        (dict(crop=(36, 65)), r'SurfaceParams.crop=\(36, 65\) is not allowed'),
        (dict(scene_pieces=(2.0, 6.0)), r'scene_pieces=\(2.0, 6.0\).*integer'),
        (dict(scene_outline=-0.1), r'scene_outline=-0.1 is not allowed: expected a number in \[0, 0.3\]'),
        (dict(shares=(0.6, 0.1)), r'shares=\(0.6, 0.1\) is not allowed'),
    ],
)
def test_rejects_fields(kwargs, message):
    with pytest.raises(ValueError, match=message):
        SurfaceParams(**kwargs)


def test_every_class_has_its_colour():
    assert len(set(SURFACE_PALETTE)) == len(SURFACE_PALETTE) == len(SURFACES) and (0, 0, 0) not in SURFACE_PALETTE


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
