"""Load an image of any kind: many bits, many bands, many pages."""

from collections.abc import Sequence
from typing import Any

from mmcv.transforms import BaseTransform
from mmengine import fileio

from mmpl.registry import TRANSFORMS

from ..decode import ColorType, Decoder, Pages, take


@TRANSFORMS.register_module()
class LoadImage(BaseTransform):
    """``LoadImageFromFile`` that says what it leaves out, and can be told what to take.

    For pictures of 8 bits the pixels are those of ``LoadImageFromFile``. Files that OpenCV does not read are read by
    Pillow or, if it is installed, tifffile. The orientation in EXIF is applied. The result has 8 bits a channel: what
    more there is in a file is scaled. What is left out of a file is logged, each kind of loss once.

    Args:
        color_type: ``'color'`` gives three channels (of one band, three times the same; of four, the first three; alpha
            is dropped), ``'grayscale'`` one, ``'unchanged'`` all bands that there are.
        scaling: How numbers become 0 to 255. ``'uint16'`` takes the whole range of the file's type (of 16 bits 0 to
            65535, divided by 257; of the 12 bits that a PGM may declare 0 to 4095), leaves 8 bits as they are, and
            refuses signed numbers, floats and more than 16 bits. None does the same, and the log says where that leaves
            few of the 256 levels. ``'image'`` takes the smallest and largest number of
            each image, ``'percentile'`` its ``percentiles``, and ``(low, high)`` the same two numbers for all images,
            such as two temperatures; these three hold for files of any type. All bands of an image are scaled alike.
            A file whose numbers differ, and all become one, is refused.
        percentiles: Of the numbers of an image, for ``scaling='percentile'``; the default is our choice.
        bands: Which bands to take, counted from 1; three of them are red, green and blue.
        pages: ``'first'`` of a TIFF's pages, or all, of one band each, as ``'channels'``; these are its bands then.
        backend_args: File backend, as of ``LoadImageFromFile``.
    """

    def __init__(
        self,
        color_type: ColorType = 'color',
        scaling: str | Sequence[float] | None = None,
        percentiles: Sequence[float] = (1, 99),
        bands: Sequence[int] | None = None,
        pages: Pages = 'first',
        backend_args: dict | None = None,
    ) -> None:
        self.decoder = Decoder.of(color_type, scaling, percentiles, bands, pages)
        self.backend_args = backend_args

    def transform(self, results: dict) -> dict:
        """Load ``img_path``.

        Returns:
            With ``img``, (height, width) of one channel and (height, width, channels) of more, three in BGR order and
            others in that of the file; ``img_shape`` and ``ori_shape``.

        Raises:
            ValueError: The file holds no image, it has to be said how it is to be loaded, or nearly nothing is left.
        """
        path = results['img_path']
        img = take(self.decoder(fileio.get(path, backend_args=self.backend_args), path), path)
        results['img'] = img
        results['img_shape'] = results['ori_shape'] = img.shape[:2]
        return results

    def __repr__(self) -> str:
        return f'{type(self).__name__}({self.decoder}, backend_args={self.backend_args})'


def check_channels(transforms: Sequence[Any]) -> None:
    """Refuse Pillow's resizing behind a loader of ours that may give other than one or three channels.

    Pillow takes a second or fourth channel for transparency and multiplies the others by it; of more it has no images.
    """
    decoder = getattr(transforms[0], 'decoder', None) if transforms else None
    if not isinstance(decoder, Decoder):
        return
    fixed = decoder.bands is not None or decoder.color_type != 'unchanged'
    if fixed and (decoder.bands is None or len(decoder.bands) in (1, 3)):
        return
    for transform in transforms[1:]:
        if getattr(transform, 'backend', None) == 'pillow':
            name = type(transform).__name__
            raise ValueError(
                f"`{name}(backend='pillow')` resizes images of 1 or 3 channels only (it takes a second or fourth for "
                f'transparency and multiplies the others by it), but {transforms[0]} may give others: use '
                f"`backend='cv2'` or, in place of both, mmpl.LoadRandomResizedCrop"
            )
