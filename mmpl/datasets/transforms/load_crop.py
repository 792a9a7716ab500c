"""Load and crop in one: what the crop throws away is neither decoded nor resized."""

import io
import math
from collections.abc import Sequence
from typing import Any, Literal

import cv2
import numpy as np
import torch
from mmengine import fileio
from mmpretrain.datasets.transforms import RandomResizedCrop
from PIL import Image
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from mmpl.registry import TRANSFORMS
from mmpl.utils.fields import Count, Share, check_number, checked

from ..decode import JPEG, ColorType, Decoder, Pages, take
from ..image_facts import orientation_of

INTERPOLATIONS = dict(bilinear=Image.Resampling.BILINEAR, bicubic=Image.Resampling.BICUBIC)
REDUCTIONS = {8: cv2.IMREAD_REDUCED_COLOR_8, 4: cv2.IMREAD_REDUCED_COLOR_4, 2: cv2.IMREAD_REDUCED_COLOR_2}
MIRRORED_X, MIRRORED_Y = (2, 3, 6, 7), (3, 4, 7, 8)  # orientations that turn an axis of the upright image around


@TRANSFORMS.register_module()
class LoadRandomResizedCrop(RandomResizedCrop):
    """``LoadImage``, ``RandomResizedCrop`` (Pillow) and ``RandomFlip`` in one, in less than half the time.

    Draws the same crops and flips as those three from the same state of numpy's generator, and gives pixels that differ
    by rounding alone, except where a JPEG is decoded at reduced size:

    - A JPEG is decoded at 1/2, 1/4 or 1/8 of its size (libjpeg's reduced sizes) if the crop still has at least
      ``oversample`` pixels per output pixel; the crop's box is not rounded to whole pixels.
    - Otherwise the crop is resized by torch's antialiased filter, which is Pillow's with SIMD.
    - Images stay uint8 in BGR order, as the stock pipeline's; the data preprocessor makes floats of them.
    - Any number of channels is resized alike, where Pillow takes a second or fourth for transparency.

    Args:
        scale: Output (height, width), or the side of a square.
        crop_ratio_range: Area of a crop over that of the image.
        aspect_ratio_range: Width of a crop over its height.
        max_attempts: Draws before a centre crop is taken.
        interpolation: Antialiased.
        flip_prob: Probability of a horizontal flip; 0 draws nothing, as a pipeline without ``RandomFlip``.
        oversample: Pixels of the decoded crop per output pixel, along each side, that a reduced size must leave; at
            least 1, so that nothing is ever enlarged because of it. ``inf`` never reduces. The default is our choice.
        backend_args: File backend, as ``LoadImageFromFile``.
        color_type: As of :class:`mmpl.LoadImage`, and so are the next four.
        scaling: How numbers become 0 to 255.
        percentiles: For ``scaling='percentile'``.
        bands: Which bands to take.
        pages: Which pages to take.
    """

    @checked()
    def __init__(
        self,
        scale: Sequence[int] | int,
        crop_ratio_range: tuple[float, float] = (0.08, 1.0),
        aspect_ratio_range: tuple[float, float] = (3 / 4, 4 / 3),
        max_attempts: Count = 10,
        interpolation: Literal['bicubic', 'bilinear'] = 'bicubic',
        flip_prob: Share = 0.0,
        oversample: Any = 1.0,
        backend_args: dict | None = None,
        color_type: ColorType = 'color',
        scaling: str | Sequence[float] | None = None,
        percentiles: Sequence[float] = (1, 99),
        bands: Sequence[int] | None = None,
        pages: Pages = 'first',
    ) -> None:
        if oversample != float('inf'):
            check_number('oversample', oversample, 1)
        super().__init__(scale, crop_ratio_range, aspect_ratio_range, max_attempts, interpolation, backend='pillow')
        self.flip_prob = flip_prob
        self.oversample = oversample
        self.backend_args = backend_args
        self.decoder = Decoder.of(color_type, scaling, percentiles, bands, pages)
        self.reduces = self.decoder.plain and color_type == 'color'

    def transform(self, results: dict) -> dict:
        """Load and crop.

        Args:
            results: With ``img_path``.

        Returns:
            With ``img`` (height, width, channels), three in BGR order, ``img_shape``, ``ori_shape`` and, if anything is
            ever flipped, ``flip`` and ``flip_direction``.

        Raises:
            ValueError: The file holds no image, or it has to be said how it is to be loaded.
        """
        path = results['img_path']
        content = fileio.get(path, backend_args=self.backend_args)
        shape, orientation = jpeg_shape(content) if self.reduces else (None, 1)
        img = None
        if shape is None:
            img = self._decode(content, path)
            shape = img.shape[:2]
        box = self.rand_crop_params(np.broadcast_to(np.uint8(0), (*shape, 3)))  # reads the shape alone
        reduction = 1 if img is not None else self.reduction(*box[2:])
        if reduction > 1:
            image = self._crop_reduced(decode_reduced(content, path, reduction), box, shape, reduction, orientation)
        else:
            image = self._crop(self._decode(content, path) if img is None else img, box)
        if self.flip_prob:
            # RandomFlip draws by np.random.choice, which takes one number in [0, 1) and compares
            results['flip'] = bool(np.random.random_sample() < self.flip_prob)
            results['flip_direction'] = 'horizontal' if results['flip'] else None
            if results['flip']:
                image = image.flip(-1)
        results['img'] = image.permute(1, 2, 0).numpy()  # seen as (h, w, c); PackInputs sees it back without a copy
        results['img_shape'] = results['img'].shape
        results['ori_shape'] = tuple(shape)
        return results

    def reduction(self, height: int, width: int) -> int:
        """By what a JPEG may be reduced while it is decoded, for a crop of so many pixels of the whole image."""
        for factor in REDUCTIONS:
            if height >= factor * self.oversample * self.scale[0] and width >= factor * self.oversample * self.scale[1]:
                return factor
        return 1

    def _decode(self, content: bytes, path: str) -> np.ndarray:
        """Decode at full size; (h, w, c)."""
        img = take(self.decoder(content, path), path)
        return img if img.ndim == 3 else img[..., None]

    def _crop(self, img: np.ndarray, box: tuple[int, int, int, int]) -> Tensor:
        """Crop and resize an image of full size; (c, h, w)."""
        top, left, height, width = box
        crop = torch.from_numpy(img[top : top + height, left : left + width]).permute(2, 0, 1)[None]
        return F.interpolate(crop, tuple(self.scale), mode=self.interpolation, antialias=True)[0]

    def _crop_reduced(
        self, img: np.ndarray, box: tuple[int, int, int, int], shape: tuple[int, int], factor: int, orientation: int
    ) -> Tensor:
        """Crop and resize an image of reduced size, whose box may lie between pixels; (3, h, w)."""
        top, left, height, width = (number / factor for number in box)
        # libjpeg rounds sizes up: the last row and column of the file are less than whole, in a turned image the first
        top += img.shape[0] - shape[0] / factor if orientation in MIRRORED_Y else 0
        left += img.shape[1] - shape[1] / factor if orientation in MIRRORED_X else 0
        x, y = int(left), int(top)
        around = Image.fromarray(img[y : math.ceil(top + height), x : math.ceil(left + width)])
        small = around.resize(
            tuple(self.scale[::-1]),
            INTERPOLATIONS[self.interpolation],
            box=(left - x, top - y, left - x + width, top - y + height),
        )
        return torch.from_numpy(np.array(small)).permute(2, 0, 1).contiguous()

    def __repr__(self) -> str:
        fields = super().__repr__()[:-1]
        return f'{fields}, flip_prob={self.flip_prob}, oversample={self.oversample}, {self.decoder})'


def jpeg_shape(content: bytes) -> tuple[tuple[int, int] | None, int]:
    """Size of a JPEG when it is upright, read from its header.

    Returns:
        Height and width, or None if it is no JPEG with a header that can be read, and the EXIF orientation.
    """
    if not content.startswith(JPEG):
        return None, 1
    try:
        with Image.open(io.BytesIO(content)) as image:
            orientation = orientation_of(image)
            width, height = image.size
    except Exception:  # of a damaged header or EXIF nearly anything; OpenCV may still read it
        return None, 1
    return ((width, height) if orientation in (5, 6, 7, 8) else (height, width)), orientation


def decode_reduced(content: bytes, path: str, factor: int) -> np.ndarray:
    """Decode a JPEG at a fraction of its size to an upright BGR image (h, w, 3).

    Raises:
        ValueError: There is no image in it.
    """
    img = cv2.imdecode(np.frombuffer(content, np.uint8), REDUCTIONS[factor])
    if img is None:
        raise ValueError(f'{path!r} holds no image that OpenCV can read ({len(content)} bytes)')
    return img
