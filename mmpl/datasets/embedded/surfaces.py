"""Crops of photographs that pip wheels carry: which photograph is it? Made on first use, nothing is downloaded.

A second embedded data set, on which what varies most is what an image is made of: fur, bricks, grass, letters, stars.
The content fills the image, as it does in photographs and as it does not in a picture of one digit. Every photograph
of ``scikit-image`` that serves is one class; it is cut into tiles, each tile belongs to one split, and an image is a
crop of one tile, grey, turned and mirrored at random, so that colour does not tell the class. Nor does exposure:

- ``surfaces``: every image has the same brightness and contrast, so that only content is left to vary;
- ``surfaces_exposure``, the harder form: every image has its own, which then varies more than content does.

One build writes class folders, and scenes of pieces cut out of the same tiles in the layout of
:mod:`mmpl.datasets.embedded`::

    <root>/<size>_<variant>[_seed<n>]/
        meta.json
        cls/{train,val,test}/<photograph>/<tile>_<k>.png
        coco/{train,val}/<id>.jpg
        coco/annotations/instances_{train,val}.json            COCO instances: tight boxes, RLE masks
        ade/images/{training,validation}/<id>.jpg
        ade/annotations/{training,validation}/<id>.png         0 = background, s + 1 = photograph s

A scene shows pieces with smooth random outlines on a plain ground of the pieces' mean brightness. Scale, turning,
mirroring and exposure of a piece are those of the class folders' crops: what a piece is made of is what an encoder has
seen in pre-training, its outline is not.

``val`` is for tuning, ``test`` for reported numbers. Source of all numbers here: our choice.
"""

import dataclasses
import importlib.util
import json
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from .digits import (
    CLASSES,
    FORMAT_VERSION,
    GENERATOR,
    PALETTE,
    SPLITS,
    VARIANTS,
    Candidate,
    Scene,
    build_embedded_dataset,
    build_once,
    check_fields,
    count_files,
    place_objects,
    write_json,
    write_scenes,
)

__all__ = [
    'SURFACES',
    'SURFACE_PALETTE',
    'SURFACE_SCENES',
    'SURFACE_SIZES',
    'SURFACE_VARIANTS',
    'SurfaceParams',
    'build_embedded_surfaces',
    'build_embedded_variant',
]

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
SURFACE_SCENES: dict[str, tuple[int, int]] = {'demo': (200, 150), 'test': (24, 8)}
"""Scenes in train and val. Few to train on: labels are what pre-training is to save."""
SURFACE_PALETTE: tuple[tuple[int, int, int], ...] = (
    *PALETTE,
    (255, 152, 150),
    (152, 223, 138),
    (0, 90, 110),
    (199, 199, 199),
    (90, 60, 160),
    (120, 120, 0),
)
"""RGB colours of the sixteen classes; the background is black."""


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
        scene_size: Side of a scene in pixels.
        scene_pieces: Smallest and largest number of pieces in a scene.
        scene_piece_size: Interval of a piece's diameter in pixels of the scene. A tile, shrunk as little as a crop is,
            must hold it: at most ``tile * image_size / crop[0]``.
        scene_outline: Largest amplitude of each wave of a piece's outline, as a share of its radius; 0 are discs.
        scene_overlap: Largest share of a piece that later pieces may hide, 0 to 1.
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
    scene_size: int = 96
    scene_pieces: tuple[int, int] = (2, 6)
    scene_piece_size: tuple[float, float] = (24.0, 48.0)
    scene_outline: float = 0.2
    scene_overlap: float = 0.15

    def __post_init__(self) -> None:
        """Check every field.

        Raises:
            ValueError: A field lies outside its range; the message names the field, its value and the range.
        """
        check_fields(
            self,
            {
                'image_size': (8, 4096),
                'tile': (8, 4096),
                'longest': (8, 65536),
                'min_std': (0, 255),
                'contrast': (0, 255),
                'brightness': (0, 255),
                'noise': (0, 255),
                'shares': (0, 0.5),
                'scene_size': (16, 8192),
                'scene_pieces': (1, 1000),
                'scene_outline': (0, 0.3),
                'scene_overlap': (0, 1),
            },
        )
        check_fields(self, {'crop': (4, self.tile)})
        largest = min(self.tile * self.image_size / self.crop[0], self.scene_size)
        check_fields(self, {'scene_piece_size': (4, largest)})


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
        size: ``'demo'`` (8,000 / 960 / 960 images, 200 / 150 scenes) or ``'test'`` (320 / 96 / 96, 24 / 8).
        seed: Seed of splits, crops and scenes, at least 0.
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
        'scenes': SURFACE_SCENES[size],
        'render': dataclasses.asdict(params),
    }
    request = json.loads(json.dumps(request))
    target = Path(root).expanduser() / (f'{size}_{variant}' + (f'_seed{seed}' if seed else ''))
    return build_once(target, request, lambda out: _write(out, request, params))


def build_embedded_variant(
    root: str | os.PathLike, size: str = 'demo', variant: str = 'plain', seed: int = 0, progress: bool = True
) -> tuple[Path, tuple[str, ...], tuple[tuple[int, int, int], ...]]:
    """Make the embedded data set to which a variant belongs, unless it is already complete.

    Args:
        root: Folder that holds all builds.
        size: ``'demo'`` or ``'test'``.
        variant: Of the digits (:data:`mmpl.datasets.embedded.VARIANTS`) or of the photographs
            (:data:`SURFACE_VARIANTS`).
        seed: Seed of the build.
        progress: Whether to show a progress bar while the digits are made.

    Returns:
        Folder of the build, names of the classes, and their colours.

    Raises:
        ValueError: Unknown size or variant, or a seed that is no integer of at least 0.
    """
    if variant not in (*VARIANTS, *SURFACE_VARIANTS):
        raise ValueError(f'variant={variant!r} is unknown: choose one of {[*VARIANTS, *SURFACE_VARIANTS]}')
    if variant in SURFACE_VARIANTS:
        return build_embedded_surfaces(root, size=size, seed=seed, variant=variant), SURFACES, SURFACE_PALETTE
    folder = build_embedded_dataset(root, size=size, variant=variant, seed=seed, progress=progress)
    return folder, CLASSES, PALETTE


def _write(out: Path, request: dict[str, Any], params: SurfaceParams) -> None:
    tiles = [_tiles(photo, params) for photo in _photographs(params)]
    seed = request['seed']
    orders = [np.random.default_rng([seed, 4, label]).permutation(len(tiles[label])) for label in range(len(tiles))]
    total, squares, count = 0.0, 0.0, 0
    for number, (split, amount) in enumerate(zip(SPLITS, request['amount'], strict=True)):
        for label, name in enumerate(SURFACES):
            folder = out / 'cls' / split / name
            folder.mkdir(parents=True)
            chosen = _share(orders[label], number, params)
            for k in range(amount):
                rng = np.random.default_rng([seed, 5, number, label, k])
                tile = int(chosen[rng.integers(len(chosen))])
                image = _crop(rng, tiles[label][tile], params)
                Image.fromarray(image).save(folder / f'{tile:04d}_{k}.png')
                if split == 'train':
                    values = image.astype(np.float64)
                    total, squares, count = total + values.sum(), squares + (values**2).sum(), count + values.size
    for number, (split, amount) in enumerate(zip(SPLITS[:2], request['scenes'], strict=True)):
        pool = [_share(order, number, params) for order in orders]
        write_scenes(out, split, _scenes(seed, number, amount, tiles, pool, params), SURFACES, 'surface')
    mean = total / count
    meta = {
        **request,
        'classes': SURFACES,
        'palette': SURFACE_PALETTE,
        'cls_train_mean': [round(mean, 3)] * 3,
        'cls_train_std': [round((squares / count - mean**2) ** 0.5, 3)] * 3,
        'files': count_files(out),
    }
    write_json(out / 'meta.json', meta)


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
    pixels = _expose(rng, _cut(rng, tile, side, params.image_size), params)
    pixels = pixels + rng.normal(0, params.noise, pixels.shape)
    return _grey(pixels)


def _cut(rng: np.random.Generator, tile: np.ndarray, side: int, size: int) -> np.ndarray:
    """A square of ``side`` pixels of a tile at ``size`` pixels, turned and mirrored: (size, size) float64."""
    y, x = rng.integers(0, tile.shape[0] - side + 1, 2)
    crop = Image.fromarray(tile[y : y + side, x : x + side]).resize((size, size), Image.Resampling.BILINEAR)
    pixels = np.rot90(np.asarray(crop, dtype=np.float64), int(rng.integers(4)))
    return pixels[:, ::-1] if rng.random() < 0.5 else pixels


def _expose(rng: np.random.Generator, pixels: np.ndarray, params: SurfaceParams) -> np.ndarray:
    """Bring pixels to a brightness and contrast out of their intervals."""
    pixels = (pixels - pixels.mean()) / max(pixels.std(), 4.0)  # an even crop is not blown up to noise
    return pixels * rng.uniform(*params.contrast) + rng.uniform(*params.brightness)


def _grey(pixels: np.ndarray) -> np.ndarray:
    """(H, W) float to (H, W, 3) uint8."""
    return np.repeat(pixels.clip(0, 255).astype(np.uint8)[..., None], 3, axis=2)


def _scenes(
    seed: int, split: int, count: int, tiles: list[list[np.ndarray]], pool: list[np.ndarray], params: SurfaceParams
) -> Iterator[Scene]:
    """The scenes of one split; ``pool`` holds the numbers of its tiles, class by class."""
    for index in range(count):
        rng = np.random.default_rng([seed, 6, split, index])
        yield _scene(rng, tiles, pool, params)


def _scene(
    rng: np.random.Generator, tiles: list[list[np.ndarray]], pool: list[np.ndarray], params: SurfaceParams
) -> Scene:
    """One scene: pixels (scene_size, scene_size, 3) uint8, and class, tile and visible mask of every piece."""
    p = params
    canvas = np.full((p.scene_size, p.scene_size), rng.uniform(*p.brightness))

    def draw() -> Candidate:
        label = int(rng.integers(len(tiles)))
        tile = int(pool[label][rng.integers(len(pool[label]))])
        shape = _outline(rng, rng.uniform(*p.scene_piece_size), p.scene_outline)
        piece = shape.shape[0]
        # As many pixels of the photograph a pixel as in a crop, but no more than the tile has.
        most = min(p.crop[1] / p.image_size, p.tile / piece)
        side = min(round(piece * rng.uniform(p.crop[0] / p.image_size, most)), p.tile)
        pixels = _expose(rng, _cut(rng, tiles[label][tile], side, piece), p)
        y, x = (int(v) for v in rng.integers(0, p.scene_size - piece + 1, 2))
        place = np.s_[y : y + piece, x : x + piece]
        mask = np.zeros(canvas.shape, dtype=bool)
        mask[place] = shape

        def paint() -> None:
            canvas[place][shape] = pixels[shape]

        return (label, tile), mask, paint

    objects = place_objects(rng, p, 'scene_pieces', 'scene_piece_size', draw)
    return _grey(canvas + rng.normal(0, p.noise, canvas.shape)), objects


def _outline(rng: np.random.Generator, diameter: float, amplitude: float) -> np.ndarray:
    """A smooth random shape around the middle of a square: (side, side) bool, side = diameter rounded down.

    The radius is 1 plus three waves over the angle, of 2, 3 and 4 periods, scaled so that its largest value is half the
    diameter.
    """
    side = math.floor(diameter)
    axis = np.arange(side) - (side - 1) / 2
    angle, radius = np.arctan2(axis[:, None], axis[None]), np.hypot(axis[:, None], axis[None])
    waves, shifts = rng.uniform(0, amplitude, 3), rng.uniform(0, 2 * math.pi, 3)

    def reach(angle: np.ndarray) -> np.ndarray:
        return 1 + sum(w * np.cos(n * angle + s) for n, w, s in zip((2, 3, 4), waves, shifts, strict=True))

    largest = reach(np.linspace(0, 2 * math.pi, 360)).max()
    return radius <= reach(angle) / largest * diameter / 2
