"""What is wrong with an image file, found without a data loader."""

import os
import struct
from typing import NamedTuple

from PIL import Image, UnidentifiedImageError

MAX_PIXELS = 100_000_000
MIN_SIDE = 2
_TAIL = 4096  # bytes at the end of a file, among which its end mark is looked for
_NOTES = {  # by Pillow's mode
    '1': ('greyscale',),
    'L': ('greyscale',),
    'LA': ('greyscale', 'alpha'),
    'P': ('palette',),
    'PA': ('palette', 'alpha'),
    'RGBA': ('alpha',),
    'CMYK': ('cmyk',),
    **dict.fromkeys(('I', 'F', 'I;16', 'I;16L', 'I;16B', 'I;16N'), ('16-bit',)),
}


class ImageVerdict(NamedTuple):
    """What a look at a file found.

    Attributes:
        bad: Why it cannot be trained on, its kind first (``'truncated: ...'``); empty if it can.
        notes: What is unusual but gets converted by the loader: ``'cmyk'``, ``'greyscale'``, ``'palette'``,
            ``'16-bit'``, ``'alpha'``, ``'animated'``.
    """

    bad: str = ''
    notes: tuple[str, ...] = ()


def _seems_whole(path: str, image_format: str) -> bool:
    """Whether the file ends as its format demands; cheap, False if that cannot be told."""
    size = os.path.getsize(path)
    with open(path, 'rb') as file:
        head = file.read(12)
        file.seek(max(0, size - _TAIL))
        tail = file.read()
    if image_format in ('JPEG', 'MPO'):
        return b'\xff\xd9' in tail  # entropy-coded data cannot hold this marker
    if image_format == 'PNG':
        return b'IEND\xaeB`\x82' in tail
    if image_format == 'WEBP':
        return size >= struct.unpack('<I', head[4:8])[0] + 8
    return False


def inspect_image(
    path: str | os.PathLike, full: bool = False, max_pixels: int = MAX_PIXELS, min_side: int = MIN_SIDE
) -> ImageVerdict:
    """Look at an image file: there, not empty, an image, neither huge nor tiny, whole.

    The header is read, and the file's end; all of it is decoded only if the end does not tell whether it is whole.

    Args:
        path: The file.
        full: Decode it in any case.
        max_pixels: More pixels (of one frame) are too large: a decompression bomb, or memory for nothing. The default
            and the next are our choice.
        min_side: A shorter side, in pixels, is too small.
    """
    path = os.fspath(path)
    try:
        if os.path.getsize(path) == 0:
            return ImageVerdict('empty: 0 bytes')
    except FileNotFoundError:
        return ImageVerdict('vanished: no such file')
    except OSError as error:
        return ImageVerdict(f'unreadable: {error}')
    limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None  # the check below is the one that counts
    try:
        with Image.open(path) as image:
            width, height = image.size
            if width * height > max_pixels:
                return ImageVerdict(f'too large: {width} x {height} pixels, more than max_pixels={max_pixels}')
            if min(width, height) < min_side:
                return ImageVerdict(f'too small: {width} x {height} pixels, less than min_side={min_side}')
            notes = _NOTES.get(image.mode, ()) + (('animated',) if getattr(image, 'n_frames', 1) > 1 else ())
            if full or not _seems_whole(path, image.format or ''):
                image.load()
            return ImageVerdict('', notes)
    except UnidentifiedImageError:
        return ImageVerdict('not an image: no known format')
    except FileNotFoundError:
        return ImageVerdict('vanished: no such file')
    except Exception as error:  # decoders of damaged files raise nearly anything
        kind = 'truncated' if 'truncated' in str(error).lower() else 'damaged'
        return ImageVerdict(f'{kind}: {type(error).__name__}: {error}')
    finally:
        Image.MAX_IMAGE_PIXELS = limit
