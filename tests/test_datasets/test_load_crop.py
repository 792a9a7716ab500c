"""The fused loader against mmpretrain's pipeline: same crops and flips, nearly the same pixels."""

from pathlib import Path

import cv2
import mmpretrain.datasets  # noqa: F401
import numpy as np
import pytest
import torch
from mmengine.dataset import Compose
from mmpretrain.registry import TRANSFORMS
from PIL import Image

from bench.photos import PHOTOS, write_photos
from mmpl.datasets.image_facts import ORIENTATION
from mmpl.datasets.transforms import LoadRandomResizedCrop
from mmpl.datasets.transforms import load_crop as module

CROP = dict(scale=64, crop_ratio_range=(0.2, 1.0), interpolation='bicubic')


def stock(flip: float = 0.5, **kwargs) -> Compose:
    steps = [
        dict(type='LoadImageFromFile'),
        dict(type='RandomResizedCrop', backend='pillow', **{**CROP, **kwargs}),
        dict(type='RandomFlip', prob=flip),
        dict(type='PackInputs'),
    ]
    return Compose([TRANSFORMS.build(step) for step in steps])


def ours(flip: float = 0.5, **kwargs) -> Compose:
    steps = [
        dict(type='mmpl.LoadRandomResizedCrop', flip_prob=flip, **{**CROP, **kwargs}),
        dict(type='PackInputs'),
    ]
    return Compose([TRANSFORMS.build(step) for step in steps])


def both(path: Path, seed: int, flip: float = 0.5, oversample: float = 1.0, **kwargs) -> tuple[dict, dict]:
    """One image through both pipelines from the same state of numpy's generator, which must end the same too."""
    results, ends = [], []
    for pipeline in (stock(flip, **kwargs), ours(flip, oversample=oversample, **kwargs)):
        np.random.seed(seed)
        results.append(pipeline(dict(img_path=str(path), sample_idx=seed)))
        ends.append(np.random.random())
    assert ends[0] == ends[1], 'a different number of draws'
    return results[0], results[1]


@pytest.fixture(scope='module')
def photos(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return write_photos(tmp_path_factory.mktemp('photos'), len(PHOTOS), (500, 375))


def difference(a: dict, b: dict) -> torch.Tensor:
    return (a['inputs'].int() - b['inputs'].int()).abs()


@pytest.mark.smoke
def test_full_size_differs_by_rounding_alone(photos: list[Path]) -> None:
    """At 224 pixels no reduced size of a 500 x 375 JPEG is large enough."""
    flips = 0
    for seed, path in enumerate(photos):
        a, b = both(path, seed, scale=224)
        assert b['inputs'].dtype == torch.uint8
        assert b['inputs'].shape == (3, 224, 224)
        assert difference(a, b).max() <= 2
        assert difference(a, b).float().mean() < 0.1
        for field in ('img_shape', 'ori_shape', 'img_path', 'sample_idx', 'flip', 'flip_direction'):
            assert getattr(a['data_samples'], field) == getattr(b['data_samples'], field), field
        flips += b['data_samples'].flip
    assert 0 < flips < len(photos)


@pytest.mark.parametrize('scale', [112, 56, 28])
def test_reduced_size_differs_little(photos: list[Path], monkeypatch: pytest.MonkeyPatch, scale: int) -> None:
    factors = []
    original = LoadRandomResizedCrop.reduction
    monkeypatch.setattr(
        LoadRandomResizedCrop, 'reduction', lambda self, *args: factors.append(original(self, *args)) or factors[-1]
    )
    means = []
    for seed, path in enumerate(photos):
        for crop in range(3):
            gap = difference(*both(path, 10 * seed + crop, scale=scale)).float()
            if factors[-1] > 1:
                means.append(gap.mean().item())
                assert gap.quantile(0.99) <= 24, (path, crop)
    assert max(factors) == {112: 2, 56: 4, 28: 8}[scale]
    assert np.mean(means) < 2, means
    assert max(means) < 6, means


def ramp(path: Path, width: int, height: int, orientation: int = 1) -> None:
    """JPEG whose red says x and whose green says y, of the upright image, both from 0 to 1 as 30 to 220."""
    x, y = np.meshgrid((np.arange(width) + 0.5) / width, (np.arange(height) + 0.5) / height)
    pixels = Image.fromarray(np.stack([30 + 190 * x, 30 + 190 * y, np.full_like(x, 128)], -1).round().astype(np.uint8))
    undo = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    if orientation in undo:
        pixels = pixels.transpose(undo[orientation])
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    pixels.save(path, quality=98, subsampling='4:4:4', exif=exif)


@pytest.mark.parametrize('orientation', range(1, 9))
@pytest.mark.parametrize('oversample', [1.0, float('inf')])
def test_geometry_is_that_of_the_stock_pipeline(tmp_path: Path, orientation: int, oversample: float) -> None:
    """Reduced by 8 one pixel off would be 8 pixels; what is allowed is a tenth of an output pixel."""
    path = tmp_path / 'ramp.jpg'
    ramp(path, 803, 597, orientation)
    for seed in range(4):
        a, b = both(path, seed, oversample=oversample, scale=40)
        assert a['data_samples'].ori_shape == b['data_samples'].ori_shape == (597, 803)
        inside = (slice(None), slice(2, -2), slice(2, -2))
        gap = a['inputs'].float()[inside] - b['inputs'].float()[inside]
        for channel, along in ((2, 2), (1, 1)):  # BGR: red runs along x, green along y
            slope = a['inputs'][channel].float()[2:-2, 2:-2].diff(dim=along - 1).mean().abs()
            assert gap[channel].mean().abs() < 0.1 * slope, (seed, channel)


def test_reduction_never_enlarges() -> None:
    load = LoadRandomResizedCrop(scale=(100, 50))
    assert [load.reduction(*crop) for crop in ((199, 400), (200, 100), (400, 199), (400, 200), (800, 400))] == [
        1, 2, 2, 4, 8,
    ]  # fmt: skip
    assert LoadRandomResizedCrop(scale=(100, 50), oversample=1.5).reduction(400, 200) == 2
    assert LoadRandomResizedCrop(scale=(100, 50), oversample=float('inf')).reduction(4000, 2000) == 1


def test_a_reduced_jpeg_is_never_decoded_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flags = []
    original = cv2.imdecode
    monkeypatch.setattr(module.cv2, 'imdecode', lambda data, flag: flags.append(flag) or original(data, flag))
    ramp(tmp_path / 'a.jpg', 800, 600)
    LoadRandomResizedCrop(scale=64, crop_ratio_range=(0.9, 1))(dict(img_path=str(tmp_path / 'a.jpg')))
    assert flags == [cv2.IMREAD_REDUCED_COLOR_8]


@pytest.mark.parametrize('kind', ['png', 'grey', 'cmyk', 'bmp'])
def test_other_images_are_the_same(tmp_path: Path, kind: str) -> None:
    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 255, (9, 12, 3), dtype=np.uint8)).resize((120, 90))
    image = image.convert({'grey': 'L', 'cmyk': 'CMYK'}.get(kind, 'RGB'))
    path = tmp_path / f'image.{kind if kind in ("png", "bmp") else "jpg"}'
    image.save(path)
    for seed in range(3):
        assert difference(*both(path, seed)).max() <= 2


def test_without_flips_nothing_is_drawn_for_them(photos: list[Path]) -> None:
    load = LoadRandomResizedCrop(**CROP)
    np.random.seed(0)
    results = load(dict(img_path=str(photos[0])))
    assert 'flip' not in results
    after = np.random.random()
    np.random.seed(0)
    plain = TRANSFORMS.build(dict(type='RandomResizedCrop', **CROP))
    plain.rand_crop_params(np.empty((375, 500, 3)))
    assert after == np.random.random()


def test_refuses_what_is_no_image(tmp_path: Path) -> None:
    for content in (b'', b'text', module.JPEG + b'cut'):
        (tmp_path / 'x.jpg').write_bytes(content)
        with pytest.raises(ValueError, match=r"x\.jpg' holds no image that OpenCV can read"):
            LoadRandomResizedCrop(**CROP)(dict(img_path=str(tmp_path / 'x.jpg')))


@pytest.mark.parametrize(
    ('fields', 'message'),
    [
        (dict(interpolation='area'), r"`interpolation` must be one of \['bicubic', 'bilinear'\], but got 'area'"),
        (dict(flip_prob=1.5), r'`flip_prob` must be a number in \[0, 1\], but got 1.5'),
        (dict(oversample=0.5), r'`oversample` must be a number in \[1, inf\), but got 0.5'),
    ],
)
def test_refuses(fields: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LoadRandomResizedCrop(**{**CROP, **fields})


def test_a_damaged_exif_costs_no_image(tmp_path: Path) -> None:
    path = tmp_path / 'a.jpg'
    Image.fromarray(np.full((40, 60, 3), 90, np.uint8)).save(path, exif=b'Exif\0\0II*\0\x08')
    assert module.jpeg_shape(path.read_bytes()) == (None, 1)
    assert LoadRandomResizedCrop(scale=16)(dict(img_path=str(path)))['img'].shape == (16, 16, 3)
