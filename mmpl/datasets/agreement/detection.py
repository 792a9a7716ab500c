"""Boxes and masks in COCO files, of mmdet: against the classes, the images, and what the evaluator reads."""

import json
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from .findings import (
    SIZES,
    Findings,
    Side,
    evenly,
    is_local,
    listed,
    missing_files,
    read_bytes,
    repeated,
    size_of_image,
)
from .names import difference

_OUTSIDE = 2  # pixels by which a box may leave the image: rounding
_POLYGON = 6  # numbers of the smallest polygon
_COMMON = 0.1  # share that a box and its polygons must have in common


class Evaluator(NamedTuple):
    """What evaluates a data set of boxes."""

    field: str  # 'val_evaluator'
    path: str | None  # of its annotation file
    content: Mapping | None  # of that file; None if it takes the annotations of the data set
    masks: bool  # whether masks are scored


def _is_coco(side: Side) -> bool:
    """Whether it is read as mmdet's ``CocoDataset`` reads it; some that inherit from it have another format."""
    return getattr(type(side.dataset).load_data_list, '__qualname__', '') == 'CocoDataset.load_data_list'


def _masks_of(side: Side) -> bool:
    return any(getattr(step, 'with_mask', False) for step in side.transforms())


def _polygons_only(side: Side) -> bool:
    """Whether the pipeline takes polygons alone, and ignores annotations with run-length codes."""
    return any(getattr(step, 'with_mask', False) and not getattr(step, 'poly2mask', True) for step in side.transforms())


class _File:
    """The content of an annotation file, and what is wrong with it.

    Args:
        found: Gets what is wrong.
        field: Of the config, that names the file.
        path: Of the file, if it is known.
        content: As read.
        tolerated: Share of the annotations that may be faulty.
    """

    def __init__(self, found: Findings, field: str, path: str | None, content: Any, tolerated: float) -> None:
        self.found = found
        self.where = f'`{field}`' + (f' {path!r}' if path else '')
        self.tolerated = tolerated
        self.sound = isinstance(content, Mapping)
        if not self.sound:
            found.error(
                f'{self.where}: expected an object with images, annotations and categories, got a {type(content)}'
            )
            return
        parts = {}
        for part, needed in dict(images=('id', 'file_name', 'height', 'width'), annotations=(), categories=()).items():
            parts[part] = content.get(part)
            fields = needed or (('id', 'name') if part == 'categories' else ('id', 'image_id', 'category_id', 'bbox'))
            if not isinstance(parts[part], list):
                found.error(f'{self.where} holds no list `{part}`; it holds {sorted(map(str, content))}')
                self.sound = False
                continue
            for entry in parts[part]:
                absent = [name for name in fields if not isinstance(entry, Mapping) or not _given(name, entry)]
                if absent:
                    found.error(f'{self.where}: an entry of `{part}` lacks {listed(absent)}: {str(entry)[:200]}')
                    self.sound = False
                    break
            else:
                again = repeated(entry['id'] for entry in parts[part])
                if again:
                    found.error(f'{self.where}: ids of `{part}` occur more than once: {listed(again)}')
                    self.sound = False
        self.images: list[dict] = parts['images'] or []
        self.annotations: list[dict] = parts['annotations'] or []
        self.categories: list[dict] = parts['categories'] or []

    @property
    def names(self) -> list:
        """Names of the categories, in the order of the file."""
        return [category['name'] for category in self.categories]

    def share(self, faulty: list[str], what: str) -> None:
        """Note faulty annotations: errors if there are more than tolerated, else a warning."""
        if faulty:
            share = len(faulty) / max(1, len(self.annotations))
            self.found.either(
                share > self.tolerated,
                f'{self.where}: {len(faulty)} of {len(self.annotations)} annotations ({share:.2%}; `tolerated` are '
                f'{self.tolerated:.2%}) {what}, for example {"; ".join(faulty[:2])}',
            )

    def check_classes(self, field: str, classes: Sequence) -> bool:
        """The classes of the config, in ``field``, must be categories of the file, in the order of the file."""
        names = self.names
        if repeated(names):
            self.found.error(f'{self.where}: categories have the same name: {listed(repeated(names))}')
            return False
        kept = [name for name in names if name in set(classes)]
        if kept != list(classes):  # mmdet numbers in the order of the file, and leaves out what it does not know
            text = difference(f'`{field}`', classes, f'{self.where}', names if len(kept) < len(classes) else kept)
            why = 'order' if len(kept) == len(classes) else 'name'
            self.found.error(f'{text}. Classes are found by their {why} in the file')
            return False
        dropped: Counter = Counter(a['category_id'] for a in self.annotations)
        extra = {c['name']: dropped[c['id']] for c in self.categories if c['name'] not in set(classes)}
        if any(extra.values()):
            shown = ', '.join(f'{name!r} ({count})' for name, count in extra.items())
            self.found.warn(f'{self.where}: annotations of categories that are not in `{field}` are left out: {shown}')
        return True

    def check_annotations(self, masks: bool, evaluated: bool, polygons_only: bool = False) -> None:
        """Boxes, masks, and what annotations refer to.

        Args:
            masks: Whether there must be some.
            evaluated: Whether an evaluator reads them.
            polygons_only: Whether masks must be polygons.
        """
        images = {image['id']: image for image in self.images}
        categories = {category['id'] for category in self.categories}
        outside, flat, corners, no_mask, bad_mask = [], [], 0, [], []
        lacking: dict[str, list] = {'iscrowd': [], 'area': []}
        strangers: dict[str, list] = {'image_id': [], 'category_id': []}
        for entry in self.annotations:
            image = images.get(entry['image_id'])
            if image is None:
                strangers['image_id'].append(entry)
                continue
            if entry['category_id'] not in categories:
                strangers['category_id'].append(entry)
            for field, entries in lacking.items():
                if field not in entry:
                    entries.append(entry)
            box, (width, height) = entry['bbox'], (image['width'], image['height'])
            shown = f'id {entry["id"]!r}, bbox {box} in an image of width {width} and height {height}'
            if not is_box(box):
                flat.append(shown)
                continue
            x, y, w, h = box
            inner = min(x + w, width) - max(x, 0) > 0 and min(y + h, height) - max(y, 0) > 0
            no_area = w < 1 or h < 1 or not inner or entry.get('area', 1) <= 0
            if no_area:
                flat.append(shown + (f', area {entry["area"]}' if entry.get('area', 1) <= 0 else ''))
            elif min(x, y) < -_OUTSIDE or x + w > width + _OUTSIDE or y + h > height + _OUTSIDE:
                outside.append(shown)
                corners += x < w <= width + 1 and y < h <= height + 1
            if masks:
                reason = _fault_of_mask(entry, image, polygons_only)
                if reason == '':
                    no_mask.append(f'id {entry["id"]!r}')
                elif reason is not None and not no_area:
                    bad_mask.append(f'id {entry["id"]!r}: {reason}')
        for field, entries in strangers.items():
            if entries:
                part = 'images' if field == 'image_id' else 'categories'
                values = list(dict.fromkeys(entry[field] for entry in entries))
                self.found.error(
                    f'{self.where}: {len(entries)} of {len(self.annotations)} annotations have a `{field}` that is '
                    f'none of the ids of `{part}`, and would be left out: {listed(values)}'
                )
        numbers = [entry['id'] for entry in self.annotations]
        if evaluated and (odd := [n for n in numbers if not isinstance(n, int) or isinstance(n, bool) or n < 1]):
            self.found.either(
                odd != [0],
                f'{self.where}: {len(odd)} of {len(numbers)} annotations have an `id` that is no whole number above 0, '
                f'such as {odd[0]!r}: pycocotools takes 0 for no match, so that nobody can score 1. Number them from 1',
            )
        for field, needed in (('iscrowd', evaluated), ('area', True)):
            if lacking[field] and needed:
                reader = 'the evaluation' if field == 'iscrowd' else 'mmdet'
                self.found.error(
                    f'{self.where}: {len(lacking[field])} of {len(self.annotations)} annotations lack `{field}`, '
                    f'which {reader} reads, for example id {lacking[field][0]["id"]!r}'
                )
        if no_mask:
            self.found.error(
                f'{self.where}: {len(no_mask)} of {len(self.annotations)} annotations have no `segmentation`, but '
                f'masks are asked for (`with_mask` of a pipeline, or `metric` segm), for example {no_mask[0]}'
            )
        relative = 2 * sum(_is_share(entry['bbox']) for entry in self.annotations) > len(self.annotations)
        hint = ' (are these shares of the image, from 0 to 1? COCO has pixels)' if relative else ''
        self.share(
            flat, f'have a box [x, y, width, height] without area inside of the image, and would be left out{hint}'
        )
        hint = (
            ' (are these boxes [x1, y1, x2, y2]? COCO has [x, y, width, height])' if corners > len(outside) / 2 else ''
        )
        self.share(outside, f'have a box that leaves the image{hint}')
        self.share(bad_mask, 'have a `segmentation` that is none')


def is_box(box: Any) -> bool:
    """Whether it is four numbers."""
    return isinstance(box, (list, tuple)) and len(box) == 4 and all(isinstance(v, (int, float)) for v in box)


def _is_share(box: Any) -> bool:
    return is_box(box) and 0 < box[2] <= 1 and 0 < box[3] <= 1 and 0 <= min(box[:2]) and max(box[:2]) < 1


def _fault_of_mask(entry: Mapping, image: Mapping, polygons_only: bool) -> str | None:
    """Why the ``segmentation`` of an annotation is none; None for a good one, an empty text if there is nothing."""
    mask = entry.get('segmentation')
    if not mask:
        return ''
    if isinstance(mask, Mapping):
        size, counts = mask.get('size'), mask.get('counts')
        if not isinstance(counts, (list, str)) or size is None:
            return 'a run-length code needs `counts` and `size`'
        if list(size) != [image['height'], image['width']]:
            return f'`size` {list(size)}, but the image has height {image["height"]} and width {image["width"]}'
        if polygons_only and not entry.get('iscrowd'):
            return 'a run-length code, which LoadAnnotations with `poly2mask`=False ignores together with its box'
        return None
    if not isinstance(mask, list) or not all(isinstance(polygon, list) for polygon in mask):
        return 'expected a list of polygons, each a list [x1, y1, x2, y2, ...]'
    whole = [polygon for polygon in mask if len(polygon) % 2 == 0 and len(polygon) >= _POLYGON]
    if not whole:
        return f'no polygon has an even number of at least {_POLYGON} numbers'
    left, right = min(min(p[::2]) for p in whole), max(max(p[::2]) for p in whole)
    top, bottom = min(min(p[1::2]) for p in whole), max(max(p[1::2]) for p in whole)
    x, y, w, h = entry['bbox']
    common = max(0, min(right, x + w) - max(left, x)) * max(0, min(bottom, y + h) - max(top, y))
    if common < _COMMON * (w * h + (right - left) * (bottom - top) - common):
        return f'its polygons reach from {left}, {top} to {right}, {bottom}, which is not where its bbox is'
    return None


def _given(name: str, entry: Mapping) -> bool:
    """Whether an entry has a field; text is no size, and a list no id."""
    value = entry.get(name)
    if name in ('height', 'width'):
        return isinstance(value, (int, float))
    return value is not None and not (name.endswith('id') and isinstance(value, (list, dict)))


def faults_of_file(path: str, content: Any) -> str:
    """What makes a COCO file unusable, whatever its images and classes; empty if nothing does."""
    found = Findings()
    _File(found, 'ann_file', path, content, 1)
    return '; '.join(found.errors)


def _check_images(found: Findings, side: Side, images: Iterable[Mapping]) -> None:
    """Files that are not there, and sizes that the annotation file says otherwise."""
    prefix = str(side.dataset.data_prefix.get('img') or '')
    if not is_local(prefix) or getattr(side.dataset, 'backend_args', None):
        return
    files = [(os.path.join(prefix, image['file_name']), image) for image in images]
    missing = missing_files(path for path, _ in files)
    if missing:
        found.error(
            f'`{side.field}`: {len(missing)} of {len(files)} images of `ann_file` are not in `data_prefix.img`: '
            f'{listed(missing, 3)}'
        )
        return
    for index in evenly(len(files), SIZES):
        path, image = files[index]
        size, told = size_of_image(path, side.transforms()), (image['height'], image['width'])
        if size is not None and size != told:
            turned = ' (turned, as its EXIF orientation says)' if size == told[::-1] else ''
            found.error(
                f'`{side.field}`: {path!r} has height {size[0]} and width {size[1]}{turned}, but `ann_file` says '
                f'{told[0]} and {told[1]}'
            )
            return


def _check_evaluator(found: Findings, side: Side, evaluator: Evaluator, own: _File, file: _File) -> None:
    """The evaluator must know the images of the data set, and no others."""
    theirs, ours = ({image['id']: image['file_name'] for image in part.images} for part in (file, own))
    where = f'`{evaluator.field}.ann_file` {evaluator.path or ""!r}'
    unknown = [ours[i] for i in ours if i not in theirs]
    more = [theirs[i] for i in theirs if i not in ours]
    other = [(ours[i], theirs[i]) for i in ours if i in theirs and ours[i] != theirs[i]]
    for images, text in (
        (unknown, f'lacks images of `{side.field}.ann_file` {side.dataset.ann_file!r}'),
        (more, f'has images that `{side.field}.ann_file` {side.dataset.ann_file!r} has not'),
        (other, f'has other images under the ids of `{side.field}.ann_file` {side.dataset.ann_file!r}'),
    ):
        if images:
            found.error(f'{where} {text}: {len(images)}, {listed(images, 3)}')
            return
    boxes = [Counter((e['image_id'], str(e['bbox'])) for e in part.annotations) for part in (own, file)]
    differ = [theirs.get(i, i) for i, _ in (boxes[0] - boxes[1]) + (boxes[1] - boxes[0])]
    if differ:
        found.error(
            f'{where} has other boxes than `{side.field}.ann_file` {side.dataset.ann_file!r} in the images of the same '
            f'ids: {len(set(differ))}, {listed(dict.fromkeys(differ), 3)}'
        )


def check_detection(
    found: Findings,
    sides: Sequence[Side],
    tolerated: float,
    evaluators: Mapping[str, Sequence[Evaluator]] | None = None,
) -> None:
    """Compare classes, annotations and images of mmdet's data sets in COCO's format, of one run.

    Args:
        found: Gets what is wrong.
        sides: The data sets, those to train on first.
        tolerated: Share of the annotations of a file whose box or mask may be faulty.
        evaluators: What evaluates the data sets, by split.
    """
    known: dict[str, Any] = {}
    taught: dict[str, Counter] = {}
    for side in sides:
        if not _is_coco(side):
            continue
        scored = list((evaluators or {}).get(side.split, ()))
        path, field = side.dataset.ann_file, f'{side.field}.ann_file'
        masks = _masks_of(side) or any(e.masks and e.content is None for e in scored)
        try:
            if path not in known:
                known[path] = json.loads(read_bytes(path, getattr(side.dataset, 'backend_args', None)))
        except (OSError, ValueError) as error:
            found.error(f'`{field}`={path!r} cannot be read: {type(error).__name__}: {error}')
            continue
        own = _File(found, field, path, known[path], tolerated)
        if not own.sound:
            continue
        if side.classes is not None and not isinstance(side.dataset.metainfo['classes'], str):
            if own.check_classes(f'{side.field}.metainfo.classes', side.classes):
                _count(found, side, own, taught)
            palette = side.dataset.metainfo.get('palette')
            if isinstance(palette, (list, tuple)) and len(palette) < len(side.classes):
                found.error(
                    f'`{side.field}.metainfo.palette` has {len(palette)} colours for {len(side.classes)} classes'
                )
        same = [e for e in scored if e.path is not None and os.path.realpath(e.path) == os.path.realpath(path)]
        own.check_annotations(masks or any(e.masks for e in same), bool(same), _polygons_only(side))
        _check_images(found, side, own.images)
        for evaluator in scored:
            if evaluator.content is None or evaluator in same:
                continue
            file = _File(found, f'{evaluator.field}.ann_file', evaluator.path, evaluator.content, tolerated)
            if file.sound:
                if side.classes is not None:
                    file.check_classes(f'{side.field}.metainfo.classes', side.classes)
                file.check_annotations(evaluator.masks, True)
                if not side.is_part and [s.split for s in sides].count(side.split) == 1:
                    _check_evaluator(found, side, evaluator, own, file)
    files = {side.split: os.path.realpath(side.dataset.ann_file) for side in sides if _is_coco(side)}
    if files.get('train') == files.get('val', ''):
        found.warn(
            f'`val_dataloader.dataset.ann_file`={files["val"]!r} is that of `train_dataloader.dataset` too: what is '
            'measured on it says nothing about other images'
        )
    if 'train' in taught:
        for split in taught.keys() - {'train'}:
            untaught = [name for name, count in taught[split].items() if count and not taught['train'][name]]
            if untaught:
                found.error(
                    f'`{split}_dataloader.dataset` has annotations of {listed(untaught)}, of which '
                    '`train_dataloader.dataset` has none'
                )


def _count(found: Findings, side: Side, file: _File, taught: dict[str, Counter]) -> None:
    """Annotations of each class, without crowds, which mmdet ignores; there must be some."""
    names = {category['id']: category['name'] for category in file.categories}
    counts = Counter(names.get(entry['category_id']) for entry in file.annotations if not entry.get('iscrowd'))
    classes = side.classes if side.classes is not None else tuple(names.values())
    taught.setdefault(side.split, Counter()).update({name: counts[name] for name in classes})
    empty = [name for name in classes if not counts[name]]
    if len(empty) == len(classes):
        found.error(f'{file.where} has no annotation of any of its classes, but for crowds, which are not learnt')
    elif empty:
        found.warn(
            f'{file.where}: {len(empty)} of {len(classes)} classes have no annotation, crowds left out: {listed(empty)}'
        )
