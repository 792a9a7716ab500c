#!/usr/bin/env python
"""Two pre-training configs against each other, in turns (A B A B ...): masked views/s, step time by part, memory.

By default the fast preset against mmpretrain's MAE; the last line of the output is one JSON object, whose ``ratio`` is
A's masked views/s over B's. A *masked view* is one mask of one image: what a student encodes once. Each side works in
processes of its own, one side at a time, so both meet the same machine, and memory is each side's own.

    python tools/benchmarks/pretrain_speed.py --views 64 --dtype bfloat16
    python tools/benchmarks/pretrain_speed.py --a configs/pl_mae_vitb.py --views 8
    python tools/benchmarks/pretrain_speed.py --processes 2 --threads 1        # data-parallel over gloo
"""

import argparse
import json
import multiprocessing
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd
import torch
import torch.distributed as dist
from mmengine.config import Config
from mmengine.dataset import default_collate
from mmengine.hub import get_config
from mmengine.logging import MMLogger
from mmengine.model import MMDistributedDataParallel
from mmengine.optim import build_optim_wrapper
from mmengine.registry import DATASETS, MODELS, init_default_scope
from mmengine.utils import import_modules_from_strings
from torch import nn
from torch.distributed.algorithms.ddp_comm_hooks import default_hooks
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.benchmark import Timer
from torch.utils.data import DataLoader
from torch.utils.flop_counter import FlopCounterMode

from bench.arguments import CONFIGS, at_least
from bench.photos import write_photos
from bench.results import num_masks
from mmpl.compat import add_trust_argument, set_load_policy
from mmpl.engine.hooks.compile_hook import compile_blocks
from mmpl.models import Teacher
from mmpl.utils.cfg_options import CfgOptions, merge_options
from mmpl.utils.config_errors import read_config
from mmpl.utils.fields import check_device
from mmpl.utils.user_errors import user_errors

STOCK_MAE = 'mmpretrain::mae/mae_vit-base-p16_8xb512-amp-coslr-300e_in1k.py'
CLOCKS: dict[str, Callable[[], float]] = dict(wall=time.perf_counter, cpu=time.process_time)


# ---------------------------------------------------------------------------------------------------- parts of a step


class PartTimer:
    """Seconds of a step by part; time inside an inner part is not the outer one's.

    On CUDA the parts are timed by events, so that nothing waits for the device before the end of a round.
    """

    def __init__(self, cuda: bool, clock: Callable[[], float] = time.perf_counter) -> None:
        self.cuda = cuda
        self.clock = clock
        self._stack: list[str] = []
        self._marks: list[tuple[str | None, Any]] = []

    def _mark(self, part: str | None) -> None:
        if self.cuda:
            event = torch.cuda.Event(enable_timing=True)
            event.record()
            self._marks.append((part, event))
        else:
            self._marks.append((part, self.clock()))

    @contextmanager
    def __call__(self, part: str) -> Iterator[None]:
        """Time a block as this part."""
        self._stack.append(part)
        self._mark(part)
        try:
            yield
        finally:
            self._stack.pop()
            self._mark(self._stack[-1] if self._stack else None)

    def wrap(self, owner: Any, method: str, part: str) -> None:
        """Time every call of a method as this part; of a module that stands at two places, as the first one."""
        original = getattr(owner, method)
        if hasattr(original, 'part'):
            return

        def timed(*args, **kwargs):
            with self(part):
                return original(*args, **kwargs)

        timed.part = part  # type: ignore[attr-defined]
        setattr(owner, method, timed)

    def collect(self) -> Counter:
        """Seconds by part since the last call; what lies between parts is no part's."""
        if self.cuda:
            torch.cuda.synchronize()
        seconds: Counter = Counter()
        for (part, start), (_, stop) in zip(self._marks, self._marks[1:], strict=False):
            if part is not None:
                seconds[part] += start.elapsed_time(stop) / 1000 if self.cuda else stop - start
        self._marks.clear()
        return seconds


def wrap_parts(timer: PartTimer, model: nn.Module, optim_wrapper: Any) -> None:
    """Time the children of any model, under their attributes' names, and its optimizer.

    Of a teacher, its encoder and, as ``<teacher>.<method>``, what its class does besides; of a head, also of each in a
    ``ModuleDict``, the loss; of all else the forward pass.
    """
    for name, child in model.named_children():
        if isinstance(child, Teacher):
            timer.wrap(child.backbone, 'encode', name)
            for method in set(dir(type(child))) - set(dir(Teacher)):
                if not method.startswith('_') and callable(getattr(child, method)):
                    timer.wrap(child, method, f'{name}.{method}')
            continue
        for module in child.values() if isinstance(child, nn.ModuleDict) else [child]:
            timer.wrap(module, 'loss' if hasattr(module, 'loss') else 'forward', name)
    timer.wrap(optim_wrapper, 'backward', 'backward')
    timer.wrap(optim_wrapper, 'step', 'optimizer')
    timer.wrap(optim_wrapper, 'zero_grad', 'optimizer')


# ---------------------------------------------------------------------------------------------------- one side


def load_side(path: str, options: dict | None = None) -> Config:
    """Read the config of a side, a file or ``package::config`` of an installed OpenMMLab package."""
    cfg = get_config(path) if '::' in path else read_config(path)
    merge_options(cfg, options or {})
    return cfg


def set_image_size(cfg: Config, size: int) -> None:
    """Make a full-size config small in its images, for a quick look: pipeline, encoder and MAE's decoder."""
    for transform in cfg.train_dataloader.dataset.pipeline:
        if 'RandomResizedCrop' in transform['type']:
            transform['scale'] = size
    cfg.model.backbone.img_size = size
    neck = cfg.model.get('neck')
    if neck and ('num_patches' in neck or neck.type == 'MAEPretrainDecoder'):
        neck.num_patches = (size // cfg.model.backbone.get('patch_size', 16)) ** 2


class Traffic:
    """Bytes that this process hands to collectives, by what they are for."""

    def __init__(self) -> None:
        self.bytes: Counter = Counter()
        self.purpose = 'statistics'
        self._in_hook = False

    def watch(self, model: nn.parallel.DistributedDataParallel) -> None:
        """Count the gradients of a model, and every all-reduce that Python code asks for."""

        def counted_hook(group: Any, bucket: dist.GradBucket) -> torch.futures.Future[torch.Tensor]:
            self.bytes['gradients'] += bucket.buffer().nbytes
            self._in_hook = True  # the hook calls what is counted below
            try:
                return default_hooks.allreduce_hook(group, bucket)
            finally:
                self._in_hook = False

        model.register_comm_hook(None, counted_hook)
        for name in ('all_reduce', 'all_gather', 'broadcast'):
            setattr(dist, name, self._counted(getattr(dist, name)))

    def _counted(self, collective: Callable) -> Callable:
        def counted(tensor, *args, **kwargs):
            if not self._in_hook:
                self.bytes[self.purpose] += sum(t.nbytes for t in (tensor if isinstance(tensor, list) else [tensor]))
            return collective(tensor, *args, **kwargs)

        return counted


def _first(values: Any, images: int | None) -> Any:
    """The first images of a batch: of one tensor, or of each of several views."""
    several = isinstance(values, list) and all(isinstance(view, torch.Tensor) and view.ndim == 4 for view in values)
    return [view[:images] for view in values] if several else values[:images]


class Side:
    """A model, its optimizer and its data, ready to take steps; ``photos`` is a folder of JPEGs."""

    def __init__(self, cfg: Config, args: argparse.Namespace, photos: str) -> None:
        torch.set_num_threads(args.threads)
        torch.manual_seed(0)
        self.device = torch.device(args.device)
        self.cuda = self.device.type == 'cuda'
        self.start_bytes = resident_bytes('VmRSS')
        init_default_scope(cfg.get('default_scope', 'mmpretrain'))
        import_modules_from_strings(**cfg.get('custom_imports', dict(imports=None)))  # a method of somebody's own
        self.images = args.views // num_masks(cfg) if args.same == 'views' else args.views
        self.views = self.images * num_masks(cfg)

        self.model = MODELS.build(cfg.model)
        self.model.init_weights()
        self.model.to(self.device).train()
        self.inner = self.model
        self.traffic = Traffic()
        if dist.is_initialized():
            self.model = MMDistributedDataParallel(self.inner, device_ids=None, broadcast_buffers=False)
            self.traffic.watch(self.model)
        if hasattr(self.inner, 'attach_updater'):
            self.inner.attach_updater('the benchmark')
            self.inner.set_length(1000, 1)
        if args.compile:
            compile_blocks(self.inner, dynamic=False)
        wrapper = cfg.optim_wrapper
        self.optim_wrapper = build_optim_wrapper(
            self.model,
            dict(
                type='mmpl.AutocastOptimWrapper',
                dtype=args.dtype,
                constructor=wrapper.get('constructor', 'DefaultOptimWrapperConstructor'),
                optimizer=dict(wrapper.optimizer, lr=1e-5),
                **{field: wrapper[field] for field in ('paramwise_cfg', 'clip_grad') if field in wrapper},
            ),
        )
        self.clock = CLOCKS[args.clock]
        self.timer = PartTimer(self.cuda, self.clock)
        wrap_parts(self.timer, self.inner, self.optim_wrapper)
        pipeline = cfg.train_dataloader.dataset.pipeline
        dataset = DATASETS.build(
            dict(type='mmpl.UnlabelledFolder', data_root=photos, pipeline=pipeline, _scope_='mmpretrain')
        )
        loader = DataLoader(
            dataset, self.images, shuffle=True, drop_last=True, num_workers=args.workers, collate_fn=default_collate
        )
        self._batches = self._endless(loader)

    @staticmethod
    def _endless(loader: DataLoader) -> Iterator:
        while True:
            yield from loader

    def step(self, images: int | None = None) -> None:
        """Load a batch, or the first images of it, take an optimizer step and move the teachers."""
        with self.timer('data'):
            batch = {name: _first(values, images) for name, values in next(self._batches).items()}
        self.model.train_step(batch, self.optim_wrapper)
        self.traffic.purpose = 'statistics, at the update of the teachers'
        with self.timer('ema'):
            if hasattr(self.inner, 'after_step'):
                self.inner.after_step(progress=0.5, epoch=0)  # of the middle of a run; any momentum costs the same
        self.traffic.purpose = 'statistics'

    def round(self, steps: int) -> dict:
        """Take steps.

        Returns:
            ``seconds``, ``parts`` (seconds by part) and ``bytes`` communicated by purpose, all per step, and
            ``peak_bytes`` of memory since the start.
        """
        self.timer.collect()
        self.traffic.bytes.clear()
        start = self.clock()
        for _ in range(steps):
            self.step()
        parts = self.timer.collect()  # waits for the device
        seconds = (self.clock() - start) / steps
        per_step = {name: value / steps for name, value in parts.items()}
        per_step['rest'] = seconds - sum(per_step.values())
        communicated = {name: value / steps for name, value in self.traffic.bytes.items()}
        return dict(seconds=seconds, parts=per_step, bytes=communicated, peak_bytes=self.peak_bytes())

    def peak_bytes(self) -> int:
        """Peak of the allocator on CUDA; on a CPU the growth of the resident set since before the model was built."""
        return torch.cuda.max_memory_allocated() if self.cuda else resident_bytes('VmHWM') - self.start_bytes

    def count_flops(self) -> dict[str, float]:
        """GFLOP of the matrix products, convolutions and attention of a step, an image.

        Attention is counted as the plain matrix products, whichever kernel runs it. Counted on two images, where there
        are as many, as some losses compare images with each other and refuse one; or on a group of those that a method
        takes together.

        Returns:
            ``total``, ``forward`` and ``backward``.
        """
        passes: dict[str, float] = {}
        images, original = min(max(2, getattr(self.inner, 'group_size', 1)), self.images), self.optim_wrapper.backward

        with FlopCounterMode(display=False) as counter, sdpa_kernel([SDPBackend.MATH]):

            def backward(loss, **kwargs):
                passes['forward'] = counter.get_total_flops() / 1e9 / images
                return original(loss, **kwargs)

            self.optim_wrapper.backward = backward
            self.step(images)
        self.optim_wrapper.backward = original
        passes['total'] = counter.get_total_flops() / 1e9 / images
        passes['backward'] = passes['total'] - passes['forward']
        return passes

    def profile(self) -> str:
        """Table of one step by operator, the dearest first."""
        kinds = [torch.profiler.ProfilerActivity.CPU] + [torch.profiler.ProfilerActivity.CUDA] * self.cuda
        with torch.profiler.profile(activities=kinds) as profiler:
            self.step()
        field = 'self_device_time_total' if self.cuda else 'self_cpu_time_total'
        return profiler.key_averages().table(sort_by=field, row_limit=15, max_name_column_width=60)

    def teachers_differ(self) -> float:
        """Largest difference between this process' teachers and rank 0's; 0 if moving them needs no communication."""
        worst = 0.0
        for parameter in (p for m in self.inner.children() if isinstance(m, Teacher) for p in m.parameters()):
            other = parameter.detach().clone()
            dist.broadcast(other, 0)
            worst = max(worst, (other - parameter).abs().max().item())
        return worst


def resident_bytes(field: str) -> int:
    """Memory of this process: ``'VmRSS'``, now, or ``'VmHWM'``, its peak."""
    line = next(line for line in Path('/proc/self/status').read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) * 1024


def matmul_gflops(dtype: str, device: str, threads: int, clock: str, size: int = 2048, seconds: float = 0.5) -> float:
    """Best rate of a square matrix product, GFLOP/s, measured for some seconds."""
    a, b = (torch.randn(size, size, device=device).to(getattr(torch, dtype)) for _ in range(2))
    names = dict(torch=torch, a=a, b=b, out=a @ b)
    clocks = {} if a.is_cuda else dict(timer=CLOCKS[clock])  # its own waits for the device
    timer = Timer('torch.mm(a, b, out=out)', globals=names, num_threads=threads, **clocks)
    return 2 * size**3 / min(timer.blocked_autorange(min_run_time=seconds).times) / 1e9


class Remote:
    """A side in its own processes."""

    def __init__(self, cfg: Config, args: argparse.Namespace, photos: Path, group: Path) -> None:
        context = multiprocessing.get_context('spawn')
        self._processes = [ProcessPoolExecutor(1, context) for _ in range(args.processes)]
        ranks = [p.submit(_start, cfg, args, str(photos), rank, group) for rank, p in enumerate(self._processes)]
        self.images, self.views = [rank.result() for rank in ranks][0]

    def call(self, name: str, *arguments: Any) -> list:
        """Run a method in every process of the side; one result a process."""
        return [rank.result() for rank in [p.submit(_call, name, *arguments) for p in self._processes]]

    def close(self) -> None:
        """End the processes."""
        for process in self._processes:
            process.shutdown()


_side: Side  # of a process that :class:`Remote` has started


def _start(cfg: Config, args: argparse.Namespace, photos: str, rank: int, group: Path) -> tuple[int, int]:
    global _side
    set_load_policy(args.trust)  # for what an `init_cfg` names
    MMLogger.get_instance('benchmark', log_level='ERROR')  # every frozen parameter is worth a warning to mmengine
    if args.processes > 1:
        dist.init_process_group('gloo', f'file://{group}', rank=rank, world_size=args.processes)
    _side = Side(cfg, args, photos)
    return _side.images, _side.views


def _call(name: str, *arguments: Any) -> Any:
    return getattr(_side, name)(*arguments)


# ---------------------------------------------------------------------------------------------------- both sides


def sides_parser(doc: str | None) -> argparse.ArgumentParser:
    """What both speed benchmarks ask for; ``doc`` begins with a line on what they do."""
    parser = argparse.ArgumentParser(
        description=str(doc).split('\n')[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument('--a', default=str(CONFIGS / 'pl_mae_vitb_fast.py'), help='config of side A')
    parser.add_argument('--b', default=STOCK_MAE, help='config of side B')
    parser.add_argument(
        '--photo-size', type=at_least(1), nargs=2, default=(500, 375), help='width and height of the JPEGs'
    )
    return parser


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = sides_parser(__doc__)
    parser.add_argument('--a-options', nargs='+', action=CfgOptions, help='fields of A to override: key=value')
    parser.add_argument('--b-options', nargs='+', action=CfgOptions, help='fields of B to override: key=value')
    parser.add_argument('--views', type=at_least(1), default=8, help='masked views (with --same images: images) a step')
    parser.add_argument('--same', choices=('views', 'images'), default='views', help='what A and B have alike')
    parser.add_argument('--dtype', choices=('float32', 'bfloat16'), default='float32', help='bfloat16 means autocast')
    parser.add_argument('--device', default='cuda' if torch.cuda.is_available() else 'cpu')
    parser.add_argument('--threads', type=at_least(1), default=torch.get_num_threads(), help='CPU threads a process')
    parser.add_argument(
        '--clock',
        choices=CLOCKS,
        default='wall',
        help="'cpu' is the CPU time of the process, for a machine that is not idle: needs --threads 1 and no workers",
    )
    parser.add_argument('--processes', type=at_least(1), default=1, help='more than 1: data-parallel over gloo')
    parser.add_argument('--workers', type=at_least(0), default=0, help='data loader workers a process')
    parser.add_argument('--rounds', type=at_least(1), default=3, help='how often each side has its turn')
    parser.add_argument('--steps', type=at_least(1), default=1, help='steps a turn')
    parser.add_argument('--warmup', type=at_least(1), default=1, help='steps before the first turn')
    parser.add_argument('--img-size', type=int, help='side of the images, if not the configs')
    parser.add_argument('--compile', action='store_true', help='torch.compile the transformer blocks of both sides')
    parser.add_argument('--profile', action='store_true', help='also one step of each side by operator')
    add_trust_argument(parser)
    args = parser.parse_args(argv)
    if args.processes > 1 and args.device != 'cpu':
        parser.error('--processes above 1 needs --device cpu: they would share one card')
    if args.clock == 'cpu' and (args.threads, args.workers, args.device) != (1, 0, 'cpu'):
        parser.error('--clock cpu needs --threads 1 --workers 0 --device cpu: waiting threads take CPU time as well')
    return args


def summarise(rounds: list[list[dict]], flops: dict, remote: Remote, peaks: list[float]) -> dict:
    """Medians over the rounds of one side: the figures of one process.

    Args:
        rounds: Results of :meth:`Side.round`, by round and process.
        flops: From :meth:`Side.count_flops`.
        remote: The side.
        peaks: Rate of the matrix product in each round, GFLOP/s.
    """
    seconds = [statistics.mean(r['seconds'] for r in ranks) for ranks in rounds]
    first = [ranks[0] for ranks in rounds]
    median = statistics.median(seconds)
    gflops = [flops['total'] * remote.images / s for s in seconds]
    parts = dict.fromkeys(name for r in first for name in r['parts'])
    result = dict(
        images_per_step=remote.images,
        views_per_step=remote.views,
        seconds_per_step=median,
        views_per_s=remote.views / median,
        gflop_per_view=flops['total'] * remote.images / remote.views,
        gflop_per_view_forward=flops['forward'] * remote.images / remote.views,
        gflops=statistics.median(gflops),
        peak_share=statistics.median(g / p for g, p in zip(gflops, peaks, strict=True)),
        peak_bytes=max(r['peak_bytes'] for ranks in rounds for r in ranks),
        parts={part: statistics.median(r['parts'].get(part, 0.0) for r in first) for part in parts},
        rounds=seconds,
    )
    if any(r['bytes'] for r in first):
        result['bytes_per_step'] = first[-1]['bytes']
    return result


def table(sides: dict[str, dict]) -> str:
    """The sides next to each other, for people."""
    columns: dict[str, dict[str, str]] = {}
    for name, side in sides.items():
        cells = {
            field.replace('_', ' '): format(side[field], form)
            for field, form in (
                ('images_per_step', '.0f'),
                ('views_per_step', '.0f'),
                ('views_per_s', '.3f'),
                ('gflop_per_view', '.2f'),
                ('gflops', '.1f'),
                ('peak_share', '.3f'),
                ('seconds_per_step', '.3f'),
            )
        }
        cells['peak memory (GiB)'] = f'{side["peak_bytes"] / 2**30:.3f}'
        for part, seconds in side['parts'].items():
            cells[f'{part} (s)'] = f'{seconds:.3f} ({100 * seconds / side["seconds_per_step"]:4.1f} %)'
        cells |= {f'bytes: {purpose}': f'{n:,.0f}' for purpose, n in side.get('bytes_per_step', {}).items()}
        columns[name.upper()] = cells
    return pd.DataFrame(columns).fillna('-').to_string()


@user_errors()
def main(argv: list[str] | None = None) -> dict:
    """Run the benchmark; returns what the last line of the output says."""
    args = parse_args(argv)
    check_device('--device', args.device)
    cfgs = dict(a=load_side(args.a, args.a_options), b=load_side(args.b, args.b_options))
    for name, cfg in cfgs.items():
        if args.img_size:
            set_image_size(cfg, args.img_size)
        if args.same == 'views' and args.views % num_masks(cfg):
            raise ValueError(
                f'--views must be a multiple of `masking.num_masks` {num_masks(cfg)} of side {name}, '
                f'but got {args.views}'
            )
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_photos(folder / 'photos', max(32, args.views), tuple(args.photo_size))
        remotes = {name: Remote(cfg, args, folder / 'photos', folder / name) for name, cfg in cfgs.items()}
        for remote in remotes.values():
            remote.call('round', args.warmup)
        rounds: dict[str, list] = dict(a=[], b=[])
        peaks = []
        for number in range(args.rounds):
            peaks.append(matmul_gflops(args.dtype, args.device, args.threads, args.clock))
            for name, remote in remotes.items():
                rounds[name].append(remote.call('round', args.steps))
                print(f'round {number + 1} {name.upper()}: {rounds[name][-1][0]["seconds"]:.3f} s a step', flush=True)
        if args.profile:
            for name, remote in remotes.items():
                print(f'\none step of {name.upper()} by operator\n{remote.call("profile")[0]}')
        # after the memory was read: plain attention keeps more than the kernels do
        flops = {name: remote.call('count_flops')[0] for name, remote in remotes.items()}
        drift = {n: max(r.call('teachers_differ')) for n, r in remotes.items()} if args.processes > 1 else {}
        sides = {name: summarise(rounds[name], flops[name], remotes[name], peaks) for name in remotes}
        for remote in remotes.values():
            remote.close()
    a, b = sides['a'], sides['b']
    views = a['views_per_step'] / b['views_per_step']
    ratio = statistics.median(views * s / t for t, s in zip(a['rounds'], b['rounds'], strict=True))
    result = dict(
        ratio=ratio,
        gflop_per_view=a['gflop_per_view'],
        gflops=a['gflops'],
        peak_share=a['peak_share'],
        memory_ratio=a['peak_bytes'] / b['peak_bytes'],
        gflops_ratio=ratio * a['gflop_per_view'] / b['gflop_per_view'],
        matmul_gflops=statistics.median(peaks),
        **sides,
        teachers_differ_between_processes=drift,
        settings=vars(args),
    )
    print(table(sides))
    print(f'A / B: masked views/s {result["ratio"]:.3f}, memory {result["memory_ratio"]:.3f}')
    print(json.dumps(result))
    return result


if __name__ == '__main__':
    main()
