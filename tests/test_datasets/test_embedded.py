"""What holds for every embedded data set: determinism, splits, agreement of the formats, reuse, errors, concurrency."""

import hashlib
import json
import multiprocessing
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO

from mmpl.datasets.embedded.base import SPLITS, Amount
from mmpl.datasets.embedded.build import VARIANTS, Build, build_embedded
from mmpl.datasets.embedded.digits import DIGITS, DigitAmount, DigitParams
from mmpl.datasets.embedded.formats import ADE_SPLITS
from mmpl.datasets.embedded.sources import package_file
from mmpl.datasets.embedded.surfaces import SURFACES, SurfaceParams, SurfaceRenderer
from mmpl.utils.fields import FieldTypeError


def make(root: Path, variant: str = 'plain', **kwargs) -> Path:
    return build_embedded(root, 'test', variant, progress=False, **kwargs).folder


@pytest.fixture(params=VARIANTS)
def built(request: pytest.FixtureRequest, embedded_root: Path) -> Build:
    return build_embedded(embedded_root, 'test', request.param, progress=False)


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(DIGITS.sizes, 'test', DigitAmount(images=(2, 1, 1), scenes=(2, 1), renders=(1, 1, 1)))
    monkeypatch.setitem(SURFACES.sizes, 'test', Amount(images=(2, 1, 1), scenes=(2, 1)))


def hashes(folder: Path) -> dict[str, str]:
    return {
        p.relative_to(folder).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(folder.rglob('*'))
        if p.is_file()
    }


def read(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image)


@pytest.mark.parametrize('variant', ['hard', 'surfaces'])
def test_same_arguments_give_the_same_bytes(tiny: None, tmp_path: Path, variant: str) -> None:
    one, two = (hashes(make(tmp_path / folder, variant)) for folder in 'ab')
    other = hashes(make(tmp_path / 'c', variant, seed=1))
    assert one == two
    assert len(one) == 4 * len(VARIANTS[variant].classes) + 3 * 3 + 2 + 1
    assert not set(one.values()) & set(other.values())


@pytest.mark.parametrize(('variant', 'images'), [('plain', (40, 10, 10)), ('surfaces', (20, 6, 6))])
def test_counts_and_format_of_class_folders(embedded_root: Path, variant: str, images: tuple[int, ...]) -> None:
    build = make(embedded_root, variant)
    for split, count in zip(SPLITS, images, strict=True):
        folders = sorted((build / 'cls' / split).iterdir())
        assert tuple(f.name for f in folders) == VARIANTS[variant].classes
        for folder in folders:
            files = sorted(folder.iterdir())
            assert len(files) == count
            with Image.open(files[0]) as image:
                assert (image.size, image.mode, files[0].suffix) == ((32, 32), 'RGB', '.png')


def test_meta_holds_the_mean_and_deviation_of_the_training_pixels(built: Build) -> None:
    meta = json.loads((built.folder / 'meta.json').read_text())
    pixels = np.stack([read(path) for path in (built.folder / 'cls' / 'train').rglob('*.png')]).reshape(-1, 3)
    np.testing.assert_allclose(meta['cls_train_mean'], pixels.mean(0), atol=1e-3)
    np.testing.assert_allclose(meta['cls_train_std'], pixels.std(0), atol=1e-3)


def test_splits_share_no_source(built: Build) -> None:
    seen = {
        split: {(path.parent.name, int(path.stem.split('_')[0])) for path in (built.folder / 'cls' / split).glob('*/*')}
        for split in SPLITS
    }
    for split in ADE_SPLITS:
        content = json.loads((built.folder / 'coco' / 'annotations' / f'instances_{split}.json').read_text())
        seen[split] |= {(built.classes[a['category_id'] - 1], a['source_id']) for a in content['annotations']}
    assert all(not seen[a] & seen[b] for a, b in combinations(SPLITS, 2))


@pytest.mark.parametrize(('split', 'scenes'), [('train', 24), ('val', 8)])
def test_boxes_areas_and_semantic_map_agree_with_the_masks(built: Build, split: str, scenes: int) -> None:
    coco_dir, ade = built.folder / 'coco', built.folder / 'ade'
    coco = COCO(str(coco_dir / 'annotations' / f'instances_{split}.json'))
    assert len(coco.imgs) == len(list((coco_dir / split).iterdir())) == scenes
    assert {c['id']: c['name'] for c in coco.dataset['categories']} == dict(enumerate(built.classes, start=1))
    for image in coco.imgs.values():
        path = coco_dir / split / image['file_name']
        assert (ade / 'images' / ADE_SPLITS[split] / path.name).read_bytes() == path.read_bytes()
        assert read(path).shape == (image['height'], image['width'], 3) == (96, 96, 3)
        expected = np.zeros((96, 96), dtype=np.uint8)
        annotations = coco.imgToAnns[image['id']]
        assert 2 <= len(annotations) <= 6
        for annotation in annotations:
            mask = coco.annToMask(annotation).astype(bool)
            ys, xs = mask.nonzero()
            assert annotation['bbox'] == [xs.min(), ys.min(), xs.max() + 1 - xs.min(), ys.max() + 1 - ys.min()]
            assert annotation['area'] == mask.sum() > 0
            assert not expected[mask].any()  # visible parts are disjoint
            expected[mask] = annotation['category_id']
        semantic = read(ade / 'annotations' / ADE_SPLITS[split] / f'{path.stem}.png')
        assert semantic.dtype == np.uint8
        np.testing.assert_array_equal(semantic, expected)


def test_every_class_has_its_colour(built: Build) -> None:
    assert len(set(built.palette)) == len(built.palette) == len(built.classes) and (0, 0, 0) not in built.palette


@pytest.mark.parametrize('variant', ['plain', 'surfaces'])
def test_a_complete_build_is_reused_and_an_other_is_rebuilt(
    tiny: None, tmp_path: Path, variant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def written(**kwargs) -> int:
        # when it was written: an inode's number is no mark of a build, the next file may get a freed one
        return (make(tmp_path, variant, **kwargs) / 'meta.json').stat().st_mtime_ns

    first, folder = written(), make(tmp_path, variant)
    before = hashes(folder)
    assert written() == first
    next((folder / 'cls' / 'val').rglob('*.png')).unlink()  # incomplete
    assert written() != first
    assert hashes(folder) == before
    with monkeypatch.context() as patch:
        patch.setitem(VARIANTS[variant].variants, variant, type(VARIANTS[variant].variants[variant])(noise=1.0))
        assert written() != first
        assert json.loads((folder / 'meta.json').read_text())['render']['noise'] == 1.0
    assert hashes(make(tmp_path, variant, force=True)) == before
    (tmp_path / f'.{folder.name}.tmp-killed').mkdir()  # left by a killed build
    make(tmp_path, variant, force=True)
    assert sorted(p.name for p in tmp_path.iterdir()) == [f'.{folder.name}.lock', folder.name]


def test_objects_without_room_are_an_error_and_a_failed_build_leaves_nothing(
    tiny: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(DIGITS.variants, 'plain', DigitParams(scene_digits=(60, 60)))
    with pytest.raises(ValueError, match=r'scene_digits=\(60, 60\) .* do not fit into scene_size=96'):
        make(tmp_path)
    assert [p.name for p in tmp_path.iterdir() if p.name != '.test.lock'] == []
    pieces = SurfaceParams(scene_pieces=(30, 30), scene_overlap=0.0)
    with pytest.raises(ValueError, match=r'scene_pieces=\(30, 30\) .* do not fit into scene_size=96'):
        SurfaceRenderer(pieces, SURFACES.sizes['test'], 0).scene('train', 0)


def test_foreign_folder_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / 'test').mkdir()
    (tmp_path / 'test' / 'thesis.txt').write_text('mine')
    with pytest.raises(FileExistsError, match='not overwritten'):
        make(tmp_path)
    assert (tmp_path / 'test' / 'thesis.txt').read_text() == 'mine'


def test_folder_names(tiny: None, tmp_path: Path) -> None:
    assert make(tmp_path) == tmp_path / 'test'
    assert make(tmp_path, 'hard', seed=3) == tmp_path / 'test_hard_seed3'
    assert make(tmp_path, 'surfaces') == tmp_path / 'test_surfaces'


def test_missing_sources_say_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(FileNotFoundError, match=r'scikit-image lacks .*data/no\.png'):
        package_file('skimage/data/no.png')
    monkeypatch.setattr('importlib.util.find_spec', lambda name: None)
    with pytest.raises(ImportError, match='pip install scikit-image'):
        package_file('skimage/data/brick.png')


@pytest.mark.parametrize(
    ('kwargs', 'error', 'message'),
    [
        (dict(size='huge'), ValueError, r"`size` must be one of \['demo', 'test'\], but got 'huge'"),
        (dict(variant='odd'), ValueError, r"`variant` must be one of \['hard', 'plain', 'surfaces', .*, but got 'odd'"),
        (dict(seed=-1), ValueError, r'`seed` must be an integer in \[0, inf\), but got -1'),
        (dict(seed=1.5), FieldTypeError, r'`seed` must be an integer in \[0, inf\), but got 1.5'),
        (dict(seed=True), FieldTypeError, r'`seed` must be an integer in \[0, inf\), but got True'),
    ],
)
def test_bad_arguments(kwargs: dict, error: type, message: str, tmp_path: Path) -> None:
    with pytest.raises(error, match=message):
        build_embedded(tmp_path, progress=False, **kwargs)
    assert not any(tmp_path.iterdir())


def build_and_report(root: Path, start: Any, results: Any) -> None:
    start.wait()
    results.put((make(root) / 'meta.json').stat().st_mtime_ns)


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
