#!/usr/bin/env python
"""What a pre-training run would cost, without running it: steps, rate, parameters, FLOP, memory, disk, hours.

The config is read as ``tools/train.py`` reads it, and one step of it is taken at full size on tensors without numbers
(see :mod:`fake_cuda`): no GPU is needed, and no images where their number is given::

    python tools/benchmarks/dry_run.py configs/pl_mae_vitb.py --images 1281167 --gpus 8 --gpu a100 --mfu 0.4
    python tools/benchmarks/dry_run.py work_dirs/pretrain_my_images.py        # that `mmpl pretrain --dry-run` wrote

``mmpl pretrain FOLDER --dry-run`` times real steps on the machine that it is called on.
"""

import argparse
import math
from collections.abc import Mapping, Sequence
from typing import Any

from mmengine.config import Config
from mmengine.registry import DATA_SAMPLERS, DATASETS, init_default_scope

from bench.arguments import at_least
from bench.results import num_masks
from fake_cuda import GIB, run_all
from mmpl.apis.train import parse_train_args, prepare_process, train_config
from mmpl.compat import add_trust_argument
from mmpl.engine.loader import resumable_loader
from mmpl.utils.cfg_options import HELP, CfgOptions
from mmpl.utils.fields import check_number
from mmpl.utils.user_errors import UserError, user_errors

FULL_PRECISION = (None, 'OptimWrapper', 'mmpl.GuardedOptimWrapper')
# Dense peak of matrix products in bf16 with sums in fp32, TFLOP/s, as NVIDIA publishes it: data sheets of A100, H100
# (SXM), H200 (SXM) and L40S, where they print it with sparsity half of it; for the RTX cards appendix A of the white
# papers on GA102 and Ada. Cards with less power or lower clocks, such as the PCIe versions, have less.
GPUS = {'a100': 312, 'h100': 989, 'h200': 989, 'l40s': 362, 'rtx4090': 165, 'rtx3090': 71}


class DryRunError(UserError, ValueError):
    """The run cannot be worked out; the message says what is missing."""


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The options of this tool; ``train`` has those that ``tools/train.py`` reads."""
    parser = argparse.ArgumentParser(description=str(__doc__).split('\n')[0])
    parser.add_argument('config', help='of a pre-training run')
    parser.add_argument('--gpus', type=at_least(1), default=1, help='of the whole run, one process each (default: 1)')
    parser.add_argument('--images', type=at_least(1), help='how many there are, where they are not on this machine')
    parser.add_argument('--gpu', help=f'whose hours are worked out: {", ".join(GPUS)}, or a peak in TFLOP/s')
    parser.add_argument('--mfu', type=float, default=0.4, help='share of the peak that is reached (default: 0.4)')
    parser.add_argument('--cfg-options', nargs='+', action=CfgOptions, help=HELP)
    add_trust_argument(parser)
    options = parser.parse_args(argv)
    options.train = parse_train_args([options.config])
    vars(options.train).update(cfg_options=options.cfg_options, trust=options.trust)
    return options


def peak_of(gpu: str) -> float:
    """TFLOP/s of a card by name, or as they are given."""
    if gpu.lower() in GPUS:
        return GPUS[gpu.lower()]
    try:
        peak = float(gpu)
    except ValueError as error:
        known = ', '.join(GPUS)
        raise DryRunError(f'`--gpu` must be one of {known}, or a peak in TFLOP/s, but got {gpu!r}') from error
    check_number('--gpu', peak, 0, open_minimum=True)
    return peak


def count_iterations(loader: Mapping[str, Any], dataset: Any, gpus: int) -> int:
    """Iterations of an epoch in each process, as mmengine's data loader has them."""
    sampler = DATA_SAMPLERS.build(loader['sampler'], default_args=dict(dataset=dataset, seed=0))
    of_process, batch = math.ceil(len(sampler) / gpus), loader['batch_size']
    iterations = of_process // batch if loader.get('drop_last') else math.ceil(of_process / batch)
    if not iterations:
        raise DryRunError(
            f'`train_dataloader.batch_size` {batch} with `drop_last=True` leaves no iteration in an epoch: {gpus} '
            f'processes share {len(dataset)} images'
        )
    return iterations


def count_files(cfg: Config, iterations: int, of_epoch: int) -> int:
    """Checkpoints that are on the disk at once, the one that is being written included.

    Args:
        cfg: Of the run.
        iterations: Of the whole run.
        of_epoch: Of an epoch.
    """
    hook = (cfg.get('default_hooks') or {}).get('checkpoint') or {}
    unit = of_epoch if hook.get('by_epoch', True) else 1
    kept = 0
    for interval, limit in (
        (hook.get('interval', -1) * unit, hook.get('max_keep_ckpts', -1)),
        (hook.get('iter_interval', -1), 2),
    ):
        if interval > 0:
            saved = math.ceil(iterations / interval)
            kept += min(saved, limit) if limit > 0 else saved
    return kept + (kept > 0)


def dry_run(cfg: Config, gpus: int = 1, images: int | None = None) -> dict[str, Any]:
    """Work a run out; the numbers by name, bytes and FLOP plain ones.

    Args:
        cfg: As :func:`mmpl.apis.train.train_config` gives it.
        gpus: Processes.
        images: How many images there are; None counts those of the config's data set.

    Raises:
        DryRunError: The images cannot be counted, or make no step.
        RuntimeError: The step cannot be taken; the message ends with its traceback.
    """
    init_default_scope(cfg.get('default_scope', 'mmpretrain'))
    loader, wrapper = cfg.train_dataloader, cfg.optim_wrapper
    resumable_loader(loader, {})  # refuses what is wrong with it
    try:
        dataset = range(images) if images else DATASETS.build(loader.dataset)
    except (OSError, ValueError, RuntimeError) as error:
        raise DryRunError(f'the images of the config cannot be counted, so give `--images`: {error}') from error
    of_epoch = count_iterations(loader, dataset, gpus)
    epochs = cfg.train_cfg.get('max_epochs')
    iterations = cfg.train_cfg.max_iters if epochs is None else epochs * of_epoch
    accumulated = wrapper.get('accumulative_counts', 1)
    schedule: Any = cfg.get('param_scheduler') or []
    warmups = [
        (part['end'] - part.get('begin', 0)) / (1 if part.get('by_epoch', True) else of_epoch)
        for part in ([schedule] if isinstance(schedule, Mapping) else schedule)
        if 'Linear' in part['type'] and 'end' in part
    ]
    (step,) = run_all([(cfg, gpus, 0)], 1, 'spawn')
    if 'error' in step:
        raise RuntimeError(step['error'])
    return dict(
        images=len(dataset),
        batch=loader.batch_size,
        gpus=gpus,
        accumulated=accumulated,
        masks=num_masks(cfg),
        iterations_of_epoch=of_epoch,
        iterations=iterations,
        steps=math.ceil(iterations / accumulated),
        epochs=epochs or iterations / of_epoch,
        warmup=sum(warmups),
        base_rate=wrapper.optimizer.lr,
        scaled=bool((cfg.get('auto_scale_lr') or {}).get('enable')),
        base_batch=(cfg.get('auto_scale_lr') or {}).get('base_batch_size'),
        rate=step['rate'],
        parameters=step['parameters'],
        in_fp32=wrapper.get('dtype') == 'float32' or wrapper.get('type') in FULL_PRECISION,
        flops_of_step=step['flops'] * accumulated * gpus,
        flops=step['flops'] * iterations * gpus,
        peak_bytes=max(step['peak'].values()),
        resting_bytes=step['rest'],
        checkpoint_bytes=step['weights'] + step['optimizer'],
        files=count_files(cfg, iterations, of_epoch),
    )


def hours(found: Mapping[str, Any], peak: float, mfu: float) -> float:
    """Hours of the steps of a run on cards of so many TFLOP/s."""
    return found['flops'] / (found['gpus'] * peak * 1e12 * mfu) / 3600


def text_of(found: Mapping[str, Any], gpu: str | None, mfu: float) -> str:
    """What is printed."""
    each, gpus = found['batch'] * found['accumulated'] * found['gpus'], found['gpus']
    rate = f'{found["base_rate"]:.3g}'
    if found['scaled']:
        rate += f' for {found["base_batch"]:,} images, so {found["rate"]:.3g} for {each:,}'
    names = {name: count for name, count in found['parameters'].items() if name != 'trained'}
    teachers = ''.join(f', {name} {count / 1e6:.1f} million' for name, count in names.items())
    size = found['checkpoint_bytes'] / GIB
    disk = f'{found["files"]} x {size:.2f} GiB = {found["files"] * size:.1f} GiB of checkpoints, the one being written '
    rows = {
        'images': f'{found["images"]:,}',
        'batch': f'{found["batch"]} a GPU x {gpus} GPUs x {found["accumulated"]} accumulated = {each:,} images a step, '
        f'{each * found["masks"]:,} masked views',
        'steps': f'{found["iterations_of_epoch"] / found["accumulated"]:,g} an epoch, {found["steps"]:,} in all',
        'epochs': f'{found["epochs"]:g}, of them {found["warmup"]:g} of warm-up',
        'rate': rate,
        'parameters': f'{found["parameters"]["trained"] / 1e6:.1f} million trained{teachers}',
        'FLOP': f'{found["flops_of_step"]:.4g} a step of all GPUs, {found["flops"]:.4g} in all',
        'memory': f'{found["peak_bytes"] / GIB:.1f} GiB of each GPU at the peak, {found["resting_bytes"] / GIB:.1f} '
        'between steps; of tensors alone, CUDA and fragmentation come to it',
        'disk': disk + 'included' if found['files'] else 'no checkpoints',
    }
    if gpu is not None:
        peak = peak_of(gpu)
        time = hours(found, peak, mfu)
        rows['time'] = (
            f'{time:.3g} hours on {gpus} x {gpu}, {time * gpus:,.3g} GPU hours, at {mfu:g} of {peak:g} TFLOP/s in '
            'bf16; of steps alone, without probes, checkpoints and waits for data'
        )
        if found['in_fp32']:
            rows['time'] += '. But the config computes in fp32, for which this peak does not hold'
    return '\n'.join(f'{name:11} {value}' for name, value in rows.items())


@user_errors()
def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Print what a run would cost; the same as numbers."""
    options = parse_args(argv)
    check_number('--mfu', options.mfu, 0, 1, open_minimum=True)
    if options.gpu is not None:
        peak_of(options.gpu)
    prepare_process(options.train)
    found = dry_run(train_config(options.train), options.gpus, options.images)
    print(text_of(found, options.gpu, options.mfu))
    return found


if __name__ == '__main__':
    main()
