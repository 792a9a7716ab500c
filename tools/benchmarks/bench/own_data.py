"""Anybody's class folders as a data set of the comparison: splits, small copies of the images, their statistics."""

import functools
import hashlib
import json
import os
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from bench.results import write_json
from mmpl.datasets.decode import Decoder, take
from mmpl.datasets.listing import list_images, split_folders
from mmpl.datasets.unlabelled_folder import EXTENSIONS

SHARES = dict(train=0.6, val=0.2, test=0.2)  # of each class, where a folder has no splits (our choice)
Stamp = Callable[[str], str]  # path, relative to the folder -> what tells the content of files apart
_FEW = 0.1  # share of the training images of each class that fine-tuning with few labels gets


def class_folders(name: str, folder: Path, side: int, cache: Path) -> dict[str, Any]:
    """Prepare class folders for the comparison, once: what is there already is taken again.

    A folder that holds ``train`` and ``test`` (or ``val``; :data:`mmpl.datasets.listing.SPLITS` has other names) is
    taken as it is split; a validation part that is missing is cut from the training images. Without such folders each
    class is split 60 : 20 : 20. Which image goes where follows from its name alone, so it is the same on every machine.
    Images that are the same byte for byte are in one split alone: where splits are given in the test images if there;
    what is split here has each once.
    Images become 8 bits a channel as pre-training loads them, see :class:`mmpl.LoadImage`.

    Args:
        name: Of the data set.
        folder: Holds a folder for each class, or splits that do.
        side: Of the copies, in pixels: the shorter side is scaled to it, then the middle is cut out.
        cache: Where the copies go.

    Returns:
        The fields that the config's ``data`` has for a data set, with ``folders``: split ('train', 'few' labels, 'val',
        'test') -> class folders.

    Raises:
        ValueError: There are fewer than two classes, a split lacks a class or is alone, or an image cannot be read.
    """

    @functools.cache
    def stamp(path: str) -> str:
        return hashlib.sha256((folder / path).read_bytes()).hexdigest()

    splits = _split(name, folder, stamp)
    files = {
        f'{split}/{label}/{path}' for split, classes in splits.items() for label in classes for path in classes[label]
    }
    stamps = sorted(f'{file} {stamp(file.split("/", 2)[2])}' for file in files)
    digest = hashlib.sha256(os.fsencode('\n'.join([str(side), *stamps]))).hexdigest()[:16]
    root = cache / f'{name}-{digest}'
    if not (root / 'done.json').is_file():  # is written last
        sums = np.zeros(3)  # of the training images' numbers: how many, sum, sum of squares
        for split, classes in splits.items():
            for label, paths in classes.items():
                (root / split / label).mkdir(parents=True, exist_ok=True)
                for number, path in enumerate(paths):
                    image = _small_copy(folder / path, side)
                    image.save(root / split / label / f'{number:06d}.png', compress_level=1)
                    if split == 'train':
                        values = np.asarray(image, np.float64)
                        sums += values.size, values.sum(), np.square(values).sum()
        mean = sums[1] / sums[0]
        std = (sums[2] / sums[0] - mean**2) ** 0.5
        write_json(root / 'done.json', dict(mean=round(float(mean), 2), std=round(float(std), 2)))
    return dict(
        label=name,
        num_classes=len(splits['train']),
        digest=digest,
        folders={split: str(root / split) for split in splits},
        **json.loads((root / 'done.json').read_text(encoding='utf-8')),
    )


def _small_copy(path: Path, side: int) -> Image.Image:
    try:
        image = take(Decoder()(path.read_bytes(), str(path)), str(path))
    except Exception as error:  # of damaged files nearly anything
        raise ValueError(f'{path} cannot be read: {error}') from error
    return ImageOps.fit(Image.fromarray(image[..., ::-1]), (side, side), Image.Resampling.BICUBIC)


def _without_copies(
    name: str, parts: Sequence[dict[str, list[str]]], stamp: Stamp, uncut: dict[str, list[str]] | None
) -> list[dict[str, list[str]]]:
    """Parts, each with the paths of its classes, without images that an earlier part has byte for byte.

    Of the part that is still to be split, ``uncut``, images that it has twice are left out as well.
    """
    seen: dict[str, str] = {}
    copies: list[tuple[str, str]] = []
    kept: list[dict[str, list[str]]] = []
    for part in parts:
        known = seen if part is uncut else dict(seen)
        kept.append({label: [] for label in part})
        for label, paths in part.items():
            for path in paths:
                if (other := known.get(stamp(path))) is None:
                    kept[-1][label].append(path)
                    seen.setdefault(stamp(path), path)
                else:
                    copies.append((path, other))
    if copies:
        print(f'{name}: {len(copies)} images are left out, copies of others, such as {copies[0][0]} of {copies[0][1]}')
    return kept


def _classes(folder: Path, root: Path) -> dict[str, list[str]]:
    """Paths of the images of each class, relative to the root, in an order that only their names decide."""

    def key(path: str) -> str:
        return hashlib.sha256(os.fsencode(path)).hexdigest()

    found: dict[str, list[str]] = {}
    for label in sorted(folder.iterdir()):
        if not label.is_dir() or label.name.startswith('.'):
            continue
        listing = list_images(str(label), EXTENSIONS)
        if others := listing.passed_over():
            print(f'{label}: {others} are left out')
        if listing.files:
            found[label.name] = sorted((str((label / path).relative_to(root)) for path in listing.files), key=key)
        elif listing.others or listing.dangling:
            raise ValueError(f'{label} is a class without an image: images end in {", ".join(EXTENSIONS)}')
    _refuse_strays(folder, found)
    return found


def _refuse_strays(folder: Path, taken: Collection[str]) -> None:
    """Refuse images that lie beside folders, in no class or split."""
    visible = [path for path in sorted(folder.iterdir()) if not path.name.startswith('.') and path.name not in taken]
    for path in visible:
        if path.suffix.lower() in EXTENSIONS or (path.is_dir() and list_images(str(path), EXTENSIONS).files):
            raise ValueError(f'{path} is beside {sorted(taken)}, but in none of them: move it into a folder, or away')


def _split(name: str, folder: Path, stamp: Stamp) -> dict[str, dict[str, list[str]]]:
    if not folder.is_dir():
        raise ValueError(f'--data {name}={folder}: there is no such folder')
    given = {split: _classes(folder / part, folder) for split, part in split_folders(folder).items()}
    if given:
        if 'train' not in given or len(given) < 2:
            raise ValueError(
                f'--data {name}={folder}: {sorted(split_folders(folder).values())} alone is no split: a `train` and a '
                '`test` or `val` with a folder for each class are needed, or folders of classes alone'
            )
        _refuse_strays(folder, split_folders(folder).values())
        # what tests is for nothing else: test, or val where there is none
        names = sorted(given) if 'test' in given else ['val', 'train']
        uncut = given['train'] if len(given) < 3 else None
        given = dict(zip(names, _without_copies(name, [given[split] for split in names], stamp, uncut), strict=True))
        given.setdefault('test', given.get('val', {}))
        if given['test'] is given.get('val') or 'val' not in given:
            share = SHARES['val'] / (SHARES['train'] + SHARES['val'])
            given['val'] = {
                label: paths[: max(1, round(share * len(paths)))] for label, paths in given['train'].items()
            }
            given['train'] = {label: paths[len(given['val'][label]) :] for label, paths in given['train'].items()}
        splits = given
    else:
        splits = {split: {} for split in SHARES}
        whole = _classes(folder, folder)
        (classes_of_all,) = _without_copies(name, [whole], stamp, whole)
        for label, paths in classes_of_all.items():
            start = 0
            for split, share in SHARES.items():
                end = len(paths) if split == 'test' else start + max(1, round(share * len(paths)))
                splits[split][label] = paths[start:end]
                start = end
    classes = set(splits['train'])
    for split, found in splits.items():
        lacking = sorted(classes.symmetric_difference(found) | {label for label, paths in found.items() if not paths})
        if lacking or len(classes) < 2:
            raise ValueError(
                f'--data {name}={folder}: every split needs images of the same classes, two at least, but train has '
                f'{sorted(classes)} and {split} differs in or lacks images of {lacking}'
            )
    splits['few'] = {label: paths[: max(1, round(_FEW * len(paths)))] for label, paths in splits['train'].items()}
    return {split: splits[split] for split in ('train', 'few', 'val', 'test')}
