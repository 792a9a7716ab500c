"""Images with one label each or several: class folders and lists, of mmpretrain."""

import os
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from .findings import IMAGE_SUFFIXES, SHOWN, Findings, Side, is_local, listed, missing_files
from .names import difference


class _Labels(NamedTuple):
    """The labels of a data set."""

    counts: Counter  # images of each label
    examples: dict[int, str]  # an image of each label
    folders: dict[str, set[int]]  # labels of the images in each folder, by the folder's name


def _folders(side: Side) -> list[str] | None:
    """The class folders, if labels are made from them."""
    dataset = side.dataset
    prefix = getattr(dataset, 'img_prefix', None)
    if not side.kind_of('CustomDataset') or dataset.ann_file or not getattr(dataset, 'with_label', False):
        return None
    if not isinstance(prefix, str) or not os.path.isdir(prefix):
        return None
    return sorted(entry.name for entry in os.scandir(prefix) if entry.is_dir())


def _check_folders(found: Findings, side: Side) -> None:
    folders = _folders(side)
    if folders is None:
        return
    where = f'`{side.field}`, {side.dataset.img_prefix!r}'
    odd = [name for name in folders if name.startswith('.') or name in ('__MACOSX', '__pycache__')]
    if odd:
        found.error(
            f'{where}: {listed(odd)} would be counted as a class, which shifts the numbers of others: remove it'
        )
    if not folders:
        found.error(f'{where}: there are no class folders in it')
    given = side.classes
    # Readable names for folders that are called otherwise, as ImageNet's, are fine.
    moved = given is not None and any(folders.index(name) != i for i, name in enumerate(given) if name in folders)
    if given is not None and (moved or len(folders) != len(given)):
        text = difference(f'`{side.field}.metainfo.classes`', given, f'the sorted folders of {where}', folders)
        found.error(f'{text}. Numbers follow the sorted folders')
    _check_left_out(found, side, where)


def _check_left_out(found: Findings, side: Side, where: str) -> None:
    known = tuple(getattr(side.dataset, 'extensions', ()))
    others: Counter = Counter()
    for _, _, names in os.walk(side.dataset.img_prefix):
        suffixes = (os.path.splitext(name)[1].lower() for name in names)
        others.update(s for s in suffixes if s in IMAGE_SUFFIXES and not s.endswith(known))
    if others:
        counts = ', '.join(f'{count} {suffix}' for suffix, count in sorted(others.items()))
        found.warn(f'{where}: images of other suffixes than `extensions`={sorted(known)} are left out: {counts}')


def _check_list(found: Findings, side: Side) -> None:
    """Lines of an annotation file that are not 'path label'."""
    path = getattr(side.dataset, 'ann_file', '')
    if not path or not side.kind_of('CustomDataset') or not getattr(side.dataset, 'with_label', False):
        return
    if not os.path.isfile(path):
        if is_local(path):
            found.error(f'`{side.field}.ann_file`: there is no file {path!r}')
        return
    with open(path, encoding='utf-8') as file:
        for number, line in enumerate(file, 1):
            parts = line.strip().rsplit(' ', 1)
            if len(parts) != 2 or not parts[1].lstrip('-').isdigit():
                found.error(
                    f"`{side.field}.ann_file`, line {number} of {path!r} is {line.strip()!r}: expected 'path label', "
                    'with a number as label'
                )
                return


def _read(side: Side) -> _Labels | None:
    counts: Counter = Counter()
    examples: dict[int, str] = {}
    folders: dict[str, set[int]] = {}
    for info in side.infos():
        if info.get('gt_label') is None:
            continue
        labels = [int(label) for label in np.atleast_1d(np.asarray(info['gt_label'])).ravel()]
        path = str(info.get('img_path', ''))
        folder = os.path.basename(os.path.dirname(path))
        for label in labels:
            counts[label] += 1
            examples.setdefault(label, path)
            folders.setdefault(folder, set()).add(label)
    return _Labels(counts, examples, folders) if counts else None


def _check_range(found: Findings, side: Side, labels: _Labels, count: int, what: str) -> None:
    wrong = sorted(label for label in labels.counts if not 0 <= label < count)
    if wrong:
        shifted = wrong == [count] and 0 not in labels.counts
        found.error(
            f'`{side.field}` has the labels {listed(wrong)}, but {what} allow 0 to {count - 1}; for example '
            f'{labels.examples[wrong[0]]!r}' + (': do the labels count from 1?' if shifted else '')
        )
    empty = [i for i in range(count) if i not in labels.counts]
    if empty and not wrong:
        names = [side.classes[i] for i in empty] if side.classes is not None else empty
        found.warn(f'`{side.field}`: {len(empty)} of {count} classes have no image: {listed(names)}')


def _compare(found: Findings, train: Side, of_train: _Labels, other: Side, of_other: _Labels) -> None:
    """Folders of one name must have one label on both sides, and a class that is asked for must have been taught."""
    folders = [_folders(train), _folders(other)]
    text = None
    if train.classes == other.classes and folders[0] and folders[1]:
        text = difference(f'the folders of `{train.field}`', folders[0], f'those of `{other.field}`', folders[1])
    moved = [
        (name, min(of_train.folders[name]), min(of_other.folders[name]))
        for name in sorted(of_train.folders.keys() & of_other.folders.keys())
        if len(of_train.folders[name]) == len(of_other.folders[name]) == 1
        and of_train.folders[name] != of_other.folders[name]
    ]
    of_class = all(len(labels) == 1 for labels in of_train.folders.values()) and len(of_train.folders) > 1
    if text:
        found.error(f'{text}. Numbers follow the sorted folders')
    elif moved and of_class:
        shown = ', '.join(f'{name!r} is {a} and {b}' for name, a, b in moved[:SHOWN])
        found.error(
            f'`{train.field}` and `{other.field}` give images in folders of the same name other labels: {shown}. '
            'Numbers that follow sorted folders shift where one is missing or added'
        )
    untaught = sorted(set(of_other.counts) - set(of_train.counts))
    if untaught:
        names = [other.classes[i] if other.classes and 0 <= i < len(other.classes) else i for i in untaught]
        found.either(
            not train.is_part,
            f'`{other.field}` has images of {listed(names)}, of which `{train.field}` has none',
        )


def check_classification(found: Findings, sides: Sequence[Side], head_classes: int | None = None) -> None:
    """Compare labels, folders and names of mmpretrain's data sets, of one run.

    Args:
        found: Gets what is wrong.
        sides: The data sets, those to train on first.
        head_classes: Number of classes of the heads, for data sets without names.
    """
    read: list[tuple[Side, _Labels]] = []
    for side in sides:
        _check_folders(found, side)
        _check_list(found, side)
        labels = _read(side) if side.loaded else None
        if labels is None:
            continue
        read.append((side, labels))
        if side.classes is not None:
            _check_range(found, side, labels, len(side.classes), f'its {len(side.classes)} classes')
        elif head_classes is not None:
            _check_range(found, side, labels, head_classes, f'the {head_classes} classes of the head')
        if getattr(side.dataset, 'ann_file', ''):
            missing = missing_files(str(info['img_path']) for info in side.infos() if 'img_path' in info)
            if missing:
                found.error(f'`{side.field}` lists {len(missing)} images without a file: {listed(missing, 3)}')
    trained = [part for part in read if part[0].split == 'train']
    for other, of_other in read:
        if other.split == 'train' or not trained:
            continue
        if len(trained) == 1:
            _compare(found, *trained[0], other, of_other)
