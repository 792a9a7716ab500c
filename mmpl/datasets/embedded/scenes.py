"""Scenes: objects placed on a ground, later ones over earlier ones, with a mask of what is seen of each."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

Place = tuple[slice, slice]  # rows and columns


class SceneObject(NamedTuple):
    """One object; the masks of a scene's objects are disjoint."""

    label: int  # index of its class
    source: int  # number of the digit or tile that it shows
    mask: np.ndarray  # (H, W) bool, its visible part


class Scene(NamedTuple):
    """Pixels (H, W, 3) uint8 and what they show."""

    pixels: np.ndarray
    objects: list[SceneObject]


class Candidate(NamedTuple):
    """An object that has a place, but is not painted unless it may stand there."""

    label: int
    source: int
    place: Place
    shape: np.ndarray  # bool, which pixels of the place it covers
    paint: Callable[[], None]


def random_place(rng: np.random.Generator, side: int, shape: tuple[int, ...]) -> Place | None:
    """A uniformly random place for (height, width) pixels in a square scene, None if it is too small."""
    if max(shape) > side:
        return None
    y, x = (int(rng.integers(0, side - length + 1)) for length in shape)
    return slice(y, y + shape[0]), slice(x, x + shape[1])


def place_objects(
    rng: np.random.Generator, params: Any, number: str, size: str, draw: Callable[[], Candidate | None]
) -> list[SceneObject]:
    """Put objects into a scene.

    Args:
        rng: Draws how many are wanted; ``draw`` and ``paint`` may use it, too.
        params: :class:`~.base.DrawingParams` with the two fields below.
        number: Name of the field with the smallest and largest number of objects.
        size: Name of the field with their size, for the error.
        draw: Draws an object at a place, or None if it does not fit.

    Raises:
        ValueError: Not even the smallest number found room.
    """
    least, most = getattr(params, number)
    wanted = int(rng.integers(least, most + 1))
    placed: list[SceneObject] = []
    areas: list[int] = []  # of the whole objects
    for attempt in range(1000):
        if len(placed) == wanted or (attempt >= 100 and len(placed) >= least):
            break
        candidate = draw()
        if candidate is None:
            continue
        mask = np.zeros((params.scene_size, params.scene_size), dtype=bool)
        mask[candidate.place] = candidate.shape
        below = [old._replace(mask=old.mask & ~mask) for old in placed]
        if any(old.mask.sum() < (1 - params.scene_overlap) * area for old, area in zip(below, areas, strict=True)):
            continue  # it would hide too much of one of them
        placed = [*below, SceneObject(candidate.label, candidate.source, mask)]
        areas.append(int(mask.sum()))
        candidate.paint()
    if len(placed) < least:
        raise ValueError(
            f'{number}={(least, most)} of {size}={getattr(params, size)} do not fit into '
            f'scene_size={params.scene_size} with scene_overlap={params.scene_overlap}: allow fewer, smaller or more '
            f'overlap'
        )
    return placed
