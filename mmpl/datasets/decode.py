"""The one decoder: from a file's bytes to 8 bits a channel, and what was lost on the way."""

import importlib
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import cv2
import mmcv
import numpy as np
from mmcv.transforms import LoadImageFromFile
from mmengine.logging import print_log
from PIL import Image
from torch.utils.data import get_worker_info

from mmpl.utils.fields import check_choice, check_number, checked

from .image_facts import ImageFacts, read_facts

JPEG = b'\xff\xd8\xff'
FEW_LEVELS = 64  # of 256; fewer left of more than 8 bits are worth a word, our choice
FEW_IN_THE_CORE = 32  # the same without the smallest and largest hundredth, such as dead pixels and holes
NEARLY_ALL = 0.99  # of the pixels that are not black, our choice
_SAMPLE = 1 << 16  # pixels that tell of the core
ADVICE = "mmpl.LoadImage(scaling='percentile', 'image' or (low, high))"
ColorType = Literal['color', 'grayscale', 'unchanged']
Pages = Literal['first', 'channels']
_SCALINGS = ('uint16', 'percentile', 'image')
_FLAGS = dict(color=cv2.IMREAD_COLOR, grayscale=cv2.IMREAD_GRAYSCALE, unchanged=cv2.IMREAD_ANYCOLOR)
_OPENCV_COMPRESSIONS = (1, 2, 3, 4, 5, 7, 8, 32773, 32946, 34676, 34677)  # of TIFF, in every wheel of OpenCV
NOT_TURNED = ('WEBP', 'AVIF')
"""Formats whose orientation OpenCV does not read."""


class Decoded(NamedTuple):
    """An image, and what is not in it.

    Attributes:
        img: (h, w), or (h, w, c) with three channels in BGR order.
        lost: What of the file is not in ``img``, its kind first: ``'16-bit: ...'``, ``'bands: ...'``, ``'pages: ...'``,
            ``'orientation: ...'``.
        nothing: Why nearly nothing of the file is in ``img``; empty if that is not so.
    """

    img: np.ndarray
    lost: tuple[str, ...] = ()
    nothing: str = ''


@dataclass(frozen=True)
class Decoder:
    """Decodes as :class:`mmpl.LoadImage` does; see there for the fields."""

    color_type: str = 'color'
    scaling: str | tuple[float, float] | None = None
    percentiles: tuple[float, float] = (1.0, 99.0)
    bands: tuple[int, ...] | None = None
    pages: str = 'first'

    @classmethod
    @checked()
    def of(
        cls,
        color_type: ColorType = 'color',
        scaling: Any = None,
        percentiles: Sequence[float] = (1, 99),
        bands: Sequence[int] | None = None,
        pages: Pages = 'first',
    ) -> 'Decoder':
        """Make one from the fields of a config, checked."""
        if isinstance(scaling, (list, tuple)):
            scaling = _interval('scaling', scaling)
        elif scaling is not None and scaling not in _SCALINGS:
            check_choice('scaling', scaling, (*_SCALINGS, '(low, high)'))
        percentiles = _interval('percentiles', percentiles, 0, 100)
        if bands is not None:
            if not isinstance(bands, (list, tuple)) or not bands:
                raise ValueError(f'`bands` must be a list of numbers from 1 on, such as (3, 2, 1), but got {bands!r}')
            for band in bands:
                check_number('bands', band, 1, integer=True)
            if color_type != 'color':
                raise ValueError(f'`color_type` {color_type!r} must be left out with `bands`, which say what is loaded')
        return cls(color_type, scaling, percentiles, bands and tuple(bands), pages)

    @property
    def plain(self) -> bool:
        """Whether it leaves pictures of 8 bits as they are."""
        return self._of_the_type and self.bands is None

    @property
    def _of_the_type(self) -> bool:
        return self.scaling is None or self.scaling == 'uint16'

    def __call__(self, content: bytes, path: str) -> Decoded:
        """Decode a file.

        Args:
            content: Its bytes.
            path: For messages.

        Raises:
            ValueError: There is no image in it, or the fields do not say how it is to be loaded.
        """
        if self.plain and content.startswith(JPEG):  # always a picture of 8 bits, but for what OpenCV refuses
            img = _opencv(content, _FLAGS[self.color_type])
            if img is not None:
                return Decoded(img)
        facts = facts_of(content, path)
        lost = []
        if self.pages == 'first' and facts.tiff is not None and len(facts.pages) > 1:
            lost.append(f"pages: the first of {len(facts.pages)} is taken; see mmpl.LoadImage(pages='channels')")
        one_page = self.pages == 'first' or len(facts.pages) == 1
        if self.plain and facts.plain and one_page and not (self.color_type == 'unchanged' and facts.alpha):
            img = _picture(content, path, facts, _FLAGS[self.color_type])
            few, nothing = shrunk(facts, _first_page(content, path, facts), img) if facts.kind == 'f' else ('', '')
            return Decoded(img, (*lost, *filter(None, [few])), nothing)
        values = read_values(content, path, facts, self.pages == 'channels')
        values, dropped = self._chosen(values, facts, path)
        img = self._scaled(values, facts, path)
        nothing = ''
        if not self._of_the_type:
            nothing = flattened(facts, values, img)
        elif facts.bits > 8:
            few, nothing = shrunk(facts, values, img)
            lost += [few] if few and self.scaling is None else []
        if self.color_type == 'grayscale' and img.ndim == 3:
            img = cv2.cvtColor(np.ascontiguousarray(img[..., :3]), cv2.COLOR_RGB2GRAY)
        elif self.color_type == 'color' and self.bands is None and img.ndim == 2:
            img = np.repeat(img[..., None], 3, -1)
        elif img.ndim == 3 and img.shape[2] == 3:
            img = img[..., ::-1]
        return Decoded(np.ascontiguousarray(img), (*lost, *dropped), nothing)

    def _chosen(self, values: np.ndarray, facts: ImageFacts, path: str) -> tuple[np.ndarray, list[str]]:
        """The bands that are asked for, (h, w) of one and (h, w, n) of more, and what is said of others."""
        count = 1 if values.ndim == 2 else values.shape[2]
        if self.bands is not None:
            if max(self.bands) > count:
                raise ValueError(f'{path!r} has {count} bands, but mmpl.LoadImage(bands={self.bands}) asks for more')
            stack = values[..., None] if values.ndim == 2 else values
            chosen = stack[..., [band - 1 for band in self.bands]]
            return (chosen[..., 0] if len(self.bands) == 1 else chosen), []
        if self.color_type == 'unchanged':
            return values, []
        if facts.alpha and count == facts.bands:
            values, count = values[..., :-1], count - 1
            values = values[..., 0] if count == 1 else values
        if count in (1, 3):
            return values, []
        if count == 4:
            text = 'bands: the first three of 4 are taken as red, green and blue; see mmpl.LoadImage(bands=(3, 2, 1))'
            return values[..., :3], [text]
        raise ValueError(
            f'{path!r} has {count} bands: which of them to take has to be said, with mmpl.LoadImage(bands=(3, 2, 1)), '
            "say, counted from 1, or color_type='unchanged' for all"
        )

    def _scaled(self, values: np.ndarray, facts: ImageFacts, path: str) -> np.ndarray:
        """8 bits of the values of all bands together."""
        if self._of_the_type:
            if values.dtype == np.uint8:
                return values
            if facts.kind != 'u' or facts.bits > 16:
                low, high = _range(values)
                raise ValueError(
                    f'{path!r} holds {facts.numbers} values ({low:g} to {high:g} in this file): how they become 8 bits '
                    f'has to be said, with {ADVICE}'
                )
            low, high = 0.0, float(facts.white)
        elif self.scaling == 'percentile':
            finite = values[np.isfinite(values)]
            low, high = np.percentile(finite, self.percentiles) if finite.size else (0.0, 0.0)
        elif self.scaling == 'image':
            low, high = _range(values)
        else:
            low, high = map(float, self.scaling or ())
        if not high > low:
            return np.zeros(values.shape, np.uint8)
        scaled = (values.astype(np.float64) - low) * (255 / (high - low))
        return np.rint(np.nan_to_num(np.clip(scaled, 0, 255))).astype(np.uint8)


@dataclass(frozen=True)
class StockDecoder:
    """Decodes as mmcv's ``LoadImageFromFile`` does, and finds out what is lost by that."""

    color_type: str = 'color'
    backend: str = 'cv2'

    @property
    def plain(self) -> bool:
        """As of :class:`Decoder`."""
        return True

    def __call__(self, content: bytes, path: str) -> Decoded:
        """Decode a file.

        Raises:
            ValueError: mmcv cannot.
        """
        facts = facts_of(content, path)
        try:
            img = mmcv.imfrombytes(content, flag=self.color_type, backend=self.backend)
            reason = 'holds no image that'
        except Exception as error:  # decoders raise nearly anything
            img, reason = None, f'({type(error).__name__}: {error}) cannot be read as'
        if img is None:
            raise ValueError(
                f'{path!r} {reason} LoadImageFromFile(imdecode_backend={self.backend!r}) reads ({describe(facts)}); '
                'mmpl.LoadImage reads more'
            )
        lost, nothing = [], ''
        if img.dtype == np.uint8 and (facts.bits > 8 or facts.kind != 'u'):
            few, nothing = shrunk(facts, _first_page(content, path, facts), img)
            lost += [few] if few else []
        bands = 1 if img.ndim == 2 else img.shape[2]
        bands = 1 if facts.colours == 2 else bands  # OpenCV repeats the first
        if facts.colours not in (1, 3) and facts.space != 'cmyk' and bands < facts.colours:
            lost.append(f'bands: {facts.colours} become {bands}; see mmpl.LoadImage(bands=(3, 2, 1))')
        if facts.tiff is not None and len(facts.pages) > 1 and self.backend != 'tifffile':
            lost.append(f"pages: the first of {len(facts.pages)} is taken; see mmpl.LoadImage(pages='channels')")
        turned = self.color_type != 'unchanged' and not (self.backend == 'cv2' and facts.format in NOT_TURNED)
        if facts.orientation != 1 and facts.tiff is None and not turned:
            lost.append(f'orientation: {facts.orientation} of EXIF is not applied; mmpl.LoadImage applies it')
        return Decoded(img, tuple(lost), nothing)


AnyDecoder = Decoder | StockDecoder


def facts_of(content: bytes, path: str) -> ImageFacts:
    """What the header of an image says, or the pixels where only OpenCV knows the format.

    Raises:
        ValueError: It is no image, or its header is damaged.
    """
    try:
        facts = read_facts(io.BytesIO(content)) if content else None
    except Exception as error:  # of a damaged header nearly anything
        if not content.startswith(JPEG):
            raise ValueError(f'{path!r} has a damaged header: {type(error).__name__}: {error}') from error
        facts = None
    if facts is None:
        img = _opencv(content, cv2.IMREAD_UNCHANGED)
        if img is None:
            raise ValueError(f'{path!r} holds no image that OpenCV can read ({len(content)} bytes), nor Pillow')
        bits, bands = 8 * img.dtype.itemsize, 1 if img.ndim == 2 else img.shape[2]
        facts = ImageFacts(
            '', img.shape[1], img.shape[0], img.dtype.kind, bits, (1 << bits) - 1, bands, bands in (2, 4)
        )
    return facts


def describe(facts: ImageFacts) -> str:
    """Facts in words."""
    parts = [facts.format, facts.numbers or '8-bit', f'{facts.bands} bands', facts.space]
    if facts.tiff is not None:
        parts.append(f'compression {facts.tiff["compression"]}')
    return ', '.join(part for part in parts if part)


def read_values(content: bytes, path: str, facts: ImageFacts, all_pages: bool = False) -> np.ndarray:
    """The numbers in a file, as they are, upright: (h, w), or (h, w, n) in the file's order.

    Args:
        content: The file.
        path: For messages.
        facts: What its header says.
        all_pages: Stack the pages of a TIFF, of one band each, as bands.

    Raises:
        ValueError: Nothing that is installed reads it.
    """
    if not all_pages or facts.tiff is None or len(facts.pages) == 1:
        return _first_page(content, path, facts)
    pages = [_tiff_page(content, path, facts, number) for number in facts.pages]
    if len({page.shape for page in pages}) > 1 or pages[0].ndim > 2:
        raise ValueError(
            f"{path!r} has pages of {[page.shape for page in pages]}: mmpl.LoadImage(pages='channels') takes pages of "
            'one size and one band'
        )
    return np.stack(pages, -1)


def shrunk(facts: ImageFacts, values: np.ndarray, img: np.ndarray) -> tuple[str, str]:
    """What is said where other numbers became 8 bits: that few levels are left, and that nearly nothing is."""
    (low, high), left, most = _range(values), int(img.min()), int(img.max())
    what = _become(facts, f'its values, {low:g} to {high:g} in this file,', left, most)
    if facts.light:  # libtiff shows 0 to 1
        white = np.count_nonzero(values > 1) / max(np.count_nonzero(values > 0), 1)
        return ('', what) if white > NEARLY_ALL else (what if white else '', '')
    if facts.kind != 'u' or facts.bits > 16:  # cut by rules that no picture is made for, unless they fit as they are
        fits = max(abs(low - left), abs(high - most)) <= 0.5
        return '', '' if fits else what
    if high == low:
        return '', ''
    if most - left <= 1:
        return '', what
    if most - left < FEW_LEVELS:
        return what, ''
    (low, high), (left, most) = _core(values), map(int, _core(img))
    if high > low and most - left < FEW_IN_THE_CORE:
        return _become(facts, f'98 % of its values, {low:g} to {high:g} in this file,', left, most), ''
    return '', ''


def flattened(facts: ImageFacts, values: np.ndarray, img: np.ndarray) -> str:
    """What is said where different numbers became one."""
    (low, high), level = _range(values), int(img.min())
    if high == low or img.max() > level:
        return ''
    return _become(facts, f'its values, {low:g} to {high:g} in this file,', level, level)


def _become(facts: ImageFacts, what: str, left: int, most: int) -> str:
    return f'{facts.numbers or "8-bit"}: {what} become {left} to {most} of 255; see {ADVICE}'


def take(decoded: Decoded, path: str) -> np.ndarray:
    """The image, after a word on what is lost.

    Raises:
        ValueError: Nearly nothing of the file is in it.
    """
    if decoded.nothing:
        raise ValueError(f'{path!r}: nearly nothing left: {decoded.nothing}')
    say_once(path, decoded.lost)
    return decoded.img


_said: set[str] = set()  # kinds of loss, in this process


def mark_said(lost: Sequence[str]) -> list[tuple[str, str]]:
    """Kind and text of the losses that this process has not said yet, and has now."""
    new = [(kind, text) for text in lost if (kind := text.partition(':')[0]) not in _said]
    _said.update(kind for kind, _ in new)
    return new


def say_once(path: str, lost: Sequence[str]) -> None:
    """Log what is lost while loading, each kind once, by its first file; of data loader workers the first may."""
    worker = get_worker_info()
    for _, text in mark_said(lost):
        if worker is None or worker.id == 0:
            print_log(loss(path, text), logger='current', level=30)


def loss(path: str, text: str) -> str:
    """The line of the log that says what is lost."""
    return f'Not all of each file is trained on. {text} (first seen in {path!r})'


def decoder_of(dataset: Any) -> AnyDecoder | None:
    """How the images of a dataset are decoded; None if by a loader that is not known here."""
    if hasattr(dataset, 'datasets'):  # mmengine's ConcatDataset
        found = {decoder_of(part) for part in dataset.datasets}
        return found.pop() if len(found) == 1 else None
    transforms = getattr(getattr(dataset, 'pipeline', None), 'transforms', None)
    if transforms is None:
        return decoder_of(dataset.dataset) if hasattr(dataset, 'dataset') else None
    return decoder_of_transform(transforms[0]) if transforms else None


def decoder_at(dataset: Any, index: int) -> AnyDecoder | None:
    """How the image of a sample is decoded, which may differ between the parts of a ``ConcatDataset``."""
    inner = getattr(dataset, 'datasets', None) or getattr(dataset, 'dataset', None)
    if inner is None or not hasattr(dataset, '_get_ori_dataset_idx'):
        return decoder_of(dataset)
    place = dataset._get_ori_dataset_idx(index)
    return decoder_at(inner[place[0]], place[1]) if isinstance(inner, list) else decoder_at(inner, place)


def decoder_of_transform(transform: Any) -> AnyDecoder | None:
    """How a transform decodes; None if it is none of ours or mmcv's, or reads from elsewhere than the disk."""
    backend = getattr(transform, 'backend_args', None) or getattr(transform, 'file_client_args', None) or {}
    if backend.get('backend', 'local') not in ('local', 'disk'):
        return None
    if isinstance(getattr(transform, 'decoder', None), Decoder):
        return transform.decoder
    if getattr(type(transform), 'transform', None) is LoadImageFromFile.transform:
        return StockDecoder(transform.color_type, transform.imdecode_backend)
    return None


def _interval(
    field: str, value: Any, minimum: float | None = None, maximum: float | None = None
) -> tuple[float, float]:
    if not isinstance(value, (list, tuple)) or len(value) != 2:
        raise ValueError(f'`{field}` must be a pair (low, high), but got {value!r}')
    for number in value:
        check_number(field, number, minimum, maximum)
    if not value[0] < value[1]:
        raise ValueError(f'`{field}` must be a pair (low, high) with low < high, but got {value!r}')
    return float(value[0]), float(value[1])


def _range(values: np.ndarray) -> tuple[float, float]:
    finite = values[np.isfinite(values)] if values.dtype.kind == 'f' else values
    return (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)


def _core(values: np.ndarray) -> tuple[float, float]:
    """The range without the smallest and the largest hundredth of a sample of pixels."""
    pixels = values.reshape(values.shape[0] * values.shape[1], -1)
    low, high = np.percentile(pixels[:: max(1, len(pixels) // _SAMPLE)], (1, 99))
    return float(low), float(high)


def _opencv(content: bytes, flag: int) -> np.ndarray | None:
    try:
        return cv2.imdecode(np.frombuffer(content, np.uint8), flag) if content else None
    except cv2.error:
        return None


def _picture(content: bytes, path: str, facts: ImageFacts, flag: int) -> np.ndarray:
    """A picture of 8 bits by OpenCV, and by Pillow where OpenCV cannot."""
    if facts.tiff is None or facts.tiff['compression'] in _OPENCV_COMPRESSIONS:
        turn = facts.format in NOT_TURNED
        img = _opencv(content, flag | cv2.IMREAD_IGNORE_ORIENTATION if turn else flag)
        if img is not None:
            return upright(img, facts.orientation) if turn else img
    try:
        with Image.open(io.BytesIO(content)) as image:
            grey = flag == cv2.IMREAD_GRAYSCALE or (flag == cv2.IMREAD_ANYCOLOR and facts.notes[:1] == ('greyscale',))
            img = np.array(image.convert('L' if grey else 'RGB'))
    except Exception as error:  # of damaged files nearly anything
        raise ValueError(
            f'{path!r} holds no image that OpenCV can read ({describe(facts)}), nor Pillow: {error}'
        ) from error
    img = img if facts.tiff is not None else upright(img, facts.orientation)  # Pillow itself turns a TIFF
    return img if grey else np.ascontiguousarray(img[..., ::-1])


def _first_page(content: bytes, path: str, facts: ImageFacts) -> np.ndarray:
    if facts.plain and facts.kind == 'u' and not facts.alpha:
        grey = facts.notes[:1] == ('greyscale',)
        img = _picture(content, path, facts, cv2.IMREAD_GRAYSCALE if grey else cv2.IMREAD_COLOR)
        return img if grey else img[..., ::-1]
    if facts.tiff is not None:
        return _tiff_page(content, path, facts, 0)
    read = _opencv(content, cv2.IMREAD_UNCHANGED)
    if read is None or 8 * read.dtype.itemsize < min(facts.bits, 9):
        raise ValueError(f'{path!r}: OpenCV does not read {describe(facts)}')
    img = read
    if img.ndim == 3:
        img = img[..., [2, 1, 0, 3][: img.shape[2]]]
        img = img[..., [0, 3][: facts.bands]] if facts.colours == 1 and img.shape[2] == 4 else img
        img = img[..., 0] if facts.bands == 1 and not facts.space else img
    return upright(img, facts.orientation)


def _tiff_page(content: bytes, path: str, facts: ImageFacts, number: int) -> np.ndarray:
    """Numbers of one page, by whichever library reads this kind; a result of another kind than the header's is none."""
    size = -(-facts.bits // 8)
    dtype = np.dtype(f'{facts.kind}{1 << (size - 1).bit_length()}')
    upright = (facts.width, facts.height) if facts.orientation > 4 else (facts.height, facts.width)
    shape = (*upright, facts.bands) if facts.bands > 1 else upright
    reasons = []
    for reader in (_tiff_by_opencv, _tiff_by_pillow, _tiff_by_tifffile):
        try:
            values = reader(content, facts, number)
        except Exception as error:  # decoders raise nearly anything
            reasons.append(f'{reader.__name__.rpartition("_")[2]}: {error}')
            continue
        if values is None:
            continue
        values = values.astype(dtype, copy=False) if values.dtype.kind == dtype.kind else values
        if values.dtype == dtype and (values.shape == shape or (number and values.ndim == 2)):
            return dtype.type(facts.white) - values if facts.tiff_inverted and facts.kind == 'u' else values
    raise ValueError(
        f'{path!r} ({describe(facts)}) is read neither by OpenCV nor by Pillow, and tifffile, which may, '
        f'needs `pip install tifffile imagecodecs` {reasons}'
    )


def _tiff_by_opencv(content: bytes, facts: ImageFacts, number: int) -> np.ndarray | None:
    """OpenCV turns a TIFF upright, and reads some kinds wrongly, without a word: they are left out."""
    tiff: Any = facts.tiff
    known = (facts.bands, tiff['photometric']) in ((1, 0), (1, 1), (3, 2), (4, 2), (1, 32844), (3, 32845))
    premultiplied = facts.alpha and facts.bits == 8
    turned = facts.tiff_inverted and facts.bits == 8  # by OpenCV, unlike other kinds
    if number or not known or tiff['planar'] or premultiplied or turned:
        return None
    if tiff['compression'] not in _OPENCV_COMPRESSIONS:
        return None
    if (
        facts.bits not in (8, 16, 32, 64)
        or (facts.kind == 'f' and facts.bits == 16)
        or (facts.kind, facts.bits) == ('u', 32)
    ):
        return None
    img = _opencv(content, cv2.IMREAD_UNCHANGED)
    return img if img is None or img.ndim == 2 else img[..., [2, 1, 0, 3][: img.shape[2]]]


def _tiff_by_pillow(content: bytes, facts: ImageFacts, number: int) -> np.ndarray | None:
    transparent = facts.alpha and facts.bits == 8
    if not transparent and (facts.bands > 1 or facts.space):
        return None
    with Image.open(io.BytesIO(content)) as image:
        image.seek(number)
        values = np.array(image)  # which turns a TIFF upright
        mode = image.mode
    if mode == 'L':
        return values if facts.bits == 8 and facts.kind == 'u' and not facts.tiff_inverted else None
    if mode == 'I':  # 32 bits with a sign, whatever the file has
        return values.view(np.uint32) if facts.kind == 'u' else values
    if transparent:
        return values if mode in ('RGBA', 'LA') else None
    return values if mode == 'F' or mode.startswith('I;16') else None


def _tiff_by_tifffile(content: bytes, facts: ImageFacts, number: int) -> np.ndarray | None:
    tifffile: Any = importlib.import_module('tifffile')
    with tifffile.TiffFile(io.BytesIO(content)) as file:
        values = file.pages[number].asarray()
    planar = values.ndim == 3 and facts.tiff is not None and facts.tiff['planar']
    return upright(np.moveaxis(values, 0, -1) if planar else values, facts.orientation)


_TURNS: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    2: lambda x: x[:, ::-1],
    3: lambda x: x[::-1, ::-1],
    4: lambda x: x[::-1],
    5: lambda x: x.swapaxes(0, 1),
    6: lambda x: x.swapaxes(0, 1)[:, ::-1],
    7: lambda x: x.swapaxes(0, 1)[::-1, ::-1],
    8: lambda x: x.swapaxes(0, 1)[::-1],
}


def upright(img: np.ndarray, orientation: int) -> np.ndarray:
    """An image (h, w, ...) as EXIF's orientation says that it is meant to be seen."""
    turn = _TURNS.get(orientation)
    return img if turn is None else np.ascontiguousarray(turn(img))
