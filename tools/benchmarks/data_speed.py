#!/usr/bin/env python
"""Images/s per core of two input pipelines, in turns in one process, on JPEGs made from real photographs.

By default that of the fast preset against that of mmpretrain's MAE; the last line of the output is one JSON object.

    python tools/benchmarks/data_speed.py
    python tools/benchmarks/data_speed.py --photo-size 1600 1200
"""

import json
import statistics
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

from bench.arguments import at_least
from mmpl.datasets.embedded.photos import write_photos
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


@user_errors()
def main(argv: list[str] | None = None) -> dict:
    """Run the benchmark; returns what the last line of the output says."""
    parser = sides_parser(__doc__)
    parser.add_argument('--photos', type=at_least(1), default=64, help='JPEGs a turn')
    parser.add_argument('--quality', type=int, default=97, help='of the JPEGs')
    parser.add_argument('--rounds', type=at_least(1), default=10, help='how often each side has its turn')
    parser.add_argument('--batch', type=at_least(1), default=16, help='images that are collated into one tensor')
    args = parser.parse_args(argv)
    cv2.setNumThreads(0)  # as in a data loader's worker
    torch.set_num_threads(1)
    pipelines = {name: build_pipeline(load_side(getattr(args, name))) for name in ('a', 'b')}
    seconds: dict[str, list[float]] = dict(a=[], b=[])
    with tempfile.TemporaryDirectory() as folder:
        paths = write_photos(folder, args.photos, tuple(args.photo_size), args.quality)
        kilobytes = statistics.mean(path.stat().st_size for path in paths) / 1e3
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
