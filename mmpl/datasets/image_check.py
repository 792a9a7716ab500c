"""What is wrong with an image file, found without a data loader."""

import io
import os
import struct
from typing import BinaryIO, NamedTuple

from mmengine import fileio
from PIL import Image

from .decode import AnyDecoder, Decoder, facts_of
from .image_facts import ImageFacts, read_facts, without_limits
from .inside import is_inside, size_inside

MAX_PIXELS = 100_000_000
MIN_SIDE = 2
_TAIL = 4096  # bytes at the end of a file, among which its end mark is looked for
_EVERYDAY = ('JPEG', 'MPO', 'PNG', 'WEBP', 'BMP', 'GIF', 'PPM')  # what both OpenCV and Pillow read, if of 8 bits


class ImageVerdict(NamedTuple):
    """What a look at a file found.

    Attributes:
        bad: Why it cannot be trained on, its kind first (``'truncated: ...'``); empty if it can.
        notes: What is unusual but gets converted by the loader: ``'cmyk'``, ``'greyscale'``, ``'palette'``,
            ``'16-bit'`` (or another number of bits, or ``'float32'`` and the like), ``'bands'`` (neither one nor three,
            alpha apart), ``'alpha'``, ``'animated'``, ``'pages'`` (of a TIFF).
        lost: What of the file the loader leaves out, as :attr:`mmpl.datasets.decode.Decoded.lost` says it.
    """

    bad: str = ''
    notes: tuple[str, ...] = ()
    lost: tuple[str, ...] = ()


def inspect_image(
    path: str | os.PathLike,
    full: bool = False,
    max_pixels: int = MAX_PIXELS,
    min_side: int = MIN_SIDE,
    decoder: AnyDecoder | None = None,
) -> ImageVerdict:
    """Look at an image file: there, not empty, an image that the loader reads, neither huge nor tiny, whole.

    The header is read, and the file's end; all of it is decoded only if that does not tell whether it can be loaded.

    Args:
        path: The file.
        full: Decode it in any case.
        max_pixels: More pixels (of one frame) are too large: a decompression bomb, or memory for nothing. The default
            and the next are our choice.
        min_side: A shorter side, in pixels, is too small.
        decoder: By whose eyes; those of ``mmpl.LoadImage()`` by default.
    """
    path = os.fspath(path)
    missing = look_for(path)
    if missing:
        return ImageVerdict(missing)
    decoder = decoder or Decoder()
    try:
        with _opened(path) as file:
            facts = read_facts(file)
            content = b''
            if facts is None:  # unless OpenCV knows it
                file.seek(0)
                content = file.read()
                try:
                    facts = facts_of(content, path)
                except ValueError:
                    return ImageVerdict('not an image: no known format')
            width, height = facts.width, facts.height
            if width * height > max_pixels:
                return ImageVerdict(f'too large: {width} x {height} pixels, more than max_pixels={max_pixels}')
            if min(width, height) < min_side:
                return ImageVerdict(f'too small: {width} x {height} pixels, less than min_side={min_side}')
            size = file.seek(0, os.SEEK_END)
            if facts.tiff is not None and facts.tiff['end'] > size:
                return ImageVerdict(f'truncated: pixels up to byte {facts.tiff["end"]} of {size}')
            if facts.format in _EVERYDAY and (full or not _seems_whole(file, size, facts)):
                _decode_to_the_end(file)
            if facts.format in _EVERYDAY and facts.plain and decoder.plain and not full:
                return ImageVerdict('', facts.notes)
            if not content:
                file.seek(0)
                content = file.read()
    except FileNotFoundError:
        return ImageVerdict('vanished: no such file')
    except Exception as error:  # decoders of damaged files raise nearly anything
        kind = 'truncated' if 'truncated' in str(error).lower() else 'damaged'
        return ImageVerdict(f'{kind}: {type(error).__name__}: {error}')
    try:
        decoded = decoder(content, path)
    except Exception as error:
        return ImageVerdict(f'not loaded: {error}', facts.notes)
    return ImageVerdict(decoded.nothing and f'nearly nothing left: {decoded.nothing}', facts.notes, decoded.lost)


def _opened(path: str) -> BinaryIO:
    """A file, or an image inside of one, to read and seek in."""
    return io.BytesIO(fileio.get(path)) if is_inside(path) else open(path, 'rb')


def look_for(path: str) -> str:
    """Why there is nothing to load at a path; empty if there is something."""
    try:
        if is_inside(path):
            return '' if size_inside(path) else 'empty: 0 bytes'
        if os.path.isdir(path):
            return 'no file: a folder'
        return '' if os.path.getsize(path) else 'empty: 0 bytes'
    except FileNotFoundError:
        return 'vanished: the link leads nowhere' if os.path.islink(path) else 'vanished: no such file'
    except (OSError, ValueError) as error:
        return f'unreadable: {error}'


def _seems_whole(file: BinaryIO, size: int, facts: ImageFacts) -> bool:
    """Whether the file ends as its format demands; cheap, False if that cannot be told."""
    file.seek(0)
    head = file.read(12)
    file.seek(max(0, size - _TAIL))
    tail = file.read()
    if facts.format in ('JPEG', 'MPO'):
        return b'\xff\xd9' in tail  # entropy-coded data cannot hold this marker
    if facts.format == 'PNG':
        return b'IEND\xaeB`\x82' in tail
    if facts.format == 'WEBP':
        return size >= struct.unpack('<I', head[4:8])[0] + 8
    return False


def _decode_to_the_end(file: BinaryIO) -> None:
    """By Pillow, which says where a file is cut short; OpenCV fills with grey."""
    file.seek(0)
    with without_limits(), Image.open(file) as image:  # its size was looked at
        image.load()
