"""What a check of data sets found, and what all such checks need."""

import os
from collections.abc import Hashable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import mmengine.fileio

from mmpl.datasets.decode import NOT_TURNED, StockDecoder, decoder_of_transform
from mmpl.datasets.image_facts import read_facts

SHOWN = 10
SIZES = 2000  # images of a data set whose size is read, from the head of the file
IMAGE_SUFFIXES = frozenset(
    f'.{name}'
    for name in ('bmp', 'dib', 'gif', 'jfif', 'jp2', 'jpe', 'jpeg', 'jpg', 'pbm', 'pgm', 'png', 'pnm', 'ppm', 'tif')
    + ('tiff', 'webp')
)


class Findings:
    """Errors and warnings, each a sentence that names the field; the same sentence is kept once."""

    def __init__(self) -> None:
        self.errors: list[str] = []
        self.warnings: list[str] = []

    def error(self, text: str) -> None:
        """Note what must not go on."""
        if text not in self.errors:
            self.errors.append(text)

    def warn(self, text: str) -> None:
        """Note what is only unusual."""
        if text not in self.warnings:
            self.warnings.append(text)

    def either(self, refuse: bool, text: str) -> None:
        """Note an error, or else a warning."""
        (self.error if refuse else self.warn)(text)

    def text(self) -> str:
        """All errors, one a line, numbered if there are several; at most ten."""
        if len(self.errors) == 1:
            return self.errors[0]
        more = [f'... and {len(self.errors) - SHOWN} more'] if len(self.errors) > SHOWN else []
        return '\n'.join([f'({i}) {text}' for i, text in enumerate(self.errors[:SHOWN], 1)] + more)

    def raise_errors(self) -> None:
        """Raise what was found as one ValueError."""
        if self.errors:
            raise ValueError(self.text())


class Side(NamedTuple):
    """A data set, without wrappers, and the field of the config that it comes from."""

    field: str
    dataset: Any

    @property
    def split(self) -> str:
        """'train', 'val' or 'test'."""
        return self.field.partition('_')[0]

    @property
    def classes(self) -> tuple | None:
        """Class names, if there are any."""
        classes = (getattr(self.dataset, 'metainfo', None) or {}).get('classes')
        return None if classes is None else tuple(classes)

    @property
    def loaded(self) -> bool:
        """Whether the data set has listed its images."""
        return bool(getattr(self.dataset, '_fully_initialized', False))

    @property
    def is_part(self) -> bool:
        """Whether ``indices`` leave some of the images out, as one does to try things."""
        return getattr(self.dataset, '_indices', None) is not None

    def infos(self) -> Iterator[dict]:
        """What the data set knows of each image."""
        for index in range(len(self.dataset)):
            yield self.dataset.get_data_info(index)

    def kind_of(self, *bases: str) -> bool:
        """Whether a class of one of these names is among the data set's own and their parents."""
        return any(base.__name__ in bases for base in type(self.dataset).__mro__)

    def transforms(self) -> list:
        """The steps of the pipeline."""
        return list(getattr(getattr(self.dataset, 'pipeline', None), 'transforms', []))


def sides_of(field: str, dataset: Any) -> list[Side]:
    """The data sets inside wrappers such as ``RepeatDataset`` and ``ConcatDataset``."""
    own = vars(dataset) if hasattr(dataset, '__dict__') else {}
    if isinstance(own.get('datasets'), (list, tuple)):
        return [side for i, part in enumerate(own['datasets']) for side in sides_of(f'{field}.datasets[{i}]', part)]
    if 'dataset' in own:
        unnamed = type(dataset).__name__ in ('GuardedDataset', 'Subset')  # not the config's
        return sides_of(field if unnamed else f'{field}.dataset', own['dataset'])
    return [Side(field, dataset)]


def evenly(count: int, wanted: int) -> list[int]:
    """At most ``wanted`` numbers below ``count``, evenly spaced, the same ones every time."""
    wanted = min(count, wanted)
    return [i * count // wanted for i in range(wanted)]


def listed(values: Iterable, shown: int = SHOWN) -> str:
    """Values with commas; of many the first ones and how many more there are."""
    values = list(values)
    more = f' and {len(values) - shown} more' if len(values) > shown else ''
    return ', '.join(repr(value) for value in values[:shown]) + more


def repeated(values: Iterable[Hashable]) -> list:
    """Values that occur more than once, in the order of their second places."""
    seen: set = set()
    again: dict = {}
    for value in values:
        if value in seen:
            again[value] = None
        seen.add(value)
    return list(again)


def is_local(path: str) -> bool:
    """Whether a path is one of this machine's files."""
    return '://' not in path


def missing_files(paths: Iterable[str]) -> list[str]:
    """Paths without a file. Folders are listed once: that is faster than asking for every file."""
    folders: dict[str, set[str] | None] = {}
    missing = []
    for path in paths:
        if not is_local(path):
            continue
        folder, name = os.path.split(path)
        if folder not in folders:
            try:
                folders[folder] = set(os.listdir(folder or '.'))
            except OSError:
                folders[folder] = None
        there = folders[folder]
        if there is None or name not in there:
            missing.append(path)
    return missing


def suffixes_in(folder: str) -> dict[str, list[str]]:
    """Image files under a folder, relative to it and sorted, by their suffixes as written."""
    found: dict[str, list[str]] = {}
    for root, _, names in os.walk(folder):
        for name in names:
            suffix = Path(name).suffix
            if suffix.lower() in IMAGE_SUFFIXES and not name.startswith('.'):
                found.setdefault(suffix, []).append(os.path.relpath(os.path.join(root, name), folder))
    return {suffix: sorted(names) for suffix, names in sorted(found.items())}


def size_of_image(path: str, transforms: Sequence = ()) -> tuple[int, int] | None:
    """(Height, width) of an image as it is loaded, from the head of its file; None if that cannot be read.

    Args:
        path: Of the file.
        transforms: The pipeline, whose loader says whether it turns images as their orientation says; mmpl's if empty.
    """
    if not is_local(path):
        return None
    try:
        with open(path, 'rb') as file:
            facts = read_facts(file)
    except Exception:  # of a damaged header nearly anything
        return None
    if facts is None:
        return None
    decoder = next(filter(None, map(decoder_of_transform, transforms)), None)
    kept = isinstance(decoder, StockDecoder) and (
        'ignore_orientation' in decoder.color_type
        or decoder.color_type == 'unchanged'
        or (decoder.backend == 'cv2' and facts.format in NOT_TURNED)
    )
    turned = facts.orientation >= 5 and (facts.tiff is not None or not kept)  # TIFF's own library turns it always
    return (facts.width, facts.height) if turned else (facts.height, facts.width)


def read_bytes(path: str, backend_args: dict | None) -> bytes:
    """The content of a file, from wherever the data set reads it."""
    return mmengine.fileio.get(path, backend_args=backend_args)
