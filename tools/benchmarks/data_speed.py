#!/usr/bin/env python
"""Images/s of two input pipelines, in turns, on JPEGs made from real photographs.

By default that of the fast preset against that of mmpretrain's MAE, on one core in one process; the last line of the
output is one JSON object. With ``--workers``, through data loaders with so many workers, A from shards and from a
folder, B from a folder::

    python tools/benchmarks/data_speed.py
    python tools/benchmarks/data_speed.py --photo-size 1600 1200
    python tools/benchmarks/data_speed.py --workers 1 2
"""

import argparse
import json
import statistics
import tarfile
import tempfile
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from mmengine.dataset import Compose, default_collate
from mmengine.registry import init_default_scope
from mmengine.utils import import_modules_from_strings
from mmpretrain.datasets import CustomDataset
from torch.utils.data import DataLoader, Dataset

from bench.arguments import at_least
from bench.photos import write_photos
from mmpl.datasets import ShardDataset, UnlabelledFolder
from mmpl.utils.user_errors import user_errors
from pretrain_speed import load_side, sides_parser


def build_pipeline(cfg: Any) -> Compose:
    """The training pipeline of a config."""
    init_default_scope(cfg.get('default_scope', 'mmpretrain'))
    import_modules_from_strings('mmpretrain.datasets')
    return Compose(cfg.train_dataloader.dataset.pipeline)


def run(pipeline: Compose, paths: list[Path], batch: int) -> float:
    """Load all photos once, a batch after the other; returns the median seconds of an image."""
    seconds = []
    for start in range(0, len(paths), batch):
        part = paths[start : start + batch]
        begin = time.perf_counter()
        default_collate([pipeline(dict(img_path=str(path), sample_idx=i)) for i, path in enumerate(part)])
        seconds.append((time.perf_counter() - begin) / len(part))
    return statistics.median(seconds)


SHARDS = 4
SOURCES = ('A from shards', 'A from a folder', 'B from a folder')


def datasets(folder: Path, photos: list[Path], pipelines: dict[str, Compose]) -> dict[str, Dataset]:
    """The photos as each of ``SOURCES`` reads them."""
    for number in range(SHARDS):
        with tarfile.open(folder / f'{number}.tar', 'w') as shard:
            for photo in photos[number::SHARDS]:
                shard.add(photo, photo.name)
    images = str(photos[0].parent)
    found = (
        ShardDataset(shards=str(folder), pipeline=pipelines['a'].transforms),
        UnlabelledFolder(data_root=images, pipeline=pipelines['a'].transforms),
        CustomDataset(data_root=images, with_label=False, pipeline=pipelines['b'].transforms),
    )
    return dict(zip(SOURCES, found, strict=True))


def with_workers(data: dict[str, Dataset], workers: int, args: argparse.Namespace) -> dict:
    """Images/s of each source through a data loader; the workers are there before the clock starts."""
    loaders = {
        name: DataLoader(
            dataset, args.batch, num_workers=workers, persistent_workers=True, collate_fn=default_collate, shuffle=True
        )
        for name, dataset in data.items()
    }
    seconds: dict[str, list[float]] = {name: [] for name in loaders}
    for number in range(-1, args.rounds):  # the first turn starts the workers
        for name, loader in loaders.items():
            begin = time.perf_counter()
            count = sum(len(batch['data_samples']) for batch in loader)
            if number >= 0:
                seconds[name].append((time.perf_counter() - begin) / count)
    rates = {name: 1 / statistics.median(values) for name, values in seconds.items()}
    shards, *others = SOURCES
    ratios = {
        name: statistics.median(b / a for a, b in zip(seconds[shards], seconds[name], strict=True)) for name in others
    }
    said = ', '.join(f'{name} {rate:.0f}' for name, rate in rates.items())
    print(f'{workers} workers, images/s: {said}; ' + ', '.join(f'shards / {n}: {r:.2f}' for n, r in ratios.items()))
    return dict(images_per_s=rates, ratios=ratios)


@user_errors()
def main(argv: list[str] | None = None) -> dict:
    """Run the benchmark; returns what the last line of the output says."""
    parser = sides_parser(__doc__)
    parser.add_argument('--photos', type=at_least(1), default=64, help='JPEGs a turn')
    parser.add_argument('--quality', type=int, default=97, help='of the JPEGs')
    parser.add_argument('--rounds', type=at_least(1), default=10, help='how often each side has its turn')
    parser.add_argument('--batch', type=at_least(1), default=16, help='images that are collated into one tensor')
    parser.add_argument('--workers', type=at_least(1), nargs='+', default=[], help='time data loaders with so many')
    args = parser.parse_args(argv)
    cv2.setNumThreads(0)  # as in a data loader's worker
    torch.set_num_threads(1)
    pipelines = {name: build_pipeline(load_side(getattr(args, name))) for name in ('a', 'b')}
    seconds: dict[str, list[float]] = dict(a=[], b=[])
    with tempfile.TemporaryDirectory() as folder:
        paths = write_photos(folder, args.photos, tuple(args.photo_size), args.quality)
        kilobytes = statistics.mean(path.stat().st_size for path in paths) / 1e3
        if args.workers:
            with tempfile.TemporaryDirectory() as shards:
                data = datasets(Path(shards), paths, pipelines)
                found = {workers: with_workers(data, workers, args) for workers in args.workers}
            result = dict(workers=found, kilobytes_per_photo=kilobytes, settings=vars(args))
            print(json.dumps(result))
            return result
        for pipeline in pipelines.values():
            run(pipeline, paths, args.batch)
        for number in range(args.rounds):
            for name, pipeline in pipelines.items():
                np.random.seed(number)  # the same crops for both
                seconds[name].append(run(pipeline, paths, args.batch))
    rates = {name: 1 / statistics.median(values) for name, values in seconds.items()}
    result = dict(
        ratio=statistics.median(b / a for a, b in zip(seconds['a'], seconds['b'], strict=True)),
        images_per_s=rates,
        kilobytes_per_photo=kilobytes,
        settings=vars(args),
    )
    print(f'{args.photos} photos of {args.photo_size[0]} x {args.photo_size[1]}, {kilobytes:.0f} kB each, one core')
    for name, rate in rates.items():
        print(f'{name.upper()}: {rate:8.1f} images/s  {getattr(args, name)}')
    print(f'A / B: {result["ratio"]:.2f}')
    print(json.dumps(result))
    return result


if __name__ == '__main__':
    main()
