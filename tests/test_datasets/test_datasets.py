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

from mmpl.datasets.embedded.digits import CLASSES, build_embedded_dataset
from mmpl.datasets.embedded.surfaces import SURFACES

PIPELINE = [{'type': 'mmcv.LoadImageFromFile'}, {'type': 'mmpretrain.PackInputs'}]


@pytest.fixture(scope='module')
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp('embedded')
    build_embedded_dataset(folder, size='test', progress=False)
    return folder


def embedded_cls(root: Path, **kwargs) -> CustomDataset:
    return DATASETS.build(dict(type='mmpl.EmbeddedClassification', data_root=str(root), size='test', **kwargs))


def save(path: Path, value: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((6, 5, 3), value, dtype=np.uint8)).save(path)


@pytest.mark.parametrize(('split', 'count'), [('train', 400), ('val', 100), ('test', 100)])
def test_embedded_classification(root: Path, split: str, count: int) -> None:
    dataset = embedded_cls(root, split=split, pipeline=PIPELINE)
    assert len(dataset) == count
    assert dataset.CLASSES == CLASSES
    for index in (0, count - 1):
        item = dataset[index]
        label = int(item['data_samples'].gt_label)
        path = Path(dataset.get_data_info(index)['img_path'])
        assert path.parent.name == CLASSES[label]
        with Image.open(path) as image:  # mmcv reads BGR
            expected = torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1).flip(0)
        assert torch.equal(item['inputs'], expected)


def test_built_on_first_use(tmp_path: Path) -> None:
    dataset = embedded_cls(tmp_path / 'not' / 'yet', split='val', progress=False)
    assert len(dataset) == 100


def test_same_listing_in_mmpretrain_and_torchvision(root: Path) -> None:
    from torchvision.datasets import ImageFolder

    ours = [(i['img_path'], i['gt_label']) for i in embedded_cls(root).load_data_list()]
    folder = str(root / 'test' / 'cls' / 'train')
    stock = CustomDataset(data_root=folder)
    assert ours == [(i['img_path'], i['gt_label']) for i in (stock.get_data_info(k) for k in range(len(stock)))]
    assert ours == ImageFolder(folder).samples


def test_fraction_is_stratified_and_nested(root: Path) -> None:
    parts = [embedded_cls(root, fraction=f) for f in (0.1, 0.5)]
    small, large = ([p.get_data_info(i) for i in range(len(p))] for p in parts)
    assert np.bincount([i['gt_label'] for i in small]).tolist() == [4] * 10  # 2 of 20 digits, each rendered twice
    assert np.bincount([i['gt_label'] for i in large]).tolist() == [20] * 10
    assert {i['img_path'] for i in small} < {i['img_path'] for i in large}


@pytest.mark.parametrize(
    ('kwargs', 'message'),
    [
        ({'split': 'dev'}, "split='dev' is unknown"),
        ({'size': 'huge'}, "size='huge' is unknown"),
        ({'fraction': 0}, r'fraction=0 is not allowed'),
        ({'fraction': 1.5}, r'fraction=1.5 is not allowed'),
        ({'data_prefix': 'x'}, "data_prefix='x' is not allowed"),
    ],
)
def test_embedded_classification_rejects(root: Path, kwargs: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DATASETS.build({'type': 'mmpl.EmbeddedClassification', 'data_root': str(root), 'size': 'test', **kwargs})


def test_unlabelled_folder_finds_every_format_in_a_fixed_order(tmp_path: Path) -> None:
    names = ['b/1.jpg', 'b/c/2.JPEG', 'a.PNG', 'z.bmp', 'b/3.webp', 'b/4.tif', 'd/5.TIFF', 'd/6.ppm']
    for value, name in enumerate(names):
        save(tmp_path / name, 20 * value)
    (tmp_path / 'notes.txt').write_text('no image')
    (tmp_path / 'b' / 'jpg').write_text('no image')
    dataset = DATASETS.build(dict(type='mmpl.UnlabelledFolder', data_root=str(tmp_path), pipeline=PIPELINE))
    infos = [dataset.get_data_info(i) for i in range(len(dataset))]
    assert [i['img_path'] for i in infos] == [str(tmp_path / n) for n in sorted(names)]
    assert all('gt_label' not in i for i in infos)
    for item, name in zip((dataset[i] for i in range(len(dataset))), sorted(names), strict=True):
        assert item['inputs'].shape == (3, 6, 5)
        assert abs(int(item['inputs'].float().mean()) - 20 * names.index(name)) <= 2
        assert 'gt_label' not in item['data_samples']


def test_unlabelled_folder_feeds_the_self_supervised_preprocessor(tmp_path: Path) -> None:
    from mmengine.dataset import default_collate
    from mmpretrain.models import SelfSupDataPreprocessor

    save(tmp_path / '1.png', 10)
    save(tmp_path / '2.png', 30)
    dataset = DATASETS.build(dict(type='mmpl.UnlabelledFolder', data_root=str(tmp_path), pipeline=PIPELINE))
    batch = default_collate([dataset[0], dataset[1]])
    images = SelfSupDataPreprocessor(mean=[10.0] * 3, std=[20.0] * 3, to_rgb=True)(batch)['inputs']
    assert torch.equal(images, torch.stack([torch.zeros(3, 6, 5), torch.ones(3, 6, 5)]))


def test_unlabelled_folder_rejects(tmp_path: Path) -> None:
    def build(**kwargs) -> None:
        DATASETS.build({'type': 'mmpl.UnlabelledFolder', 'data_root': str(tmp_path), **kwargs})

    with pytest.raises(FileNotFoundError, match=r"data_root='/no/where'.*is no folder.*\.jpeg.*\.webp"):
        build(data_root='/no/where')
    (tmp_path / 'a.txt').write_text('x')
    with pytest.raises(RuntimeError, match=r'data_root=.*holds no image.*\.bmp, \.jpeg, \.jpg, .*\.tiff, \.webp'):
        build()
    save(tmp_path / 'a.png')
    with pytest.raises(RuntimeError, match='holds no image. Looked for extensions .gif'):
        build(extensions=['.gif'])
    with pytest.raises(ValueError, match="extensions='.png' is not allowed"):
        build(extensions='.png')
    with pytest.raises(ValueError, match='with_label=True'):
        build(with_label=True)
    with pytest.raises(ValueError, match='ann_file'):
        build(ann_file='list.txt')


def test_stock_class_folders_without_images_are_an_error(tmp_path: Path) -> None:
    """What we rely on: mmpretrain's reader of labelled folders refuses an empty one by itself."""
    (tmp_path / 'cat').mkdir()
    with pytest.raises(RuntimeError, match='Found 0 files'):
        CustomDataset(data_root=str(tmp_path))


DENSE = pytest.mark.parametrize(('variant', 'classes'), [('plain', CLASSES), ('surfaces', SURFACES)])
BUILDS = {'plain': 'test', 'surfaces': 'test_surfaces'}


@DENSE
@pytest.mark.parametrize('reduce_zero_label', [False, True])
def test_segmentation_in_mmseg(root: Path, reduce_zero_label: bool, variant: str, classes: tuple[str, ...]) -> None:
    pytest.importorskip('mmseg.datasets')
    pipeline = [
        {'type': 'mmcv.LoadImageFromFile'},
        {'type': 'mmseg.LoadAnnotations', 'reduce_zero_label': reduce_zero_label},
        {'type': 'mmseg.PackSegInputs'},
    ]
    dataset = DATASETS.build(
        dict(
            type='mmpl.EmbeddedSegDataset',
            data_root=str(root),
            size='test',
            variant=variant,
            split='val',
            reduce_zero_label=reduce_zero_label,
            pipeline=pipeline,
        )
    )
    assert len(dataset) == 8
    assert dataset.metainfo['classes'] == (classes if reduce_zero_label else ('background', *classes))
    assert len(dataset.metainfo['palette']) == len(dataset.metainfo['classes'])
    item = dataset[3]
    stored = np.asarray(
        Image.open(root / BUILDS[variant] / 'ade' / 'annotations' / 'validation' / '000004.png')
    ).astype(int)
    expected = np.where(stored == 0, 255, stored - 1) if reduce_zero_label else stored
    np.testing.assert_array_equal(item['data_samples'].gt_sem_seg.data[0].numpy(), expected)
    names = {dataset.metainfo['classes'][v] for v in np.unique(expected) if v != 255} - {'background'}
    assert names == {classes[v - 1] for v in np.unique(stored) if v}


@DENSE
def test_instances_in_mmdet(root: Path, variant: str, classes: tuple[str, ...]) -> None:
    pytest.importorskip('mmdet.datasets', exc_type=ImportError)
    pipeline = [
        {'type': 'mmcv.LoadImageFromFile'},
        {'type': 'mmdet.LoadAnnotations', 'with_bbox': True, 'with_mask': True},
        {'type': 'mmdet.PackDetInputs'},
    ]
    dataset = DATASETS.build(
        dict(
            type='mmpl.EmbeddedCocoDataset',
            data_root=str(root),
            size='test',
            variant=variant,
            split='val',
            pipeline=pipeline,
        )
    )
    assert len(dataset) == 8
    assert dataset.metainfo['classes'] == classes and len(dataset.metainfo['palette']) == len(classes)
    semantic = np.asarray(Image.open(root / BUILDS[variant] / 'ade' / 'annotations' / 'validation' / '000004.png'))
    instances = dataset[3]['data_samples'].gt_instances
    assert len(instances) > 0
    rebuilt = np.zeros_like(semantic)
    for mask, box, label in zip(instances.masks.masks, instances.bboxes.tensor, instances.labels, strict=True):
        ys, xs = mask.nonzero()
        assert box.tolist() == [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]
        rebuilt[mask.astype(bool)] = int(label) + 1
    np.testing.assert_array_equal(rebuilt, semantic)


@pytest.mark.parametrize('kind', ['EmbeddedSegDataset', 'EmbeddedCocoDataset'])
def test_dense_data_sets_reject_an_unknown_split(root: Path, kind: str) -> None:
    pytest.importorskip('mmseg.datasets' if 'Seg' in kind else 'mmdet.datasets', exc_type=ImportError)
    with pytest.raises(ValueError, match="split='test' is unknown"):
        DATASETS.build(dict(type=f'mmpl.{kind}', data_root=str(root), size='test', split='test'))


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
