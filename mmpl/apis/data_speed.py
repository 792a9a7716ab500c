"""The work behind ``tools/benchmarks/data_speed.py``: images/s of two input pipelines on one core, in turns."""

import argparse
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

from mmpl.apis.pretrain_speed import STOCK_MAE, load_side
from mmpl.datasets.embedded.photos import write_photos
from mmpl.utils.user_errors import user_errors


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line of ``tools/benchmarks/data_speed.py``."""
    root = Path(__file__).resolve().parents[2]
    parser = argparse.ArgumentParser(
        description='Images/s per core of the input pipelines of two configs, measured in turns on real JPEGs',
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument('--a', default=str(root / 'configs' / 'pl_mae_vitb_fast.py'), help='config of side A')
    parser.add_argument('--b', default=STOCK_MAE, help='config of side B')
    parser.add_argument('--photos', type=int, default=64, help='JPEGs a turn')
    parser.add_argument('--photo-size', type=int, nargs=2, default=(500, 375), help='width and height of the JPEGs')
    parser.add_argument('--quality', type=int, default=97, help='of the JPEGs')
    parser.add_argument('--rounds', type=int, default=10, help='how often each side has its turn')
    parser.add_argument('--batch', type=int, default=16, help='images that are collated into one tensor')
    args = parser.parse_args(argv)
    for field in ('photos', 'rounds', 'batch'):
        if getattr(args, field) < 1:
            parser.error(f'--{field} must be at least 1, but got {getattr(args, field)}')
    return args


def build_pipeline(cfg: Any) -> Compose:
    """The training pipeline of a config."""
    init_default_scope(cfg.get('default_scope', 'mmpretrain'))
    import_modules_from_strings('mmpretrain.datasets')
    return Compose(cfg.train_dataloader.dataset.pipeline)


def run(pipeline: Compose, paths: list[Path], batch: int) -> list[float]:
    """Load all photos once, a batch after the other.

    Args:
        pipeline (Compose): What loads a photo.
        paths (list[Path]): The photos.
        batch (int): Images of a batch.

    Returns:
        list[float]: Seconds of each batch per image.
    """
    seconds = []
    for start in range(0, len(paths), batch):
        part = paths[start : start + batch]
        begin = time.perf_counter()
        default_collate([pipeline(dict(img_path=str(path), sample_idx=i)) for i, path in enumerate(part)])
        seconds.append((time.perf_counter() - begin) / len(part))
    return seconds


@user_errors()
def main(argv: list[str] | None = None) -> dict:
    """Run ``tools/benchmarks/data_speed.py``.

    Args:
        argv (list[str], optional): Arguments; those of the process by default.

    Returns:
        dict: What the last line of the output says.
    """
    args = parse_args(argv)
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
                seconds[name].append(statistics.median(run(pipeline, paths, args.batch)))
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
