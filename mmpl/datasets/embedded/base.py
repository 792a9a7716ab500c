"""What an embedded data set consists of.

A new one is a file with an :class:`EmbeddedSet`: the numbers that images are drawn by, how many are made, and a
:class:`Renderer`. ``build.py`` lists it and does the rest: folders, formats, locks, reuse.
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol

import numpy as np

from .scenes import Scene

SPLITS = ('train', 'val', 'test')  # val is for tuning, test for reported numbers; scenes have the first two
PALETTE = (
    (31, 119, 180), (255, 127, 14), (44, 160, 44), (214, 39, 40), (148, 103, 189), (140, 86, 75), (227, 119, 194),
    (188, 189, 34), (23, 190, 207), (255, 221, 87), (255, 152, 150), (152, 223, 138), (0, 90, 110), (199, 199, 199),
    (90, 60, 160), (120, 120, 0),
)  # fmt: skip
"""RGB colours of the classes; the background is black."""


@dataclasses.dataclass(frozen=True)
class DrawingParams:
    """Numbers by which images are drawn; a pair is (low, high), mostly of a uniform distribution."""

    image_size: int = 32  # side of an image in the class folders, in pixels
    noise: float = 3.0  # standard deviation of Gaussian pixel noise
    scene_size: int = 96  # side of a scene in pixels
    scene_overlap: float = 0.15  # largest share of an object that later objects may hide


@dataclasses.dataclass(frozen=True)
class Amount:
    """How much is made: images of a class in train, val and test, and scenes in train and val."""

    images: tuple[int, int, int]
    scenes: tuple[int, int]

    def record(self) -> dict[str, Any]:
        """What ``meta.json`` says of it."""
        return {'amount': self.images, 'scenes': self.scenes}


class Renderer(Protocol):
    """Draws one build. Whatever it draws is a function of the seed, the split and the numbers of image or scene."""

    meta: dict[str, Any]  # what meta.json holds besides

    def images(self, split: str, label: int) -> Iterator[tuple[int, int, np.ndarray]]:
        """Images of a class: number of the source, of the image, and pixels (image_size, image_size, 3) uint8."""

    def scene(self, split: str, index: int) -> Scene:
        """One scene of ``train`` or ``val``."""


@dataclasses.dataclass(frozen=True)
class EmbeddedSet:
    """One embedded data set.

    Attributes:
        classes: Names. A class' COCO category id and its value in the semantic map are its index + 1.
        supercategory: COCO's.
        variants: Name of a variant -> how it is drawn. Names are not shared with other sets.
        sizes: Name of a size -> how much is made.
        renderer: Makes the renderer of a variant, a size and a seed.
    """

    classes: tuple[str, ...]
    supercategory: str
    variants: Mapping[str, Any]
    sizes: Mapping[str, Any]
    renderer: Callable[[Any, Any, int], Renderer]

    @property
    def palette(self) -> tuple[tuple[int, int, int], ...]:
        """RGB colours of the classes."""
        return PALETTE[: len(self.classes)]
