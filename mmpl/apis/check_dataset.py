"""The work behind ``tools/check_dataset.py``: find the files that training would stumble over, beforehand."""

import argparse
import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import NamedTuple

from mmengine.registry import DATASETS, init_default_scope

from mmpl.datasets.bad_files import listing
from mmpl.datasets.image_check import MAX_PIXELS, MIN_SIDE, ImageVerdict, inspect_image
from mmpl.datasets.unlabelled_folder import UnlabelledFolder
from mmpl.utils.config_errors import read_config
from mmpl.utils.user_errors import user_errors


class DatasetCheck(NamedTuple):
    """What a check found."""

    total: int  # files looked at
    bad: list[dict]  # path and reason of each that training would replace
    notes: Counter  # how many are unusual but get converted, by kind ('cmyk', '16-bit' ...)

    @property
    def share(self) -> float:
        """Share of the files that are bad, in [0, 1]."""
        return len(self.bad) / max(1, self.total)


def files_of(source: str) -> list[str]:
    """The image files of a folder, as ``mmpl.UnlabelledFolder`` lists them, or of a config's training set; sorted.

    Raises:
        FileNotFoundError: There is no such folder or config.
        ValueError: There are no images, or the config has no training set.
    """
    path = Path(source)
    if path.is_dir():
        dataset = UnlabelledFolder(data_root=source)
    elif path.is_file():
        cfg = read_config(path)
        init_default_scope(cfg.get('default_scope', 'mmpretrain'))
        if not cfg.get('train_dataloader', {}).get('dataset'):
            raise ValueError(f'{source!r} has no `train_dataloader.dataset`')
        dataset = DATASETS.build(cfg.train_dataloader.dataset)
    else:
        raise FileNotFoundError(f'{source!r} is neither a folder nor a config')
    infos = (dataset.get_data_info(index) for index in range(len(dataset)))
    files = sorted({info['img_path'] for info in infos if 'img_path' in info})
    if not files:
        raise ValueError(f'{source!r}: `train_dataloader.dataset` names no image files')
    return files


def check_files(
    files: Iterable[str], workers: int = 0, full: bool = True, max_pixels: int = MAX_PIXELS, min_side: int = MIN_SIDE
) -> DatasetCheck:
    """Look at files in parallel; what is bad is in the order of the files.

    Args:
        files: Paths.
        workers: Processes; 0 for as many as there are cores.
        full: Decode every file to its end, as training does not before it needs to.
        max_pixels: As in :func:`mmpl.datasets.image_check.inspect_image`.
        min_side: As there.
    """
    files = list(files)
    inspect = partial(inspect_image, full=full, max_pixels=max_pixels, min_side=min_side)
    bad, notes = [], Counter[str]()
    for path, verdict in zip(files, _map(inspect, files, workers or _cores()), strict=True):
        if verdict.bad:
            bad.append(dict(path=path, reason=verdict.bad))
        notes.update(verdict.notes)
    return DatasetCheck(len(files), bad, notes)


def _cores() -> int:
    """Cores that this process may use; where the system does not say, all of them."""
    return len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count() or 1


def _map(inspect: partial, files: list[str], workers: int) -> Iterator[ImageVerdict]:
    if workers == 1 or len(files) < 2:
        yield from map(inspect, files)
        return
    with ProcessPoolExecutor(workers) as pool:
        yield from pool.map(inspect, files, chunksize=max(1, min(256, len(files) // (4 * workers))))


@user_errors()
def main(argv: list[str] | None = None) -> int:
    """Run ``tools/check_dataset.py``; the exit code is 1 if the share of bad files is above ``--max-share``."""
    parser = argparse.ArgumentParser(description='Find the images that cannot be trained on')
    parser.add_argument('source', help="folder of images, or a config, whose training set's files are checked")
    parser.add_argument('--workers', type=int, default=0, help='processes (default: one a core)')
    parser.add_argument('--quick', action='store_true', help='headers and ends of files only')
    parser.add_argument('--max-pixels', type=int, default=MAX_PIXELS, help=f'more: too large (default: {MAX_PIXELS})')
    parser.add_argument('--min-side', type=int, default=MIN_SIDE, help=f'less: too small (default: {MIN_SIDE})')
    parser.add_argument('--max-share', type=float, default=0.01, help='share of bad files to accept (default: 0.01)')
    parser.add_argument('--out', help='write the bad files there, one JSON object a line')
    options = parser.parse_args(argv)
    files = files_of(options.source)
    found = check_files(files, options.workers, not options.quick, options.max_pixels, options.min_side)
    if options.out:
        Path(options.out).write_text(''.join(json.dumps(entry) + '\n' for entry in found.bad), encoding='utf-8')
    print(f'{found.total} files, {len(found.bad)} bad ({found.share:.2%}; --max-share {options.max_share:.2%})')
    if found.bad:
        print(listing(found.bad))
    if found.notes:
        print('converted while loading: ' + ', '.join(f'{count} {kind}' for kind, count in sorted(found.notes.items())))
    return int(found.share > options.max_share)
