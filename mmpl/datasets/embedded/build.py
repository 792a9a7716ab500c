"""Builds: one folder for each set of arguments, made once, by one process, and found again by all others.

::

    <root>/<size>[_<variant>][_seed<n>]/
        meta.json          what the build is identified by, classes, counts of files, mean and deviation of the pixels
        cls/ coco/ ade/    see ``formats.py``
"""

import dataclasses
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from filelock import FileLock
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from mmpl.utils.fields import Natural, check_choice, checked

from .base import SPLITS, EmbeddedSet
from .digits import DIGITS
from .formats import FORMAT_VERSION, write_class, write_json, write_scenes
from .scenes import Scene
from .surfaces import SURFACES

GENERATOR = 'mmpl.datasets.embedded'
VARIANTS: dict[str, EmbeddedSet] = {name: which for which in (DIGITS, SURFACES) for name in which.variants}
"""Every variant and the set that it belongs to."""


class Build(NamedTuple):
    """A complete build: its folder, and names and RGB colours of its classes."""

    folder: Path
    classes: tuple[str, ...]
    palette: tuple[tuple[int, int, int], ...]


@checked()
def build_embedded(
    root: str | os.PathLike,
    size: str = 'demo',
    variant: str = 'plain',
    seed: Natural = 0,
    progress: bool = True,
    force: bool = False,
) -> Build:
    """Make an embedded data set unless the very same build is already complete.

    The same arguments give the same files to the last byte (with the same Pillow and numpy). Any number of processes
    may call this at once: one builds in a hidden sibling folder, which is renamed at the end, and the others wait for
    it. They meet at a file lock, so it holds without ``torch.distributed`` and once a machine where machines share no
    disk.

    Args:
        root: Folder of all builds.
        size: ``'demo'`` or ``'test'``.
        variant: Key of :data:`VARIANTS`.
        seed: Of all that is random: splits, geometry, backgrounds.
        progress: Whether to show a progress bar.
        force: Whether to build again even if a complete build is there.

    Raises:
        FileExistsError: The folder exists, is not empty and was not made by this function.
        ImportError: A package that carries the sources is missing.
    """
    check_choice('variant', variant, VARIANTS)
    chosen = VARIANTS[variant]
    check_choice('size', size, chosen.sizes)
    request = {
        'generator': GENERATOR,
        'version': FORMAT_VERSION,
        'size': size,
        'variant': variant,
        'seed': seed,
        'render': dataclasses.asdict(chosen.variants[variant]),
        **chosen.sizes[size].record(),
    }
    request = json.loads(json.dumps(request))  # as it will be read back
    target = Path(root).expanduser() / (
        size + ('' if variant == 'plain' else f'_{variant}') + (f'_seed{seed}' if seed else '')
    )
    build_once(target, request, lambda out: _write(out, chosen, request, progress), force)
    return Build(target, chosen.classes, chosen.palette)


def _write(out: Path, chosen: EmbeddedSet, request: dict[str, Any], progress: bool) -> None:
    """Fill the folder of a build."""
    amount = chosen.sizes[request['size']]
    renderer = chosen.renderer(chosen.variants[request['variant']], amount, request['seed'])
    moments = []  # of each training image: mean and mean square of each channel
    columns = (TextColumn('{task.description}'), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, disable=not progress) as bar:
        total = len(chosen.classes) * sum(amount.images) + sum(amount.scenes)
        task = bar.add_task(f'Embedded data set {request["size"]} {request["variant"]}', total=total)
        for split in SPLITS:
            for label, name in enumerate(chosen.classes):
                for pixels in write_class(out / 'cls' / split / name, renderer.images(split, label)):
                    bar.advance(task)
                    if split == 'train':
                        moments.append([pixels.mean((0, 1)), np.square(pixels, dtype=np.float64).mean((0, 1))])

        def scenes(split: str, count: int) -> Iterator[Scene]:
            for index in range(count):
                yield renderer.scene(split, index)
                bar.advance(task)

        for split, count in zip(SPLITS, amount.scenes, strict=False):
            write_scenes(out, split, scenes(split, count), chosen.classes, chosen.supercategory)
    mean, square = np.mean(moments, 0)
    meta = {
        **request,
        **renderer.meta,
        'classes': chosen.classes,
        'palette': chosen.palette,
        'cls_train_mean': mean.round(3).tolist(),
        'cls_train_std': np.sqrt(square - mean**2).round(3).tolist(),
        'files': count_files(out),
    }
    write_json(out / 'meta.json', meta)


def build_once(target: Path, request: dict[str, Any], write: Callable[[Path], None], force: bool = False) -> None:
    """Make a folder unless the very same one is already complete; any number of processes may call this at once.

    Args:
        target: The folder.
        request: What the build is identified by, as JSON gives it back; ``write`` puts it into ``meta.json`` together
            with ``files``, the count of files a folder.
        write: Fills an empty folder.
        force: Whether to make it even if a complete one is there.

    Raises:
        FileExistsError: The folder exists, is not empty and was not made by this function.
    """
    if not force and _is_complete(target, request):
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(str(target.parent / f'.{target.name}.lock')):
        if not force and _is_complete(target, request):  # another process built it while we waited
            return
        empty = target.is_dir() and not any(target.iterdir())
        if target.exists() and not empty and _read_meta(target).get('generator') != GENERATOR:
            raise FileExistsError(
                f'{target} exists and holds no meta.json of an embedded data set: it is not overwritten. '
                'Move or delete it, or choose another root'
            )
        for stale in target.parent.glob(f'.{target.name}.tmp-*'):  # left by a killed build; we hold the lock
            shutil.rmtree(stale, ignore_errors=True)
        work = Path(tempfile.mkdtemp(prefix=f'.{target.name}.tmp-', dir=target.parent))
        try:
            build = work / 'new'
            build.mkdir()
            write(build)
            if target.exists():
                os.rename(target, work / 'old')
            os.rename(build, target)
        finally:
            shutil.rmtree(work, ignore_errors=True)


def _read_meta(target: Path) -> dict[str, Any]:
    """What ``meta.json`` says; nothing if there is none that can be read."""
    try:
        meta = json.loads((target / 'meta.json').read_text(encoding='utf-8'))
    except (OSError, ValueError):
        return {}
    return meta if isinstance(meta, dict) else {}


def _is_complete(target: Path, request: dict[str, Any]) -> bool:
    meta = _read_meta(target)
    same = all(meta.get(key) == value for key, value in request.items())
    return same and meta.get('files') == count_files(target)


def count_files(target: Path) -> dict[str, int]:
    """Number of files in every folder below ``target`` that has any, but for ``target`` itself."""
    counts = {Path(folder).relative_to(target).as_posix(): len(files) for folder, _, files in os.walk(target)}
    return {folder: count for folder, count in sorted(counts.items()) if count and folder != '.'}
