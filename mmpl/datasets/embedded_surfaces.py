"""Crops of photographs that pip wheels carry: which photograph is it? Made on first use, nothing is downloaded.

A second embedded data set, on which what varies most is what an image is made of: fur, bricks, grass, letters, stars.
The content fills the image, as it does in photographs and as it does not in a picture of one digit. Every photograph
of ``scikit-image`` that serves is one class; it is cut into tiles, each tile belongs to one split, and an image is a
crop of one tile, grey, turned and mirrored at random, so that colour does not tell the class. Nor does exposure:

- ``surfaces``: every image has the same brightness and contrast, so that only content is left to vary;
- ``surfaces_exposure``, the harder form: every image has its own, which then varies more than content does.

One build writes class folders::

    <root>/<size>_<variant>[_seed<n>]/
        meta.json
        cls/{train,val,test}/<photograph>/<tile>_<k>.png

``val`` is for tuning, ``test`` for reported numbers. Source of all numbers here: our choice.
"""

import dataclasses
import importlib.util
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from .embedded import FORMAT_VERSION, GENERATOR, SPLITS, _count_files, _write_json, build_once

__all__ = ['SURFACES', 'SURFACE_SIZES', 'SURFACE_VARIANTS', 'SurfaceParams', 'build_embedded_surfaces']

_FILES = (
    'astronaut.png',
    'brick.png',
    'camera.png',
    'chelsea.png',
    'coffee.png',
    'coins.png',
    'grass.png',
    'gravel.png',
    'hubble_deep_field.jpg',
    'ihc.png',
    'moon.png',
    'motorcycle_left.png',
    'page.png',
    'retina.jpg',
    'rocket.jpg',
    'text.png',
)
SURFACES: tuple[str, ...] = tuple(name.split('.')[0] for name in _FILES)
"""Names of the sixteen classes."""
SURFACE_SIZES: dict[str, tuple[int, int, int]] = {'demo': (500, 60, 60), 'test': (20, 6, 6)}
"""Images per class in train, val and test."""


@dataclasses.dataclass(frozen=True)
class SurfaceParams:
    """How the crops are made.

    Attributes:
        image_size: Side of an image in pixels.
        tile: Side of a tile in pixels of the photograph.
        longest: Photographs larger than that are shrunk, in pixels of the longer side.
        crop: Smallest and largest side of a crop in pixels; at most ``tile``.
        min_std: Tiles with a lower standard deviation (0 to 255) are left out: there is nothing on them.
        contrast: Interval of the crop's standard deviation, 0 to 255.
        brightness: Interval of the crop's mean, 0 to 255.
        noise: Standard deviation of Gaussian pixel noise, 0 to 255.
        shares: Shares of the tiles of a photograph that val and test get, each at least 2 tiles.
    """

    image_size: int = 32
    tile: int = 64
    longest: int = 800
    crop: tuple[int, int] = (36, 64)
    min_std: float = 6.0
    contrast: tuple[float, float] = (45.0, 45.0)
    brightness: tuple[float, float] = (124.0, 124.0)
    noise: float = 3.0
    shares: tuple[float, float] = (0.15, 0.15)


SURFACE_VARIANTS: dict[str, SurfaceParams] = {
    'surfaces': SurfaceParams(),
    'surfaces_exposure': SurfaceParams(contrast=(25.0, 60.0), brightness=(80.0, 170.0)),
}


def build_embedded_surfaces(
    root: str | os.PathLike, size: str = 'demo', seed: int = 0, variant: str = 'surfaces'
) -> Path:
    """Make the data set unless the very same build is already complete.

    The same arguments give the same files to the last byte (with the same Pillow and numpy); any number of processes
    may call this at once.

    Args:
        root: Folder that holds all builds.
        size: ``'demo'`` (8,000 / 960 / 960 images) or ``'test'`` (320 / 96 / 96).
        seed: Seed of splits and crops, at least 0.
        variant: Key of :data:`SURFACE_VARIANTS`.

    Returns:
        Folder of the build.

    Raises:
        ValueError: Unknown size or variant, or a seed that is no integer of at least 0.
        FileExistsError: The folder exists, is not empty and was not made by this function.
        ImportError: scikit-image is missing.
    """
    if size not in SURFACE_SIZES:
        raise ValueError(f'size={size!r} is unknown: choose one of {sorted(SURFACE_SIZES)}')
    if variant not in SURFACE_VARIANTS:
        raise ValueError(f'variant={variant!r} is unknown: choose one of {sorted(SURFACE_VARIANTS)}')
    if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
        raise ValueError(f'seed={seed!r} is not allowed: expected an integer of at least 0')
    params = SURFACE_VARIANTS[variant]
    request = {
        'generator': GENERATOR,
        'version': FORMAT_VERSION,
        'size': size,
        'variant': variant,
        'seed': seed,
        'amount': SURFACE_SIZES[size],
        'render': dataclasses.asdict(params),
    }
    request = json.loads(json.dumps(request))
    target = Path(root).expanduser() / (f'{size}_{variant}' + (f'_seed{seed}' if seed else ''))
    return build_once(target, request, lambda out: _write(out, request, params))


def _write(out: Path, request: dict[str, Any], params: SurfaceParams) -> None:
    tiles = [_tiles(photo, params) for photo in _photographs(params)]
    total, squares, count = 0.0, 0.0, 0
    for number, (split, amount) in enumerate(zip(SPLITS, request['amount'], strict=True)):
        for label, name in enumerate(SURFACES):
            folder = out / 'cls' / split / name
            folder.mkdir(parents=True)
            order = np.random.default_rng([request['seed'], 4, label]).permutation(len(tiles[label]))
            chosen = _share(order, number, params)
            for k in range(amount):
                rng = np.random.default_rng([request['seed'], 5, number, label, k])
                tile = int(chosen[rng.integers(len(chosen))])
                image = _crop(rng, tiles[label][tile], params)
                Image.fromarray(image).save(folder / f'{tile:04d}_{k}.png')
                if split == 'train':
                    values = image.astype(np.float64)
                    total, squares, count = total + values.sum(), squares + (values**2).sum(), count + values.size
    mean = total / count
    meta = {
        **request,
        'classes': SURFACES,
        'cls_train_mean': [round(mean, 3)] * 3,
        'cls_train_std': [round((squares / count - mean**2) ** 0.5, 3)] * 3,
        'files': _count_files(out),
    }
    _write_json(out / 'meta.json', meta)


def _photographs(params: SurfaceParams) -> list[np.ndarray]:
    """The photographs in grey, (H, W) uint8. Opened by path: skimage.data could start a download."""
    spec = importlib.util.find_spec('skimage')  # found, not imported: that would take seconds
    if spec is None or spec.origin is None:
        raise ImportError('The embedded data set needs photographs of scikit-image: pip install scikit-image')
    folder = Path(spec.origin).parent / 'data'
    missing = [name for name in _FILES if not (folder / name).is_file()]
    if missing:
        raise FileNotFoundError(f'The installed scikit-image lacks the photographs {missing} in {folder}')
    photos = []
    for name in _FILES:
        with Image.open(folder / name) as image:
            shrink = min(1.0, params.longest / max(image.size))
            shape = (int(image.width * shrink), int(image.height * shrink))
            photos.append(np.asarray(image.convert('RGB').resize(shape, Image.Resampling.BILINEAR).convert('L')))
    return photos


def _tiles(photo: np.ndarray, params: SurfaceParams) -> list[np.ndarray]:
    side = params.tile
    tiles = [
        photo[y : y + side, x : x + side]
        for y in range(0, photo.shape[0] - side + 1, side)
        for x in range(0, photo.shape[1] - side + 1, side)
    ]
    return [tile for tile in tiles if tile.std() >= params.min_std]


def _share(order: np.ndarray, split: int, params: SurfaceParams) -> np.ndarray:
    """The tiles of train, val or test; they are disjoint."""
    held = [max(2, round(share * len(order))) for share in params.shares]
    bounds = {0: (sum(held), len(order)), 1: (0, held[0]), 2: (held[0], sum(held))}
    return order[slice(*bounds[split])]


def _crop(rng: np.random.Generator, tile: np.ndarray, params: SurfaceParams) -> np.ndarray:
    """One image, (image_size, image_size, 3) uint8."""
    side = int(rng.integers(params.crop[0], params.crop[1] + 1))
    y, x = rng.integers(0, params.tile - side + 1, 2)
    size = (params.image_size, params.image_size)
    crop = Image.fromarray(tile[y : y + side, x : x + side]).resize(size, Image.Resampling.BILINEAR)
    pixels = np.rot90(np.asarray(crop, dtype=np.float64), int(rng.integers(4)))
    if rng.random() < 0.5:
        pixels = pixels[:, ::-1]
    pixels = (pixels - pixels.mean()) / max(pixels.std(), 4.0)  # an even crop is not blown up to noise
    pixels = pixels * rng.uniform(*params.contrast) + rng.uniform(*params.brightness)
    pixels = pixels + rng.normal(0, params.noise, pixels.shape)
    return np.repeat(pixels.clip(0, 255).astype(np.uint8)[..., None], 3, axis=2)
