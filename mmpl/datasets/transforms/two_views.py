"""A weak and a strong view of one image, for MSA and for PL-MAE with teachers that see another view."""

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
from mmcv.transforms import BaseTransform, RandomFlip
from mmengine.dataset import Compose
from mmpretrain.datasets.transforms import RandomCrop, RandomResizedCrop

from mmpl.registry import TRANSFORMS
from mmpl.utils.fields import checked

MOVING = (RandomCrop, RandomFlip, RandomResizedCrop)  # transforms that choose a place


@TRANSFORMS.register_module()
class BoxedResizedCrop(RandomResizedCrop):
    """mmpretrain's ``RandomResizedCrop`` that says where the crop was.

    Adds ``crop_box`` to the results: x1, y1, x2, y2 of the crop's edges in pixels of the image it was taken from.
    """

    def rand_crop_params(self, img: np.ndarray) -> tuple[int, int, int, int]:
        """Draw the crop: offset_h, offset_w, target_h, target_w."""
        self._drawn = super().rand_crop_params(img)
        return self._drawn

    def transform(self, results: dict) -> dict:
        """Crop and resize ``img``; add ``crop_box``."""
        results = super().transform(results)
        top, left, height, width = self._drawn
        results['crop_box'] = (left, top, left + width, top + height)
        return results


@TRANSFORMS.register_module()
class TwoViews(BaseTransform):
    """Makes a weak and a strong view: ``img`` becomes a list of the two.

    By default both share their geometry (the same crop and flip; our choice), so that token i of one and token i of the
    other show the same place. With ``own_crop`` each view draws its geometry by itself, and ``view_boxes`` (2, 4) tells
    where each lies in the image, as :func:`mmpl.models.match_places` wants it. It must be handed on with
    ``PackInputs(meta_keys=('view_boxes',))``, with shared geometry too (None); a model that aligns data tokens raises
    without it.

    Args:
        geometry: Transforms that choose the place: crop and flip. With ``own_crop`` these must be one
            ``mmpl.BoxedResizedCrop`` and, if any, one ``RandomFlip`` behind it, and nothing else may move pixels.
        strong: Transforms of the strong view that leave pixels where they are: jitter, greyscale, blur, solarise.
        own_crop: Draw the geometry of each view by itself.

    Raises:
        ValueError: The views would be the same, a transform of a single one crops or flips, or ``own_crop`` cannot tell
            from ``geometry`` where a view lies.
    """

    @checked()
    def __init__(
        self,
        geometry: Sequence[dict] = (),
        strong: Sequence[dict] = (),
        own_crop: bool = False,
    ) -> None:
        if not (strong or own_crop):
            raise ValueError('`strong` must hold at least one transform, but is empty')
        self.geometry = Compose(list(geometry))
        self.strong = Compose(list(strong))
        self.own_crop = own_crop
        moving = [type(t).__name__ for t in self.strong.transforms if isinstance(t, MOVING)]
        if moving:
            raise ValueError(f'`strong` must leave pixels where they are, but got {moving}: put it in `geometry`')
        if own_crop:
            self._check_boxes_can_be_told()

    def _check_boxes_can_be_told(self) -> None:
        moving = [type(t).__name__ for t in self.geometry.transforms if isinstance(t, MOVING)]
        if moving not in (['BoxedResizedCrop'], ['BoxedResizedCrop', 'RandomFlip']):
            raise ValueError(
                f'`geometry` must hold one `mmpl.BoxedResizedCrop` and at most one `RandomFlip`, behind it, with '
                f'`own_crop=True`, which has to know where the views lie, but got {moving}'
            )

    def transform(self, results: dict) -> dict:
        """Make the views of ``img`` (H, W, 3).

        Returns:
            ``img`` is a list of two arrays of the same shape; ``view_boxes`` is None if they share their geometry.

        Raises:
            ValueError: A view changes its size after the geometry.
        """
        for flip in ('flip', 'flip_direction') if self.own_crop else ():
            results.pop(flip, None)  # boxes are of the image as it comes
        second: dict[str, Any] | None = copy.deepcopy(results) if self.own_crop else None
        weak = self.geometry(results)
        strong = copy.deepcopy(weak) if second is None else self.geometry(second)
        boxes = [self._box(weak), self._box(strong)] if self.own_crop else None
        shapes = [view['img'].shape for view in (weak, strong)]
        strong = self.strong(strong)
        shapes.append(strong['img'].shape)
        if len(set(shapes)) > 1:
            raise ValueError(
                f'`strong` must keep the size that `geometry` gives, and both views have one size, but got {shapes}'
            )
        weak['img'] = [weak['img'], strong['img']]
        weak['view_boxes'] = None if boxes is None else np.array(boxes, dtype=np.float64)
        return weak

    @staticmethod
    def _box(results: dict) -> tuple[float, float, float, float]:
        x1, y1, x2, y2 = results['crop_box']
        direction = results.get('flip_direction') if results.get('flip') else None
        if direction in ('horizontal', 'diagonal'):
            x1, x2 = x2, x1
        if direction in ('vertical', 'diagonal'):
            y1, y2 = y2, y1
        return x1, y1, x2, y2

    def __repr__(self) -> str:
        """Its parts."""
        parts = ', '.join(f'{name}={getattr(self, name)}' for name in ('geometry', 'strong', 'own_crop'))
        return f'{type(self).__name__}({parts})'
