"""What an image file holds, read from its header: bits, bands, pages, orientation."""

import re
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, BinaryIO, NamedTuple

from PIL import Image, PngImagePlugin, UnidentifiedImageError

ORIENTATION = 0x0112  # tag of EXIF and TIFF; from 5 on, width and height are swapped
_TIFF_STARTS = (b'II*\0', b'MM\0*', b'II+\0', b'MM\0+')
_INTEGERS = {1: 'B', 3: 'H', 4: 'I', 13: 'I', 16: 'Q'}  # TIFF's types
_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
_COLOURS = {0: 1, 1: 1, 2: 3, 3: 1, 4: 1, 5: 4, 6: 3, 8: 3}  # bands by TIFF's photometric interpretation
_SPACES = {3: 'palette', 5: 'cmyk', 6: 'other', 8: 'other'}  # likewise
_KINDS = {1: 'u', 2: 'i', 3: 'f'}  # by TIFF's sample format
_LOG_LUV = (
    32844,
    32845,
)  # photometric interpretations of light, which libtiff turns into 8 bits for a screen, or floats
_SPACES |= dict.fromkeys(_LOG_LUV, 'other')
_MAX_PAGES = 1 << 16
_PNM = re.compile(rb'P[56]' + rb'(?:\s|#[^\n]*\n)+(\d+)' * 3 + rb'\s')


class ImageFacts(NamedTuple):
    """What a header says.

    Attributes:
        format: Pillow's name.
        width: In pixels, as stored.
        height: As ``width``.
        kind: Of numbers: ``'u'``, ``'i'`` or ``'f'``.
        bits: Of a number.
        white: The largest number, if they are unsigned integers.
        bands: Numbers a pixel, alpha included; a palette's index is one.
        alpha: Whether the last band is said to be transparency.
        space: ``''``, or the colour space if it is none of grey and RGB: ``'palette'``, ``'cmyk'``, ``'other'``.
        pages: Indices of the pages of full size; of an animation, its frames.
        orientation: EXIF's, 1 to 8.
        tiff: What only a TIFF has: ``compression``, ``photometric``, ``planar``, and ``end``, the last byte of the
            first page's pixels in the file.
    """

    format: str
    width: int
    height: int
    kind: str = 'u'
    bits: int = 8
    white: int = 255
    bands: int = 3
    alpha: bool = False
    space: str = ''
    pages: tuple[int, ...] = (0,)
    orientation: int = 1
    tiff: dict[str, int] | None = None

    @property
    def colours(self) -> int:
        """Bands without alpha."""
        return self.bands - self.alpha

    @property
    def plain(self) -> bool:
        """Whether it is a picture as screens show it: 8 bits of grey or of three colours, or what converts to that."""
        return bool(self.space) or (self.kind == 'u' and self.bits <= 8 and self.colours in (1, 3))

    @property
    def tiff_inverted(self) -> bool:
        """Whether zero is white."""
        return self.tiff is not None and self.tiff['photometric'] == 0

    @property
    def light(self) -> bool:
        """Whether it is a TIFF of light, LogL or LogLuv, as OpenCV writes floats of three channels."""
        return self.tiff is not None and self.tiff['photometric'] in _LOG_LUV

    @property
    def numbers(self) -> str:
        """Kind and bits in words: ``'16-bit'``, ``'float32'``; empty for 8 bits."""
        if self.kind == 'u' and self.bits <= 16:
            return f'{self.bits}-bit' if self.bits > 8 else ''
        return f'{dict(u="uint", i="int", f="float")[self.kind]}{self.bits}'

    @property
    def notes(self) -> tuple[str, ...]:
        """What is unusual about it, in a word each."""
        grey = self.colours == 1 and not self.space and not self.numbers
        found = [
            (self.numbers, bool(self.numbers)),
            ('greyscale', grey),
            (self.space, self.space in ('palette', 'cmyk')),
        ]
        found += [('bands', self.colours not in (1, 3) and self.space != 'cmyk'), ('alpha', self.alpha)]
        found += [('animated' if self.tiff is None else 'pages', len(self.pages) > 1)]
        return tuple(name for name, holds in found if holds)


def read_facts(file: BinaryIO) -> ImageFacts | None:
    """Read a header; None if the format is unknown.

    Raises:
        Exception: The header is damaged; which one depends on the format.
    """
    start = file.read(4)
    file.seek(0)
    if start in _TIFF_STARTS:
        return _tiff_facts(file)
    try:
        with without_limits(), Image.open(file) as image:  # whoever decodes it looks at its size
            return _pillow_facts(image, file)
    except UnidentifiedImageError:
        return None


@contextmanager
def without_limits() -> Iterator[None]:
    """Let Pillow open images of any size, and PNGs with texts of any length."""
    limits = Image.MAX_IMAGE_PIXELS, PngImagePlugin.MAX_TEXT_CHUNK, PngImagePlugin.MAX_TEXT_MEMORY
    Image.MAX_IMAGE_PIXELS, PngImagePlugin.MAX_TEXT_CHUNK, PngImagePlugin.MAX_TEXT_MEMORY = None, 2**31, 2**31
    try:
        yield
    finally:
        Image.MAX_IMAGE_PIXELS, PngImagePlugin.MAX_TEXT_CHUNK, PngImagePlugin.MAX_TEXT_MEMORY = limits


def orientation_of(image: Image.Image) -> int:
    """Orientation that a file's EXIF says: 1 to 8, 1 if it says none. That of a TIFF is a tag of its own.

    Where EXIF says none Pillow takes that of XMP, which OpenCV does not know.
    """
    if image.format == 'PNG' and 'exif' not in image.info:
        image.load()  # it may be behind the pixels
    exif = Image.Exif()
    exif.load(image.info.get('exif', b''))
    return exif.get(ORIENTATION, 1)


def _pillow_facts(image: Image.Image, file: BinaryIO) -> ImageFacts:
    mode, name = image.mode, image.format or ''
    bands: Sequence[str] = image.getbands()
    alpha = bands[-1] in ('A', 'a')
    space = 'palette' if mode[0] == 'P' else 'cmyk' if mode == 'CMYK' else 'other' if mode in ('LAB', 'HSV') else ''
    kind, bits = {'I': ('i', 32), 'F': ('f', 32)}.get(mode, ('u', 16 if mode.startswith('I;16') else 8))
    frames = getattr(image, 'n_frames', 1)
    file.seek(0)
    head = file.read(512)
    orientation = 1
    # Pillow decodes a PNG to look for EXIF behind its pixels; those of 8 bits are turned by OpenCV
    if name != 'PNG' or 'exif' in image.info or head[24] > 8:
        with suppress(Exception):  # of broken EXIF nearly anything; the pixels are there
            orientation = orientation_of(image)
    white = (1 << bits) - 1
    if name == 'PNG':
        bits, colour = head[24], head[25]  # of IHDR, which comes first; Pillow opens 16-bit colour as 8
        bits, kind, alpha, white = max(bits, 8), 'u', colour in (4, 6), (1 << max(bits, 8)) - 1
        bands = {0: 'L', 2: 'RGB', 3: 'P', 4: 'LA', 6: 'RGBA'}[colour]
    elif name == 'PPM' and (header := _PNM.match(head)):
        kind, white = 'u', int(header[3])
        bits = max(8, white.bit_length())
        white = white if bits > 8 else 255  # Pillow and OpenCV scale small ones
    elif name == 'JPEG2000':
        bits = max(8, _jpeg2000_bits(head))
        kind, white = 'u', (1 << bits) - 1
    return ImageFacts(
        name, *image.size, kind, bits, white, len(bands), alpha, space, tuple(range(frames)),
        orientation if orientation in range(1, 9) else 1,
    )  # fmt: skip


def _jpeg2000_bits(head: bytes) -> int:
    box, marker = head.find(b'ihdr'), head.find(b'\xffO\xffQ')
    place = marker + 42 if marker >= 0 else box + 14  # Ssiz of the codestream, or the box's BPC
    return (head[place] & 0x7F) + 1 if max(box, marker) >= 0 else 8


def _tiff_facts(file: BinaryIO) -> ImageFacts:
    """Of the first page; Pillow knows only some kinds of pixels, and takes any fourth band for alpha."""
    pages = []
    first: dict[int, tuple[int, ...]] = {}
    try:
        for number, tags in enumerate(_tiff_pages(file)):
            first = first or tags
            if number == 0 or not tags.get(254, (0,))[0] & 5:  # neither an overview nor a mask
                pages.append(number)
    except struct.error as error:
        raise ValueError('a truncated TIFF: its list of pages is not whole') from error

    def one(tag: int, default: int) -> int:
        return first.get(tag, (default,))[0]

    if 256 not in first or 257 not in first:
        raise ValueError('a TIFF without a size')
    photometric, bands = one(262, 1), one(277, 1)
    kind, bits = _KINDS.get(one(339, 1), 'u'), one(258, 1)
    if photometric in _LOG_LUV:
        kind, bits = 'f', 32
    bands_of_colour = _COLOURS.get(photometric, bands)
    alpha = bands > bands_of_colour and first.get(338, (0,))[-1] in (1, 2)
    places, counts = (first.get(324), first.get(325)) if 324 in first else (first.get(273), first.get(279))
    end = max((a + b for a, b in zip(places or (), counts or (), strict=False)), default=0)
    return ImageFacts(
        'TIFF', one(256, 0), one(257, 0), kind, max(bits, 8), (1 << max(bits, 8)) - 1, bands, alpha,
        _SPACES.get(photometric, ''), tuple(pages),
        one(ORIENTATION, 1) if one(ORIENTATION, 1) in range(1, 9) else 1,
        dict(compression=one(259, 1), photometric=photometric, planar=int(one(284, 1) == 2), end=end),
    )  # fmt: skip


def _tiff_pages(file: BinaryIO) -> Iterator[dict[int, tuple[int, ...]]]:
    """The integer tags of each page; of all but the first only the kind of page (254)."""
    head = file.read(16)
    order = '<' if head[:2] == b'II' else '>'
    big = head[2:4] in (b'+\0', b'\0+')
    count, entry, offset = ('Q', 'HHQ8s', 'Q') if big else ('H', 'HHI4s', 'I')

    def unpack(layout: str, data: bytes) -> Any:
        return struct.unpack_from(order + layout, data)

    def read(place: int, size: int) -> bytes:
        file.seek(place)
        return file.read(size)

    (place,) = unpack(offset, head[8:] if big else head[4:])
    seen: set[int] = set()
    while place and place not in seen and len(seen) < _MAX_PAGES:
        seen.add(place)
        (entries,) = unpack(count, read(place, struct.calcsize(order + count)))
        start, size = place + struct.calcsize(order + count), struct.calcsize(order + entry)
        table = read(start, entries * size + struct.calcsize(order + offset))
        tags = {}
        for number in range(entries):
            tag, kind, length, value = unpack(entry, table[number * size :])
            if kind not in _INTEGERS or (len(seen) > 1 and tag != 254):
                continue
            if length * _SIZES[kind] > len(value):
                (where,) = unpack(offset, value)
                value = read(where, length * _SIZES[kind])
            tags[tag] = unpack(f'{length}{_INTEGERS[kind]}', value)
        yield tags
        (place,) = unpack(offset, table[entries * size :])
