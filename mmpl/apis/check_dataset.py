"""The work behind ``tools/check_dataset.py``: find the files that training would stumble over, beforehand."""

import argparse
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from mmengine.registry import init_default_scope

from mmpl.datasets.bad_files import listing
from mmpl.datasets.decode import AnyDecoder, Decoder, decoder_at, decoder_of
from mmpl.datasets.guarded import build_filled
from mmpl.datasets.image_check import MAX_PIXELS, MIN_SIDE, ImageVerdict, inspect_image, look_for
from mmpl.datasets.unlabelled_folder import UnlabelledFolder
from mmpl.utils.cfg_options import HELP, CfgOptions, merge_options
from mmpl.utils.config_errors import read_config
from mmpl.utils.cores import usable_cores
from mmpl.utils.paths import check_annotated_paths
from mmpl.utils.user_errors import user_errors


class DatasetCheck(NamedTuple):
    """What a check found."""

    total: int  # files looked at
    bad: list[dict]  # path and reason of each that training would replace
    notes: Counter  # how many are unusual but get converted, by kind ('cmyk', '16-bit' ...)
    lost: dict[str, tuple[int, str, str]]  # by kind of loss: how many files, the first, and what of it is left out

    def joined(self, other: 'DatasetCheck') -> 'DatasetCheck':
        """This and that of other files."""
        lost = dict(self.lost)
        for kind, (count, first, what) in other.lost.items():
            before = lost.get(kind, (0, first, what))
            lost[kind] = (before[0] + count, *before[1:])
        return DatasetCheck(self.total + other.total, self.bad + other.bad, self.notes + other.notes, lost)

    @property
    def share(self) -> float:
        """Share of the files that are bad, in [0, 1]."""
        return len(self.bad) / max(1, self.total)


class Source(NamedTuple):
    """What is to be checked."""

    files: dict[AnyDecoder | None, list[str]]  # paths, sorted, by whose eyes; None if a loader is not known here
    limits: dict[str, int]  # ``max_pixels`` and ``min_side`` of the config's training


def read_source(source: str, cfg_options: Mapping[str, Any] | None = None) -> Source:
    """The image files of a folder, as ``mmpl.UnlabelledFolder`` lists them, or of a config's training set, sorted.

    With them comes how training will look at them.

    Args:
        source: Folder or config.
        cfg_options: Fields of the config to override, as of ``tools/train.py``.
    """
    path, limits = Path(source), {}
    if path.is_dir():
        if cfg_options:
            raise ValueError(f'--cfg-options is for configs, but {source!r} is a folder')
        dataset: Any = UnlabelledFolder(data_root=source)
    elif path.is_file():
        cfg = read_config(path)
        merge_options(cfg, cfg_options or {})
        init_default_scope(cfg.get('default_scope', 'mmpretrain'))
        if not cfg.get('train_dataloader', {}).get('dataset'):
            raise ValueError(f'{source!r} has no `train_dataloader.dataset`')
        dataset = build_filled(cfg.train_dataloader.dataset)
        check_annotated_paths(dataset)
        options = (cfg.get('train_cfg') or {}).get('bad_files') or {}
        limits = {field: options[field] for field in ('max_pixels', 'min_side') if field in options}
    else:
        raise FileNotFoundError(f'{source!r} is neither a folder nor a config')
    if not hasattr(dataset, 'get_data_info'):
        raise ValueError(f'{source!r}: {type(dataset).__name__} of `train_dataloader.dataset` does not say its files')
    of_all = Decoder() if path.is_dir() else decoder_of(dataset)
    files: dict[AnyDecoder | None, set[str]] = {}
    for index in range(len(dataset)):
        if 'img_path' in (info := dataset.get_data_info(index)):
            files.setdefault(of_all or decoder_at(dataset, index), set()).add(info['img_path'])
    if not files:
        raise ValueError(f'{source!r}: `train_dataloader.dataset` names no image files')
    return Source({decoder: sorted(paths) for decoder, paths in files.items()}, limits)


def check_files(
    files: Iterable[str],
    workers: int = 0,
    full: bool = True,
    max_pixels: int = MAX_PIXELS,
    min_side: int = MIN_SIDE,
    decoder: AnyDecoder | None = None,
) -> DatasetCheck:
    """Look at files in parallel; what is bad is in the order of the files.

    Args:
        files: Paths.
        workers: Processes; 0 for as many as there are cores.
        full: Decode every file to its end, as training does not before it needs to.
        max_pixels: As in :func:`mmpl.datasets.image_check.inspect_image`.
        min_side: As there.
        decoder: As there.
    """
    files = list(files)
    inspect = partial(inspect_image, full=full, max_pixels=max_pixels, min_side=min_side, decoder=decoder)
    bad, notes = [], Counter[str]()
    lost: dict[str, tuple[int, str, str]] = {}
    for path, verdict in zip(files, _map(inspect, files, workers or usable_cores()), strict=True):
        if verdict.bad:
            bad.append(dict(path=path, reason=verdict.bad))
        notes.update(verdict.notes)
        for text in verdict.lost:
            kind = text.partition(':')[0]
            count, first, what = lost.get(kind, (0, path, text))
            lost[kind] = (count + 1, first, what)
    return DatasetCheck(len(files), bad, notes, lost)


def look_for_files(files: Iterable[str]) -> DatasetCheck:
    """What of :func:`check_files` needs no loader: whether the files are there, and not empty."""
    files = list(files)
    bad = [dict(path=path, reason=reason) for path in files if '://' not in path and (reason := look_for(path))]
    return DatasetCheck(len(files), bad, Counter(), {})


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
    parser.add_argument('--max-pixels', type=int, help=f"more: too large (default: the config's, or {MAX_PIXELS})")
    parser.add_argument('--min-side', type=int, help=f"less: too small (default: the config's, or {MIN_SIDE})")
    parser.add_argument('--max-share', type=float, default=0.01, help='share of bad files to accept (default: 0.01)')
    parser.add_argument('--out', help='write the bad files there, one JSON object a line')
    parser.add_argument('--cfg-options', nargs='+', action=CfgOptions, help=HELP)
    options = parser.parse_args(argv)
    source = read_source(options.source, options.cfg_options)
    limits = dict(source.limits)
    limits |= {name: value for name in ('max_pixels', 'min_side') if (value := getattr(options, name)) is not None}
    found = DatasetCheck(0, [], Counter(), {})
    for decoder, files in source.files.items():
        if decoder is None:
            print(f'{len(files)} files are left to a loading transform of its own: looked for, and not looked into')
            found = found.joined(look_for_files(files))
        else:
            found = found.joined(check_files(files, options.workers, not options.quick, **limits, decoder=decoder))
    if options.out:
        Path(options.out).write_text(''.join(json.dumps(entry) + '\n' for entry in found.bad), encoding='utf-8')
    print(f'{found.total} files, {len(found.bad)} bad ({found.share:.2%}; --max-share {options.max_share:.2%})')
    if found.bad:
        print(listing(found.bad))
    if found.notes:
        print('converted while loading: ' + ', '.join(f'{count} {kind}' for kind, count in sorted(found.notes.items())))
    for count, first, what in found.lost.values():
        print(f'left out while loading, in {count} files: {what} (first: {first!r})')
    return int(found.share > options.max_share)
