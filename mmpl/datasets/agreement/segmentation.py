"""Label maps, of mmseg: what is in some of them, against the classes and the values that are ignored."""

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import mmcv
import numpy as np
from mmcv.transforms import LoadImageFromFile

from .findings import (
    SIZES,
    Findings,
    Side,
    evenly,
    is_local,
    listed,
    missing_files,
    read_bytes,
    size_of_image,
    suffixes_in,
)

_MORE = 8  # times as many maps are looked at where the first ones are suspicious
_IGNORED = 255  # what mmseg's reduce_zero_label and label_map make of what they leave out
_FEW = 3  # channels of a picture in colour
_AS_STORED = LoadImageFromFile(color_type='unchanged')  # so mmseg reads maps


def _loader(side: Side) -> Any:
    """The step of the pipeline that loads label maps."""
    return next((step for step in side.transforms() if hasattr(step, 'reduce_zero_label')), None)


class _Maps:
    """What the maps of one data set hold, as far as they were looked at.

    Args:
        side: The data set.
        ignore: Label that is ignored.
    """

    def __init__(self, side: Side, ignore: int) -> None:
        self.side = side
        self.ignore = ignore
        self.files = [
            (str(info['seg_map_path']), str(info.get('img_path', '')))
            for info in side.infos()
            if info.get('seg_map_path') is not None
        ]
        self.read: set[int] = set()
        self.raw: Counter = Counter()  # maps with each value, as in the file
        self.labels: Counter = Counter()  # maps with each label
        self.faults: dict[str, list[str]] = {}  # of each kind, a sentence for each map

    @property
    def complete(self) -> bool:
        """Whether all maps were looked at."""
        return len(self.read) == len(self.files)

    def look(self, wanted: int) -> None:
        """Look at that many maps, evenly spaced."""
        for index in evenly(len(self.files), wanted):
            if index not in self.read:
                self.read.add(index)
                self._look_at(*self.files[index])

    def compare_sizes(self) -> None:
        """Each map must be as large as its image; the heads of the files say it."""
        for index in evenly(len(self.files), SIZES):
            path, image = self.files[index]
            own, size = size_of_image(path, [_AS_STORED]), size_of_image(image, self.side.transforms())
            if own is not None and size is not None and own != size:
                self._fault(
                    'size', f'{path!r} has {own[0]} x {own[1]} pixels, its image {image!r} {size[0]} x {size[1]}'
                )

    def label_of(self, value: int) -> int:
        """The label that mmseg makes of a value in a file."""
        if self.side.dataset.reduce_zero_label:
            value = _IGNORED if value in (0, _IGNORED) else value - 1
        return (self.side.dataset.label_map or {}).get(value, value)

    def _fault(self, kind: str, text: str) -> None:
        self.faults.setdefault(kind, []).append(text)

    def _look_at(self, path: str, image: str) -> None:
        loader = _loader(self.side)
        try:
            content = read_bytes(path, getattr(loader, 'backend_args', None))
            loaded = mmcv.imfrombytes(content, flag='unchanged', backend=getattr(loader, 'imdecode_backend', 'pillow'))
            values = np.asarray(loaded).squeeze()
        except Exception as error:  # decoders raise nearly anything
            self._fault('unreadable', f'{path!r} cannot be read: {type(error).__name__}: {error}')
            return
        if values.ndim != 2:
            colours = len(np.unique(values.reshape(-1, values.shape[-1]), axis=0)) if values.ndim == _FEW else 0
            self._fault(
                'colour',
                f'{path!r} has the shape {values.shape}, of {colours} colours: expected one channel with the number of '
                'the class in each pixel',
            )
            return
        numbers, pixels = np.unique(values, return_counts=True)
        classes = self.side.classes
        for value, count in zip(numbers.tolist(), pixels.tolist(), strict=True):
            self.raw[value] += 1
            label = self.label_of(int(value))
            self.labels[label] += 1
            whole = float(value).is_integer() and 0 <= value <= _IGNORED
            if not whole or (classes is not None and label != self.ignore and not 0 <= label < len(classes)):
                made = '' if label == value else f', label {label} after `reduce_zero_label` and `label_map`'
                self._fault('value', f'{path!r} has the value {value} in {count} pixels{made}')


def _check_loading(found: Findings, sides: Sequence[Side]) -> None:
    """``reduce_zero_label`` and what is ignored, of data sets and their pipelines."""
    for side in sides:
        loader = _loader(side)
        own, told = side.dataset.reduce_zero_label, getattr(loader, 'reduce_zero_label', None)
        if told is not None and told != own:
            index = side.transforms().index(loader)
            found.error(
                f'`{side.field}.reduce_zero_label`={own}, but '
                f'`{side.field}.pipeline[{index}].reduce_zero_label`={told} ({type(loader).__name__})'
            )
    for side in sides[1:]:
        first = sides[0]
        for field in ('reduce_zero_label', 'label_map', 'ignore_index'):
            one, two = getattr(first.dataset, field, None), getattr(side.dataset, field, None)
            if one != two:
                found.error(f'`{first.field}.{field}`={one}, but `{side.field}.{field}`={two}')


def _check_ignored(found: Findings, sides: Sequence[Side], ignored: Mapping[str, int | None]) -> int:
    """Compare the labels that heads, evaluators and data sets ignore, and what borders are filled with."""
    given = {field: value for field, value in ignored.items() if value is not None}
    given |= {
        f'{side.field}.ignore_index': side.dataset.ignore_index
        for side in sides
        if getattr(side.dataset, 'ignore_index', _IGNORED) != _IGNORED
    }
    if len(set(given.values())) > 1:
        both = ', '.join(f'`{field}`={value}' for field, value in given.items())
        found.error(
            f'{both}: what is ignored in training and in evaluation, and what borders are filled with, must agree'
        )
    return next(iter(given.values()), _IGNORED)


def _stem(path: str, suffix: str) -> str:
    return path[: -len(suffix)] if suffix and path.endswith(suffix) else os.path.splitext(path)[0]


def _check_files(found: Findings, side: Side) -> None:
    """Images of other suffixes than the data set lists, and images without a map."""
    dataset = side.dataset
    folders = [str(dataset.data_prefix.get(kind) or '') for kind in ('img_path', 'seg_map_path')]
    if not all(folder and is_local(folder) and os.path.isdir(folder) for folder in folders):
        for kind, folder in zip(('img_path', 'seg_map_path'), folders, strict=True):
            if folder and is_local(folder) and not os.path.isdir(folder):
                found.error(f'`{side.field}.data_prefix.{kind}`: there is no folder {folder!r}')
        return
    images, maps = (suffixes_in(folder) for folder in folders)
    listing = dataset.ann_file and not os.path.isdir(dataset.ann_file)
    if not listing:
        mapped = {_stem(name, dataset.seg_map_suffix) for names in maps.values() for name in names}
        own = [n for names in images.values() for n in names if n.endswith(dataset.img_suffix)]
        others = {s: [n for n in names if not n.endswith(dataset.img_suffix)] for s, names in images.items()}
        others = {suffix: names for suffix, names in others.items() if names}
        if others and folders[0] != folders[1]:
            counts = ', '.join(f'{len(names)} of {suffix!r}' for suffix, names in others.items())
            with_map = [n for names in others.values() for n in names if _stem(n, '') in mapped]
            found.either(
                not own or bool(with_map),
                f'`{side.field}.img_suffix`={dataset.img_suffix!r} finds {len(own)} images in {folders[0]!r} and '
                f'leaves out {counts}' + (f', also such with a label map: {listed(with_map, 3)}' if with_map else ''),
            )
        elif not own:
            found.error(f'`{side.field}`: no file in {folders[0]!r} ends in `img_suffix`={dataset.img_suffix!r}')
    if side.loaded:
        missing = missing_files(str(i['seg_map_path']) for i in side.infos() if i.get('seg_map_path') is not None)
        if missing:
            there = ', '.join(f'{len(names)} {suffix}' for suffix, names in maps.items()) or 'no pictures'
            found.error(
                f'`{side.field}`: {len(missing)} of {len(dataset)} images have no label map, for example '
                f'{missing[0]!r}. `seg_map_suffix`={dataset.seg_map_suffix!r}; in {folders[1]!r} there are {there}'
            )
        if listing:
            missing = missing_files(str(info['img_path']) for info in side.infos())
            if missing:
                found.error(f'`{side.field}` lists {len(missing)} images without a file: {listed(missing, 3)}')


def _allowed(maps: _Maps, count: int) -> str:
    """What values there may be, and what may have led to others."""
    reduced = maps.side.dataset.reduce_zero_label
    text = f'. Allowed are the {count} classes, {int(reduced)} to {count - 1 + reduced} in the file'
    text += f' (`reduce_zero_label`={reduced}), and {maps.ignore}, which is ignored'
    if not reduced and 0 not in maps.raw and count in maps.raw:
        text += '. Do the labels count from 1? Then set `reduce_zero_label`=True'
    if any(path.lower().endswith(('.jpg', '.jpeg')) for path, _ in maps.files[:1]):
        text += '. JPEG changes values: write maps as .png'
    return text


def _judge(found: Findings, maps: _Maps, looked_at: int) -> None:
    """Say what is wrong in the maps of a data set, and what may be."""
    side, classes = maps.side, maps.side.classes
    count = len(classes or ())
    maps.look(looked_at)

    def absent() -> list[int]:
        return [i for i in range(count) if i not in maps.labels and i != maps.ignore]

    if not maps.faults and absent():
        maps.look(_MORE * looked_at)
    maps.compare_sizes()
    seen = f'{len(maps.read)} of {len(maps.files)} label maps looked at'
    where = f'`{side.field}`'
    reduced = side.dataset.reduce_zero_label
    hints = dict(value='' if side.dataset.label_map else _allowed(maps, count))
    for kind, texts in maps.faults.items():
        those = f'{min(SIZES, len(maps.files))} of {len(maps.files)} label maps compared' if kind == 'size' else seen
        more = f' (in {len(texts)} places of the {those})' if len(texts) > 1 else f' ({those})'
        found.error(f'{where}: {texts[0]}{hints.get(kind, "")}{more}')
    if maps.faults or not maps.read or classes is None:
        return
    missing = absent()
    values = set(maps.raw)
    names = listed(classes[i] for i in missing)
    lost = f'{where}: no pixel of {names} ({seen}; values in the files: {listed(sorted(values))})'
    if not missing:
        return
    if reduced and 0 in values and values - {_IGNORED} == set(range(count)):
        found.error(
            f'{lost}. `reduce_zero_label`=True ignores the value 0 and makes 1 the class 0, {classes[0]!r}. If 0 is a '
            f'class of yours, set `reduce_zero_label`=False in the data sets and in their LoadAnnotations'
        )
    elif (
        maps.ignore in maps.labels and not reduced and (len(maps.labels) <= 2 or (maps.complete and len(missing) == 1))
    ):
        found.error(
            f'{lost}, but {maps.ignore}, which is ignored (`ignore_index`). If {maps.ignore} stands for a class, write '
            'the number of the class into the maps'
        )
    elif maps.complete and len(maps.labels) == 1 and count > 1:
        found.error(f'{lost}: there is nothing to learn in maps of one value')
    else:
        found.warn(lost)


def check_segmentation(
    found: Findings, sides: Sequence[Side], looked_at: int, ignored: Mapping[str, int | None] | None = None
) -> None:
    """Compare label maps, classes and ignored labels of mmseg's data sets, of one run.

    Args:
        found: Gets what is wrong.
        sides: The data sets, those to train on first.
        looked_at: How many maps of each are read, evenly spaced; eight times as many where a class is in none of them.
        ignored: The labels that heads and evaluators ignore and borders are filled with, by their fields.
    """
    before = len(found.errors)
    _check_loading(found, sides)
    ignore = _check_ignored(found, sides, ignored or {})
    for side in sides:
        _check_files(found, side)
    if len(found.errors) > before:  # what the maps hold depends on it
        return
    for side in sides:
        if side.loaded:
            _judge(found, _Maps(side, ignore), looked_at)
