"""Handwritten digits, alone on a background and several to a scene: 5,000 of MNIST on photographs.

Self-supervised clusters learn whatever varies most. Hence in the variant ``plain`` the digit's shape varies most, and
geometry, ink and background only moderately; ``hard`` adds clutter, colour and photographs.

The splits share no source digit and no region of a photograph. Source of all numbers here: our choice.
"""

import dataclasses
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from PIL import Image

from .base import SPLITS, Amount, DrawingParams, EmbeddedSet
from .scenes import Candidate, Scene, place_objects, random_place
from .sources import DIGIT_INK, DIGIT_SIDE, load_digits, open_photo

PER_CLASS = {'train': (0, 400), 'val': (400, 450), 'test': (450, 500)}  # slots of the shuffled 500 digits of a class
PHOTO_COLUMNS = {'train': (0.0, 0.6), 'val': (0.6, 0.8), 'test': (0.8, 1.0)}  # share of a photograph's width
PHOTOS = (
    'skimage/data/astronaut.png', 'skimage/data/brick.png', 'skimage/data/chelsea.png', 'skimage/data/coffee.png',
    'skimage/data/grass.png', 'skimage/data/gravel.png', 'skimage/data/motorcycle_left.png', 'skimage/data/rocket.jpg',
    'sklearn/datasets/images/china.jpg', 'sklearn/datasets/images/flower.jpg',
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class DigitParams(DrawingParams):
    """Strength of every factor of variation."""

    rotation: float = 15.0  # largest, to either side, in degrees
    scale: tuple[float, float] = (0.75, 1.1)  # 1 maps the 28x28 source to the whole image
    shift: float = 2.0  # largest, to either side along each axis, in pixels of a class-folder image
    shear: float = 0.1  # largest, horizontal, to either side; 0.1 moves the top by 0.1 of the height
    ink: tuple[float, float] = (215.0, 255.0)  # brightness
    ink_saturation: tuple[float, float] = (0.0, 0.0)  # HSV, with uniform hue; 0 is grey
    background_level: tuple[float, float] = (20.0, 40.0)  # the background's mean brightness
    background_contrast: float = 0.1  # of the photograph around that mean; 0 is flat, 1 the photograph's own
    background_colour: float = 0.0  # share of the photograph's colour that is kept; 0 is grey
    clutter: tuple[int, int] = (0, 0)  # number of fragments of other digits in an image
    clutter_opacity: float = 0.0
    scene_digits: tuple[int, int] = (2, 6)  # number of digits in a scene
    scene_digit_size: tuple[float, float] = (20.0, 40.0)  # height of the ink in pixels of a scene, before rotation


@dataclasses.dataclass(frozen=True)
class DigitAmount(Amount):
    """As :class:`Amount`; a source digit gives ``renders`` images in train, val and test, each of its own geometry."""

    renders: tuple[int, int, int]

    @property
    def digits(self) -> tuple[int, ...]:
        """Source digits of a class in train, val and test."""
        return tuple(images // renders for images, renders in zip(self.images, self.renders, strict=True))

    def record(self) -> dict[str, Any]:
        """What ``meta.json`` says of it."""
        return {'amount': {'digits': self.digits, 'renders': self.renders, 'scenes': self.scenes}}


def split_digits(labels: np.ndarray, digits: tuple[int, ...], seed: int) -> dict[str, list[list[int]]]:
    """Source digits by split and class. The slots of the splits are disjoint, the same in all sizes."""
    split: dict[str, list[list[int]]] = {name: [] for name in SPLITS}
    for digit in range(10):
        order = np.random.default_rng([seed, 1, digit]).permutation(np.flatnonzero(labels == digit))
        for name, wanted in zip(SPLITS, digits, strict=True):
            start, stop = PER_CLASS[name]
            if not 1 <= wanted <= stop - start:
                raise ValueError(f'{name} wants {wanted} digits per class, allowed are 1 to {stop - start}')
            split[name].append(sorted(int(i) for i in order[start : start + wanted]))
    return split


def enlarge(digit: np.ndarray) -> Image.Image:
    """A digit at four times its size, so that a bilinear warp of it is smooth."""
    return Image.fromarray(digit).resize((4 * DIGIT_SIDE, 4 * DIGIT_SIDE), Image.Resampling.LANCZOS)


def warp(
    digit: Image.Image, side: int, field: float, angle: float, shear: float, shift: tuple[float, float] = (0.0, 0.0)
) -> np.ndarray:
    """Ink of a digit that is scaled, sheared, turned and shifted, anti-aliased.

    Args:
        digit: Of :func:`enlarge`.
        side: Of the output, in pixels.
        field: Pixels of the output to which the 28 of the source are scaled.
        angle: In degrees.
        shear: Horizontal.
        shift: x and y in pixels of the output.

    Returns:
        (side, side) float32 in [0, 1].
    """
    over = 2  # rendered twice as large, then averaged over 2x2 pixels
    cos, sin = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    scale = digit.width / (over * field)  # output -> source: the inverse of scale * rotation * shear
    xx, xy, yx, yy = scale * (cos + shear * sin), scale * (sin - shear * cos), -scale * sin, scale * cos
    cx, cy = over * (side / 2 + shift[0]), over * (side / 2 + shift[1])
    middle = digit.width / 2
    matrix = (xx, xy, middle - xx * cx - xy * cy, yx, yy, middle - yx * cx - yy * cy)
    size = (over * side, over * side)
    warped = digit.transform(size, Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR)
    return np.asarray(warped.reduce(over), dtype=np.float32) / 255


def cover(ink: np.ndarray) -> np.ndarray:
    """Mask of a digit: its ink (above one half), dilated by one pixel, holes filled. (h, w) float -> (h, w) bool."""
    from scipy import ndimage

    return ndimage.binary_fill_holes(ndimage.binary_dilation(ink > 0.5))


class DigitRenderer:
    """Draws digits; see :class:`mmpl.datasets.embedded.base.Renderer`."""

    def __init__(self, params: DigitParams, amount: DigitAmount, seed: int) -> None:
        self.params, self.amount, self.seed = params, amount, seed
        self.digits, self.labels = load_digits()
        self.split = split_digits(self.labels, amount.digits, seed)
        self.meta = {'source_ids': {name: sorted(sum(ids, [])) for name, ids in self.split.items()}}
        self.enlarged: dict[int, Image.Image] = {}  # made when first needed
        photos = [open_photo(name) for name in PHOTOS]
        self.photos = {
            split: [p.crop((int(low * p.width), 0, int(high * p.width), p.height)) for p in photos]
            for split, (low, high) in PHOTO_COLUMNS.items()
        }

    def images(self, split: str, label: int) -> Iterator[tuple[int, int, np.ndarray]]:
        """Images of a class, ``renders`` of each source digit."""
        number = SPLITS.index(split)
        for source in self.split[split][label]:
            for k in range(self.amount.renders[number]):
                rng = np.random.default_rng([self.seed, 2, number, source, k])
                yield source, k, self._image(rng, split, source)

    def _image(self, rng: np.random.Generator, split: str, source: int) -> np.ndarray:
        """One digit on a background."""
        p = self.params
        field = p.image_size * rng.uniform(*p.scale)
        angle, shear = rng.uniform(-p.rotation, p.rotation), rng.uniform(-p.shear, p.shear)
        shift = (rng.uniform(-p.shift, p.shift), rng.uniform(-p.shift, p.shift))
        ink = warp(self._digit(source), p.image_size, field, angle, shear, shift)[..., None]
        canvas = self._background(rng, split, p.image_size)
        self._add_clutter(rng, split, canvas, int(rng.integers(p.clutter[0], p.clutter[1] + 1)), field)
        canvas += ink * (self._ink_colour(rng) - canvas)
        return self._finish(rng, canvas)

    def scene(self, split: str, index: int) -> Scene:
        """Digits of random classes on one background."""
        p = self.params
        rng = np.random.default_rng([self.seed, 3, SPLITS.index(split), index])
        canvas = self._background(rng, split, p.scene_size)
        middle = sum(p.scene_digit_size) / 2 * DIGIT_SIDE / DIGIT_INK
        self._add_clutter(rng, split, canvas, 2 * int(rng.integers(p.clutter[0], p.clutter[1] + 1)), middle)

        def draw() -> Candidate | None:
            source = self._random_source(rng, split)
            field = rng.uniform(*p.scene_digit_size) * DIGIT_SIDE / DIGIT_INK
            angle, shear = rng.uniform(-p.rotation, p.rotation), rng.uniform(-p.shear, p.shear)
            ink = warp(self._digit(source), math.ceil(1.5 * field), field, angle, shear)
            shape = cover(ink)
            rows, columns = np.flatnonzero(shape.any(1)), np.flatnonzero(shape.any(0))
            box = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
            ink, shape = ink[box], shape[box]
            place = random_place(rng, p.scene_size, shape.shape)
            if place is None:
                return None

            def paint() -> None:
                canvas[place] += ink[..., None] * (self._ink_colour(rng) - canvas[place])

            return Candidate(int(self.labels[source]), source, place, shape, paint)

        objects = place_objects(rng, p, 'scene_digits', 'scene_digit_size', draw)
        return Scene(self._finish(rng, canvas), objects)

    def _random_source(self, rng: np.random.Generator, split: str) -> int:
        sources = self.split[split][rng.integers(10)]
        return sources[rng.integers(len(sources))]

    def _digit(self, source: int) -> Image.Image:
        if source not in self.enlarged:
            self.enlarged[source] = enlarge(self.digits[source])
        return self.enlarged[source]

    def _background(self, rng: np.random.Generator, split: str, side: int) -> np.ndarray:
        """Part of a photograph, brought to the wanted brightness, contrast and colour: (side, side, 3) float32."""
        p = self.params
        photo = self.photos[split][rng.integers(len(self.photos[split]))]
        crop = min(int(side * rng.uniform(1.0, 2.0)), photo.width, photo.height)
        x, y = (int(rng.integers(0, limit - crop + 1)) for limit in photo.size)
        part = photo.crop((x, y, x + crop, y + crop)).resize((side, side), Image.Resampling.BOX)
        if rng.random() < 0.5:
            part = part.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        pixels = np.asarray(part, dtype=np.float32)
        grey = pixels.mean(-1, keepdims=True)
        pixels = grey + p.background_colour * (pixels - grey)
        return rng.uniform(*p.background_level) + p.background_contrast * (pixels - pixels.mean())

    def _ink_colour(self, rng: np.random.Generator) -> np.ndarray:
        """RGB (3,) float32 in 0 to 255, brightness and saturation from their intervals, uniform hue."""
        value, saturation, hue = rng.uniform(*self.params.ink), rng.uniform(*self.params.ink_saturation), rng.random()
        wheel = np.clip(np.abs((hue * 6 + np.array([0, 4, 2])) % 6 - 3) - 1, 0, 1)
        return (value * (1 - saturation * (1 - wheel))).astype(np.float32)

    def _add_clutter(self, rng: np.random.Generator, split: str, canvas: np.ndarray, count: int, field: float) -> None:
        """Paint fragments of other digits of the same split at random places of the canvas, in place."""
        side = canvas.shape[0]
        patch = math.ceil(field)
        for _ in range(count):
            ink = warp(self._digit(self._random_source(rng, split)), patch, field, rng.uniform(-180, 180), 0.0)
            part = max(3, round(patch * rng.uniform(0.3, 0.45)))  # a third of a digit does not tell its class
            sx, sy = rng.integers(patch // 5, max(patch - part - patch // 5, patch // 5) + 1, size=2)
            ink = ink[sy : sy + part, sx : sx + part]
            x, y = rng.integers(0, side - ink.shape[1] + 1), rng.integers(0, side - ink.shape[0] + 1)
            place = canvas[y : y + ink.shape[0], x : x + ink.shape[1]]
            place += self.params.clutter_opacity * ink[..., None] * (self._ink_colour(rng) - place)

    def _finish(self, rng: np.random.Generator, canvas: np.ndarray) -> np.ndarray:
        noise = rng.normal(0, self.params.noise, canvas.shape) if self.params.noise else 0.0
        return np.clip(np.rint(canvas + noise), 0, 255).astype(np.uint8)


DIGITS = EmbeddedSet(
    classes=tuple(f'digit_{digit}' for digit in range(10)),
    supercategory='digit',
    variants={
        'plain': DigitParams(),
        'hard': DigitParams(
            ink_saturation=(0.2, 0.6),
            background_level=(50.0, 80.0),
            background_contrast=0.4,
            background_colour=0.6,
            clutter=(1, 3),
            clutter_opacity=0.5,
        ),
    },
    sizes={
        'demo': DigitAmount(images=(800, 100, 100), scenes=(600, 150), renders=(2, 2, 2)),
        'test': DigitAmount(images=(40, 10, 10), scenes=(24, 8), renders=(2, 1, 1)),
    },
    renderer=DigitRenderer,
)
