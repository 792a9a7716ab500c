"""Crops of photographs: which photograph is it? And scenes of pieces that are cut out of them.

What varies most is what an image is made of: fur, bricks, grass, letters, stars. The content fills the image, as in
photographs and unlike in a picture of one digit. Every photograph of scikit-image that serves is one class; it is cut
into tiles, each tile belongs to one split, and an image is a crop of one tile, grey, turned and mirrored at random, so
that colour does not tell the class. Nor does exposure:

- ``surfaces``: every image has the same brightness and contrast, so that only content is left to vary;
- ``surfaces_exposure``, the harder form: every image has its own, which then varies more than content does.

A scene shows pieces with smooth random outlines on a plain ground of the pieces' mean brightness. Scale, turning,
mirroring and exposure of a piece are those of the class folders' crops: what a piece is made of is what an encoder has
seen in pre-training, its outline is not.

Source of all numbers here: our choice.
"""

import dataclasses
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from PIL import Image

from .base import SPLITS, Amount, DrawingParams, EmbeddedSet
from .scenes import Candidate, Scene, place_objects, random_place
from .sources import open_photo

PHOTOS = (
    'astronaut.png', 'brick.png', 'camera.png', 'chelsea.png', 'coffee.png', 'coins.png', 'grass.png', 'gravel.png',
    'hubble_deep_field.jpg', 'ihc.png', 'moon.png', 'motorcycle_left.png', 'page.png', 'retina.jpg', 'rocket.jpg',
    'text.png',
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class SurfaceParams(DrawingParams):
    """How the crops and pieces are made."""

    tile: int = 64  # side in pixels of the photograph
    longest: int = 800  # longer side, in pixels, to which photographs are shrunk
    crop: tuple[int, int] = (36, 64)  # side in pixels of the photograph
    min_std: float = 6.0  # tiles with a lower standard deviation are left out: there is nothing on them
    contrast: tuple[float, float] = (45.0, 45.0)  # standard deviation of a crop
    brightness: tuple[float, float] = (124.0, 124.0)  # mean of a crop
    shares: tuple[float, float] = (0.15, 0.15)  # of tiles for val and test, at least 2
    scene_pieces: tuple[int, int] = (2, 6)  # number of pieces in a scene
    # diameter of a piece in pixels of the scene; a tile, shrunk as little as a crop is, must hold it
    scene_piece_size: tuple[float, float] = (24.0, 48.0)
    # largest amplitude of each wave of a piece's outline, as a share of its radius; 0 are discs
    scene_outline: float = 0.2


def grey_photo(name: str, longest: int) -> np.ndarray:
    """A photograph in grey, shrunk to ``longest`` pixels on its longer side if it has more: (H, W) uint8."""
    photo = open_photo(f'skimage/data/{name}')
    shrink = min(1.0, longest / max(photo.size))
    size = (int(photo.width * shrink), int(photo.height * shrink))
    return np.asarray(photo.resize(size, Image.Resampling.BILINEAR).convert('L'))


def cut_tiles(photo: np.ndarray, side: int, min_std: float) -> list[np.ndarray]:
    """Squares (side, side) that show something, row by row."""
    rows, columns = (range(0, length - side + 1, side) for length in photo.shape)
    tiles = [photo[y : y + side, x : x + side] for y in rows for x in columns]
    return [tile for tile in tiles if tile.std() >= min_std]


def split_tiles(order: np.ndarray, shares: tuple[float, float]) -> dict[str, np.ndarray]:
    """The tiles of train, val and test: disjoint parts of a shuffled list."""
    val, test = (max(2, round(share * len(order))) for share in shares)
    return {'train': order[val + test :], 'val': order[:val], 'test': order[val : val + test]}


def random_outline(rng: np.random.Generator, diameter: float, amplitude: float) -> np.ndarray:
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


class SurfaceRenderer:
    """Draws crops and pieces of photographs; see :class:`mmpl.datasets.embedded.base.Renderer`."""

    def __init__(self, params: SurfaceParams, amount: Amount, seed: int) -> None:
        self.params, self.amount, self.seed = params, amount, seed
        self.meta: dict[str, Any] = {}
        photos = [grey_photo(name, params.longest) for name in PHOTOS]
        self.tiles = [cut_tiles(photo, params.tile, params.min_std) for photo in photos]
        self.split = [  # numbers of the tiles, class by class
            split_tiles(np.random.default_rng([seed, 4, label]).permutation(len(tiles)), params.shares)
            for label, tiles in enumerate(self.tiles)
        ]

    def images(self, split: str, label: int) -> Iterator[tuple[int, int, np.ndarray]]:
        """Random crops of random tiles of a photograph."""
        p, number = self.params, SPLITS.index(split)
        for k in range(self.amount.images[number]):
            rng = np.random.default_rng([self.seed, 5, number, label, k])
            tile = self._random_tile(rng, split, label)
            side = int(rng.integers(p.crop[0], p.crop[1] + 1))
            pixels = self._exposed_crop(rng, self.tiles[label][tile], side, p.image_size)
            yield tile, k, self._finish(rng, pixels)

    def scene(self, split: str, index: int) -> Scene:
        """Pieces of random photographs on a plain ground."""
        p = self.params
        rng = np.random.default_rng([self.seed, 6, SPLITS.index(split), index])
        canvas = np.full((p.scene_size, p.scene_size), rng.uniform(*p.brightness))

        def draw() -> Candidate | None:
            label = int(rng.integers(len(self.tiles)))
            tile = self._random_tile(rng, split, label)
            shape = random_outline(rng, rng.uniform(*p.scene_piece_size), p.scene_outline)
            piece = shape.shape[0]
            # As many pixels of the photograph a pixel as in a crop, but no more than the tile has.
            most = min(p.crop[1] / p.image_size, p.tile / piece)
            side = min(round(piece * rng.uniform(p.crop[0] / p.image_size, most)), p.tile)
            pixels = self._exposed_crop(rng, self.tiles[label][tile], side, piece)
            place = random_place(rng, p.scene_size, shape.shape)
            if place is None:
                return None

            def paint() -> None:
                canvas[place][shape] = pixels[shape]

            return Candidate(label, tile, place, shape, paint)

        objects = place_objects(rng, p, 'scene_pieces', 'scene_piece_size', draw)
        return Scene(self._finish(rng, canvas), objects)

    def _random_tile(self, rng: np.random.Generator, split: str, label: int) -> int:
        tiles = self.split[label][split]
        return int(tiles[rng.integers(len(tiles))])

    def _exposed_crop(self, rng: np.random.Generator, tile: np.ndarray, side: int, size: int) -> np.ndarray:
        """A random square of ``side`` pixels of a tile, turned, mirrored and exposed: (size, size) float64."""
        y, x = rng.integers(0, tile.shape[0] - side + 1, 2)
        crop = Image.fromarray(tile[y : y + side, x : x + side]).resize((size, size), Image.Resampling.BILINEAR)
        pixels = np.rot90(np.asarray(crop, dtype=np.float64), int(rng.integers(4)))
        pixels = pixels[:, ::-1] if rng.random() < 0.5 else pixels
        pixels = (pixels - pixels.mean()) / max(pixels.std(), 4.0)  # an even crop is not blown up to noise
        return pixels * rng.uniform(*self.params.contrast) + rng.uniform(*self.params.brightness)

    def _finish(self, rng: np.random.Generator, pixels: np.ndarray) -> np.ndarray:
        """Add noise: (H, W) float to (H, W, 3) uint8."""
        pixels = pixels + rng.normal(0, self.params.noise, pixels.shape)
        return np.repeat(pixels.clip(0, 255).astype(np.uint8)[..., None], 3, axis=2)


SURFACES = EmbeddedSet(
    classes=tuple(name.split('.')[0] for name in PHOTOS),
    supercategory='surface',
    variants={
        'surfaces': SurfaceParams(),
        'surfaces_exposure': SurfaceParams(contrast=(25.0, 60.0), brightness=(80.0, 170.0)),
    },
    sizes={  # few scenes to train on: labels are what pre-training is to save
        'demo': Amount(images=(500, 60, 60), scenes=(200, 150)),
        'test': Amount(images=(20, 6, 6), scenes=(24, 8)),
    },
    renderer=SurfaceRenderer,
)
