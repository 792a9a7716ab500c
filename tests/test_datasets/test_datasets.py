"""Registered data sets: built by type, read by the libraries they are for."""

import subprocess
import sys
from pathlib import Path

import mmpretrain.datasets  # noqa: F401
import numpy as np
import pytest
import torch
from mmengine.registry import DATASETS
from mmpretrain.datasets import CustomDataset
from PIL import Image

from mmpl.datasets.embedded.digits import DIGITS
from mmpl.datasets.embedded.surfaces import SURFACES

LOAD = {'type': 'mmcv.LoadImageFromFile'}
PIPELINE = [LOAD, {'type': 'mmpretrain.PackInputs'}]
VARIANTS = pytest.mark.parametrize(('variant', 'classes'), [('plain', DIGITS.classes), ('surfaces', SURFACES.classes)])


def embedded(root: Path, kind: str = 'Classification', **kwargs):
    return DATASETS.build({'type': f'mmpl.Embedded{kind}', 'data_root': str(root), 'size': 'test', **kwargs})


def infos(dataset) -> list[dict]:
    return [dataset.get_data_info(index) for index in range(len(dataset))]


def save(path: Path, value: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((6, 5, 3), value, dtype=np.uint8)).save(path)


@VARIANTS
def test_embedded_classification(embedded_root: Path, variant: str, classes: tuple[str, ...]) -> None:
    counts = (40, 10, 10) if variant == 'plain' else (20, 6, 6)
    for split, per_class in zip(('train', 'val', 'test'), counts, strict=True):
        dataset = embedded(embedded_root, variant=variant, split=split, pipeline=PIPELINE)
        assert tuple(dataset.CLASSES) == classes
        assert np.bincount(dataset.get_gt_labels()).tolist() == [per_class] * len(classes)
        for index in (0, len(dataset) - 1):
            item = dataset[index]
            path = Path(dataset.get_data_info(index)['img_path'])
            assert path.parent.name == classes[int(item['data_samples'].gt_label)]
            with Image.open(path) as image:  # mmcv reads BGR
                expected = torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1).flip(0)
            assert torch.equal(item['inputs'], expected)


def test_built_on_first_use(tmp_path: Path) -> None:
    assert len(embedded(tmp_path / 'not' / 'yet', split='val')) == 100


def test_same_listing_in_mmpretrain_and_torchvision(embedded_root: Path) -> None:
    from torchvision.datasets import ImageFolder

    ours = [(i['img_path'], i['gt_label']) for i in embedded(embedded_root).load_data_list()]
    folder = str(embedded_root / 'test' / 'cls' / 'train')
    assert ours == [(i['img_path'], i['gt_label']) for i in infos(CustomDataset(data_root=folder))]
    assert ours == ImageFolder(folder).samples


@VARIANTS
def test_fraction_is_stratified_and_nested(embedded_root: Path, variant: str, classes: tuple[str, ...]) -> None:
    parts = [infos(embedded(embedded_root, variant=variant, fraction=f)) for f in (0.1, 0.5, 1)]
    paths = [{info['img_path'] for info in part} for part in parts]
    assert paths[0] < paths[1] < paths[2]
    small, large, _ = (np.bincount([i['gt_label'] for i in part], minlength=len(classes)) for part in parts)
    assert small.min() >= 1
    if variant == 'plain':
        assert (small.tolist(), large.tolist()) == ([4] * 10, [20] * 10)  # 2 and 10 of 20 digits, each rendered twice


@pytest.mark.parametrize(
    ('kwargs', 'message'),
    [
        (dict(split='dev'), r"`split` must be one of \['test', 'train', 'val'\], but got 'dev'"),
        (dict(size='huge'), r"`size` must be one of \['demo', 'test'\], but got 'huge'"),
        (dict(variant='x'), "`variant` must be one of .*surfaces.*, but got 'x'"),
        (dict(fraction=0), r'`fraction` must be a number in \(0, 1\], but got 0'),
        (dict(fraction=1.5), r'`fraction` must be a number in \(0, 1\], but got 1.5'),
        (dict(data_prefix='x'), "data_prefix='x' is not allowed"),
        (dict(ann_file='x'), "ann_file='x' is not allowed"),
    ],
)
def test_embedded_classification_rejects(embedded_root: Path, kwargs: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        embedded(embedded_root, **kwargs)


def folder_dataset(root: Path | str, **kwargs):
    return DATASETS.build({'type': 'mmpl.UnlabelledFolder', 'data_root': str(root), 'pipeline': PIPELINE, **kwargs})


def test_unlabelled_folder_finds_every_format_in_a_fixed_order(tmp_path: Path) -> None:
    names = ['b/1.jpg', 'b/c/2.JPEG', 'a.PNG', 'z.bmp', 'b/3.webp', 'b/4.tif', 'd/5.TIFF', 'd/6.ppm']
    for value, name in enumerate(names):
        save(tmp_path / name, 20 * value)
    for name in ('notes.txt', 'b/jpg'):
        (tmp_path / name).write_text('no image')
    dataset = folder_dataset(tmp_path)
    assert [i['img_path'] for i in infos(dataset)] == [str(tmp_path / n) for n in sorted(names)]
    assert all('gt_label' not in i for i in infos(dataset))
    for item, name in zip((dataset[i] for i in range(len(dataset))), sorted(names), strict=True):
        assert item['inputs'].shape == (3, 6, 5)
        assert abs(int(item['inputs'].float().mean()) - 20 * names.index(name)) <= 2
        assert 'gt_label' not in item['data_samples']


def test_unlabelled_folder_feeds_the_self_supervised_preprocessor(tmp_path: Path) -> None:
    from mmengine.dataset import default_collate
    from mmpretrain.models import SelfSupDataPreprocessor

    save(tmp_path / '1.png', 10)
    save(tmp_path / '2.png', 30)
    batch = default_collate(list(folder_dataset(tmp_path)))
    images = SelfSupDataPreprocessor(mean=[10.0] * 3, std=[20.0] * 3, to_rgb=True)(batch)['inputs']
    assert torch.equal(images, torch.stack([torch.zeros(3, 6, 5), torch.ones(3, 6, 5)]))


def test_unlabelled_folder_rejects(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"data_root='/no/where'.*is no folder.*\.jpeg.*\.webp"):
        folder_dataset('/no/where')
    (tmp_path / 'a.txt').write_text('x')
    with pytest.raises(ValueError, match=r'data_root=.*holds no image.*\.bmp, \.jpeg, \.jpg, .*\.tiff, \.webp'):
        folder_dataset(tmp_path)
    save(tmp_path / 'a.png')
    for kwargs, message in (
        (dict(extensions=['.gif']), 'holds no image. Looked for extensions .gif'),
        (dict(extensions='.png'), "extensions='.png' is not allowed"),
        (dict(with_label=True), 'with_label=True'),
    ):
        with pytest.raises(ValueError, match=message):
            folder_dataset(tmp_path, **kwargs)


def test_a_list_names_a_file_once_however_it_is_spelt(tmp_path: Path) -> None:
    save(tmp_path / 'a.png')
    (tmp_path / 'list.txt').write_text('a.png\n./a.png\n')
    with pytest.raises(ValueError, match='stands in line 1 already'):
        folder_dataset(tmp_path, ann_file=str(tmp_path / 'list.txt'))


def test_stock_class_folders_without_images_are_an_error(tmp_path: Path) -> None:
    """What we rely on: mmpretrain's reader of labelled folders refuses an empty one by itself."""
    (tmp_path / 'cat').mkdir()
    with pytest.raises(RuntimeError, match='Found 0 files'):
        CustomDataset(data_root=str(tmp_path))


def semantic_map(dataset) -> np.ndarray:
    """What the files say of the fourth validation scene; 0 is the background."""
    build = Path(dataset.data_root).parent
    return np.asarray(Image.open(build / 'ade' / 'annotations' / 'validation' / '000004.png')).astype(int)


@VARIANTS
@pytest.mark.parametrize('reduce_zero_label', [False, True])
def test_segmentation_in_mmseg(
    embedded_root: Path, reduce_zero_label: bool, variant: str, classes: tuple[str, ...]
) -> None:
    pytest.importorskip('mmseg.datasets')
    annotations = {'type': 'mmseg.LoadAnnotations', 'reduce_zero_label': reduce_zero_label}
    pipeline = [LOAD, annotations, {'type': 'mmseg.PackSegInputs'}]
    kwargs = dict(variant=variant, split='val', reduce_zero_label=reduce_zero_label, pipeline=pipeline)
    dataset = embedded(embedded_root, 'SegDataset', **kwargs)
    assert len(dataset) == 8
    names = dataset.metainfo['classes']
    assert names == (classes if reduce_zero_label else ('background', *classes))
    assert len(dataset.metainfo['palette']) == len(names)
    stored = semantic_map(dataset)
    expected = np.where(stored == 0, 255, stored - 1) if reduce_zero_label else stored
    np.testing.assert_array_equal(dataset[3]['data_samples'].gt_sem_seg.data[0].numpy(), expected)
    shown = {names[v] for v in np.unique(expected) if v != 255} - {'background'}
    assert shown == {classes[v - 1] for v in np.unique(stored) if v}


@VARIANTS
def test_instances_in_mmdet(embedded_root: Path, variant: str, classes: tuple[str, ...]) -> None:
    pytest.importorskip('mmdet.datasets', exc_type=ImportError)
    annotations = {'type': 'mmdet.LoadAnnotations', 'with_bbox': True, 'with_mask': True}
    pipeline = [LOAD, annotations, {'type': 'mmdet.PackDetInputs'}]
    dataset = embedded(embedded_root, 'CocoDataset', variant=variant, split='val', pipeline=pipeline)
    assert len(dataset) == 8
    assert dataset.metainfo['classes'] == classes and len(dataset.metainfo['palette']) == len(classes)
    semantic = semantic_map(dataset)
    instances = dataset[3]['data_samples'].gt_instances
    assert len(instances) > 0
    rebuilt = np.zeros_like(semantic)
    for mask, box, label in zip(instances.masks.masks, instances.bboxes.tensor, instances.labels, strict=True):
        ys, xs = mask.nonzero()
        assert box.tolist() == [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]
        rebuilt[mask.astype(bool)] = int(label) + 1
    np.testing.assert_array_equal(rebuilt, semantic)


@pytest.mark.parametrize(('kind', 'library'), [('SegDataset', 'mmseg'), ('CocoDataset', 'mmdet')])
def test_dense_data_sets_reject_an_unknown_split(embedded_root: Path, kind: str, library: str) -> None:
    pytest.importorskip(f'{library}.datasets', exc_type=ImportError)
    with pytest.raises(ValueError, match=r"`split` must be one of \['train', 'val'\], but got 'test'"):
        embedded(embedded_root, kind, split='test')


@pytest.mark.slow
def test_import_needs_neither_mmdet_nor_mmseg() -> None:
    """Importing mmpl.datasets loads no more of them than mmpretrain does by itself."""
    code = (
        'import sys, mmpretrain.datasets; before = set(sys.modules); import mmpl.datasets; '
        "print([m for m in set(sys.modules) - before if m.split('.')[0] in ('mmdet', 'mmseg')])"
    )
    repo = str(Path(__file__).resolve().parents[2])
    out = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True, cwd=repo)
    assert out.stdout.strip().endswith('[]')
