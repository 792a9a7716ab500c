"""The work behind ``tools/benchmarks/pretrain_speed.py``: two pre-training configs against each other, in turns.

Each side runs in processes of its own, which the parent lets work one side at a time: A B A B ... So both meet the same
machine, and memory is each side's own. A *masked view* is one mask of one image: what a student encodes once.
"""

import argparse
import json
import multiprocessing
import os
import resource
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from mmengine.config import Config, DictAction
from mmengine.dataset import default_collate
from mmengine.hub import get_config
from mmengine.logging import MMLogger
from mmengine.model import MMDistributedDataParallel
from mmengine.optim import build_optim_wrapper
from mmengine.registry import DATASETS, MODELS, init_default_scope
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.data import DataLoader
from torch.utils.flop_counter import FlopCounterMode

from mmpl.compat import add_trust_argument, set_load_policy
from mmpl.datasets.embedded.photos import write_photos
from mmpl.engine.hooks.compile_hook import compile_blocks
from mmpl.models import EMATeacher
from mmpl.utils.config_errors import read_config
from mmpl.utils.fields import check_device
from mmpl.utils.user_errors import user_errors

STOCK_MAE = 'mmpretrain::mae/mae_vit-base-p16_8xb512-amp-coslr-300e_in1k.py'
CLOCKS: dict[str, Callable[[], float]] = dict(wall=time.perf_counter, cpu=time.process_time)
DTYPES = ('float32', 'bfloat16')
MOMENTA = (0.996, 0.9995)  # any will do: the cost is the same


# ---------------------------------------------------------------------------------------------------- parts of a step


class PartTimer:
    """Seconds of a step by part; time inside an inner part is not the outer one's.

    On CUDA the parts are timed by events, so that nothing waits for the device before the end of a round.

    Args:
        cuda (bool): Whether the work runs on CUDA.
        clock (Callable): Seconds, where it does not.
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
        """Time every call of a method as this part.

        Args:
            owner: The object whose method it is.
            method (str): Name of the method.
            part (str): Name of the part.
        """
        original = getattr(owner, method)
        if getattr(original, 'part', None) is not None:  # a module that stands at two places
            return

        def timed(*args, **kwargs):
            with self(part):
                return original(*args, **kwargs)

        timed.part = part  # type: ignore[attr-defined]
        setattr(owner, method, timed)

    def collect(self) -> dict[str, float]:
        """Seconds by part since the last call.

        Returns:
            dict[str, float]: What lies between parts is no part's.
        """
        if self.cuda:
            torch.cuda.synchronize()
        seconds: dict[str, float] = {}
        for (part, start), (_, stop) in zip(self._marks, self._marks[1:], strict=False):
            if part is not None:
                passed = start.elapsed_time(stop) / 1000 if self.cuda else stop - start
                seconds[part] = seconds.get(part, 0.0) + passed
        self._marks.clear()
        return seconds


def wrap_parts(timer: PartTimer, model: nn.Module, optim_wrapper: Any) -> None:
    """Time the parts of a model and its optimizer, as far as they exist.

    Args:
        timer (PartTimer): What takes the time.
        model (nn.Module): mmpretrain's MAE, or a model with teachers.
        optim_wrapper: Of mmengine.
    """
    timer.wrap(model.data_preprocessor, 'forward', 'data')
    timer.wrap(model.backbone, 'forward', 'student')
    timer.wrap(model.neck, 'forward', 'decoder')
    timer.wrap(model.head, 'loss', 'reconstruction')
    for name, module in model.named_children():
        if isinstance(module, EMATeacher):
            timer.wrap(module.backbone, 'encode', name)
            if hasattr(module, 'label'):
                timer.wrap(module, 'label', 'labels')
    for head in getattr(model, 'label_heads', {}).values():
        timer.wrap(head, 'loss', 'labels')
    timer.wrap(optim_wrapper, 'backward', 'backward')
    timer.wrap(optim_wrapper, 'step', 'optimizer')
    timer.wrap(optim_wrapper, 'zero_grad', 'optimizer')


# ---------------------------------------------------------------------------------------------------- one side


def load_side(path: str, options: dict | None = None) -> Config:
    """Read the config of a side.

    Args:
        path (str): A file, or ``package::config`` of an installed OpenMMLab package.
        options (dict, optional): Fields to override.

    Returns:
        Config: The config.
    """
    cfg = get_config(path) if '::' in path else read_config(path)
    if options:
        cfg.merge_from_dict(options)
    return cfg


def masks_per_image(cfg: Config) -> int:
    """How many masked views a step makes of one image."""
    return cfg.model.get('masking', {}).get('num_masks', 1)


def set_image_size(cfg: Config, size: int) -> None:
    """Make a full-size config small in its images, for a quick look: pipeline, encoder and MAE's decoder."""
    for transform in cfg.train_dataloader.dataset.pipeline:
        if 'RandomResizedCrop' in transform['type']:
            transform['scale'] = size
    cfg.model.backbone.img_size = size
    if 'num_patches' in cfg.model.neck or cfg.model.neck.type == 'MAEPretrainDecoder':
        cfg.model.neck.num_patches = (size // cfg.model.backbone.get('patch_size', 16)) ** 2


class Traffic:
    """Bytes that this process hands to collectives, by what they are for."""

    def __init__(self) -> None:
        self.bytes: dict[str, int] = {}
        self.purpose = 'statistics'
        self._in_hook = False

    def add(self, tensor: torch.Tensor, purpose: str | None = None) -> None:
        """Count a tensor."""
        purpose = purpose or self.purpose
        self.bytes[purpose] = self.bytes.get(purpose, 0) + tensor.numel() * tensor.element_size()

    def watch(self, model: nn.parallel.DistributedDataParallel) -> None:
        """Count the gradients of a model, and every all-reduce that Python code asks for."""
        import torch.distributed.algorithms.ddp_comm_hooks.default_hooks as hooks

        def counted_hook(group: Any, bucket: dist.GradBucket) -> torch.futures.Future[torch.Tensor]:
            self.add(bucket.buffer(), 'gradients')
            self._in_hook = True  # the hook calls what is counted below
            try:
                return hooks.allreduce_hook(group, bucket)
            finally:
                self._in_hook = False

        model.register_comm_hook(None, counted_hook)
        for name in ('all_reduce', 'all_gather', 'broadcast'):
            setattr(dist, name, self._counted(getattr(dist, name)))

    def _counted(self, collective: Callable) -> Callable:
        def counted(tensor, *args, **kwargs):
            for one in () if self._in_hook else tensor if isinstance(tensor, list) else [tensor]:
                self.add(one)
            return collective(tensor, *args, **kwargs)

        return counted


class Side:
    """A model, its optimizer and its data, ready to take steps.

    Args:
        cfg (Config): The config.
        args (argparse.Namespace): See :func:`parse_args`.
        photos (str): Folder of JPEGs.
    """

    def __init__(self, cfg: Config, args: argparse.Namespace, photos: str) -> None:
        torch.set_num_threads(args.threads)
        torch.manual_seed(0)
        self.device = torch.device(args.device)
        self.cuda = self.device.type == 'cuda'
        self.start_bytes = resident_bytes('VmRSS')
        init_default_scope(cfg.get('default_scope', 'mmpretrain'))
        self.num_masks = masks_per_image(cfg)
        self.images = args.views // self.num_masks if args.same == 'views' else args.views
        self.views = self.images * self.num_masks

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
        dataset = DATASETS.build(
            dict(
                type='mmpl.UnlabelledFolder',
                data_root=photos,
                pipeline=cfg.train_dataloader.dataset.pipeline,
                _scope_='mmpretrain',
            )
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
            batch = {name: values[:images] for name, values in next(self._batches).items()}
        self.model.train_step(batch, self.optim_wrapper)
        if hasattr(self.inner, 'update_teachers'):
            self.traffic.purpose = 'statistics, at the update of the teachers'
            with self.timer('ema'):
                self.inner.update_teachers(*MOMENTA)
            self.traffic.purpose = 'statistics'

    def round(self, steps: int) -> dict:
        """Take steps.

        Args:
            steps (int): How many.

        Returns:
            dict: ``seconds`` and ``parts`` (seconds by part), both per step, ``bytes`` communicated per step by
            purpose, and ``peak_bytes`` of memory since the start.
        """
        self.timer.collect()
        self.traffic.bytes = {}
        start = self.clock()
        for _ in range(steps):
            self.step()
        parts = self.timer.collect()  # waits for the device
        seconds = (self.clock() - start) / steps
        parts = {name: value / steps for name, value in parts.items()}
        parts['rest'] = seconds - sum(parts.values())
        communicated = {name: value / steps for name, value in self.traffic.bytes.items()}
        return dict(seconds=seconds, parts=parts, bytes=communicated, peak_bytes=self.peak_bytes())

    def peak_bytes(self) -> int:
        """Peak of the allocator on CUDA; on a CPU the growth of the resident set since before the model was built."""
        if self.cuda:
            return torch.cuda.max_memory_allocated()
        return resident_bytes('VmHWM') - self.start_bytes

    def count_flops(self) -> dict[str, float]:
        """Floating-point operations of the matrix products, convolutions and attention that one image costs.

        Attention is counted as the plain matrix products, whichever kernel runs it.

        Returns:
            dict[str, float]: GFLOP of a step with one image: ``total``, and ``forward`` and ``backward``.
        """
        passes: dict[str, float] = {}
        original = self.optim_wrapper.backward

        with FlopCounterMode(display=False) as counter, sdpa_kernel([SDPBackend.MATH]):

            def backward(loss, **kwargs):
                passes['forward'] = counter.get_total_flops() / 1e9
                return original(loss, **kwargs)

            self.optim_wrapper.backward = backward
            self.step(1)
        self.optim_wrapper.backward = original
        passes['total'] = counter.get_total_flops() / 1e9
        passes['backward'] = passes['total'] - passes['forward']
        return passes

    def profile(self, rows: int = 15) -> list[tuple[str, int, float, float]]:
        """One step by operator, as torch's profiler sees it.

        Returns:
            list[tuple[str, int, float, float]]: Name, calls, seconds of its own and share of all, the dearest first.
        """
        kinds = [torch.profiler.ProfilerActivity.CPU] + [torch.profiler.ProfilerActivity.CUDA] * self.cuda
        with torch.profiler.profile(activities=kinds) as profiler:
            self.step()
        field = 'self_device_time_total' if self.cuda else 'self_cpu_time_total'
        events = sorted(profiler.key_averages(), key=lambda event: -getattr(event, field))
        total = sum(getattr(event, field) for event in events)
        return [(e.key, e.count, getattr(e, field) / 1e6, getattr(e, field) / total) for e in events[:rows]]

    def teachers_differ(self) -> float:
        """Largest difference between this process' teachers and rank 0's; 0 if moving them needs no communication."""
        worst = 0.0
        for module in self.inner.children():
            if isinstance(module, EMATeacher):
                for parameter in module.parameters():
                    other = parameter.detach().clone()
                    dist.broadcast(other, 0)
                    worst = max(worst, (other - parameter).abs().max().item())
        return worst


def resident_bytes(field: str) -> int:
    """Memory of this process.

    Args:
        field (str): ``'VmRSS'``, now, or ``'VmHWM'``, its peak.

    Returns:
        int: Bytes; where there is no ``/proc`` the peak for either.
    """
    status = Path('/proc/self/status')
    if not status.is_file():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    line = next(line for line in status.read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) * 1024


def matmul_gflops(dtype: str, device: str, threads: int, clock: str, size: int = 2048, seconds: float = 0.5) -> float:
    """Rate of a square matrix product.

    Args:
        dtype (str): ``'float32'`` or ``'bfloat16'``.
        device (str): Where.
        threads (int): CPU threads.
        clock (str): One of :data:`CLOCKS`.
        size (int): Side of the matrices. Defaults to 2048.
        seconds (float): How long to measure at least. Defaults to 0.5.

    Returns:
        float: GFLOP/s, the best of the products.
    """
    torch.set_num_threads(threads)
    a = torch.randn(size, size, device=device).to(getattr(torch, dtype))
    b = torch.randn(size, size, device=device).to(a.dtype)
    out = a @ b
    best, end = float('inf'), CLOCKS[clock]() + seconds
    while CLOCKS[clock]() < end:
        repeats = 1 if a.device.type == 'cpu' else 20
        if a.device.type == 'cuda':
            torch.cuda.synchronize()
        start = CLOCKS[clock]()
        for _ in range(repeats):
            torch.mm(a, b, out=out)
        if a.device.type == 'cuda':
            torch.cuda.synchronize()
        best = min(best, (CLOCKS[clock]() - start) / repeats)
    return 2 * size**3 / best / 1e9


def serve(conn: Connection, cfg: Config, args: argparse.Namespace, photos: str, rank: int, port: int) -> None:
    """A process of one side: does what it is told until it is told to end."""
    set_load_policy(args.trust)  # for what an `init_cfg` names
    MMLogger.get_instance('benchmark', log_level='ERROR')  # every frozen parameter is worth a warning to mmengine
    try:
        if args.processes > 1:
            os.environ.update(MASTER_ADDR='127.0.0.1', MASTER_PORT=str(port))
            dist.init_process_group('gloo', rank=rank, world_size=args.processes)
        side = Side(cfg, args, photos)
        conn.send(dict(images=side.images, views=side.views))
        while (command := conn.recv()) is not None:
            name, arguments = command
            conn.send(getattr(side, name)(*arguments))
        if args.processes > 1:
            dist.destroy_process_group()
    except Exception as error:
        conn.send(error)
        raise


class Remote:
    """A side in its own processes.

    Args:
        cfg (Config): The config.
        args (argparse.Namespace): See :func:`parse_args`.
        photos (str): Folder of JPEGs.
    """

    def __init__(self, cfg: Config, args: argparse.Namespace, photos: str) -> None:
        context = multiprocessing.get_context('spawn')
        port = _free_port()
        self._conns, self._processes = [], []
        for rank in range(args.processes):
            here, there = context.Pipe()
            process = context.Process(target=serve, args=(there, cfg, args, photos, rank, port), daemon=True)
            process.start()
            there.close()
            self._conns.append(here)
            self._processes.append(process)
        sizes = self._receive()[0]
        self.images, self.views = sizes['images'], sizes['views']

    def call(self, name: str, *arguments) -> list:
        """Run a method in every process of the side; one result a process."""
        for conn in self._conns:
            conn.send((name, arguments))
        return self._receive()

    def _receive(self) -> list:
        results = []
        for conn in self._conns:
            try:
                result = conn.recv()
            except EOFError:
                raise RuntimeError('a process of the benchmark died; was there enough memory?') from None
            if isinstance(result, Exception):
                raise result
            results.append(result)
        return results

    def close(self) -> None:
        """End the processes."""
        for conn in self._conns:
            conn.send(None)
        for process in self._processes:
            process.join()


def _free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(('127.0.0.1', 0))
        return probe.getsockname()[1]


# ---------------------------------------------------------------------------------------------------- both sides


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line of ``tools/benchmarks/pretrain_speed.py``."""
    root = Path(__file__).resolve().parents[2]
    parser = argparse.ArgumentParser(
        description='Speed of two pre-training configs, measured in turns (A B A B ...)',
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument('--a', default=str(root / 'configs' / 'pl_mae_vitb_fast.py'), help='config of side A')
    parser.add_argument('--b', default=STOCK_MAE, help='config of side B')
    parser.add_argument('--a-options', nargs='+', action=DictAction, help='fields of A to override: key=value')
    parser.add_argument('--b-options', nargs='+', action=DictAction, help='fields of B to override: key=value')
    parser.add_argument('--views', type=int, default=8, help='masked views (with --same images: images) a step')
    parser.add_argument('--same', choices=('views', 'images'), default='views', help='what A and B have alike')
    parser.add_argument('--dtype', choices=DTYPES, default='float32', help='bfloat16 means autocast')
    parser.add_argument('--device', default='cuda' if torch.cuda.is_available() else 'cpu')
    parser.add_argument('--threads', type=int, default=torch.get_num_threads(), help='CPU threads a process')
    parser.add_argument(
        '--clock',
        choices=CLOCKS,
        default='wall',
        help="'cpu' is the CPU time of the process, for a machine that is not idle: needs --threads 1 and no workers",
    )
    parser.add_argument('--processes', type=int, default=1, help='more than 1: data-parallel over gloo')
    parser.add_argument('--workers', type=int, default=0, help='data loader workers a process')
    parser.add_argument('--rounds', type=int, default=3, help='how often each side has its turn')
    parser.add_argument('--steps', type=int, default=1, help='steps a turn')
    parser.add_argument('--warmup', type=int, default=1, help='steps before the first turn')
    parser.add_argument('--img-size', type=int, help='side of the images, if not the configs')
    parser.add_argument('--compile', action='store_true', help='torch.compile the transformer blocks of both sides')
    parser.add_argument('--profile', action='store_true', help='also one step of each side by operator')
    parser.add_argument('--photo-size', type=int, nargs=2, default=(500, 375), help='width and height of the JPEGs')
    add_trust_argument(parser)
    args = parser.parse_args(argv)
    if args.clock == 'cpu' and (args.threads, args.workers, args.device) != (1, 0, 'cpu'):
        parser.error('--clock cpu needs --threads 1 --workers 0 --device cpu: waiting threads take CPU time as well')
    for field in ('views', 'threads', 'processes', 'rounds', 'steps'):
        if getattr(args, field) < 1:
            parser.error(f'--{field} must be at least 1, but got {getattr(args, field)}')
    return args


def summarise(rounds: list[list[dict]], flops: dict, remote: Remote, peaks: list[float]) -> dict:
    """Medians over the rounds of one side.

    Args:
        rounds (list[list[dict]]): Results of :meth:`Side.round`, by round and process.
        flops (dict): From :meth:`Side.count_flops`.
        remote (Remote): The side.
        peaks (list[float]): Rate of the matrix product in each round, GFLOP/s.

    Returns:
        dict: The figures of a side, of one process.
    """
    seconds = [statistics.mean(r['seconds'] for r in ranks) for ranks in rounds]
    first = [ranks[0] for ranks in rounds]
    median = statistics.median(seconds)
    gflops = [flops['total'] * remote.images / s for s in seconds]
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
        parts={
            part: statistics.median(r['parts'].get(part, 0.0) for r in first)
            for part in dict.fromkeys(name for r in first for name in r['parts'])
        },
        rounds=seconds,
    )
    if any(r['bytes'] for r in first):
        result['bytes_per_step'] = first[-1]['bytes']
    return result


def table(sides: dict[str, dict]) -> str:
    """The sides next to each other, for people."""
    a, b = sides['a'], sides['b']
    rows: list[tuple[str, ...]] = [('', 'A', 'B')]
    for name, scale, form in (
        ('images_per_step', 1, '.0f'),
        ('views_per_step', 1, '.0f'),
        ('views_per_s', 1, '.3f'),
        ('gflop_per_view', 1, '.2f'),
        ('gflops', 1, '.1f'),
        ('peak_share', 1, '.3f'),
        ('peak_bytes', 2**-30, '.3f'),
        ('seconds_per_step', 1, '.3f'),
    ):
        label = 'peak memory (GiB)' if name == 'peak_bytes' else name.replace('_', ' ')
        rows.append((label, *(format(side[name] * scale, form) for side in (a, b))))
    for part in dict.fromkeys([*a['parts'], *b['parts']]):
        shares = [
            f'{s["parts"][part]:.3f} ({100 * s["parts"][part] / s["seconds_per_step"]:4.1f} %)'
            if part in s['parts']
            else '-'
            for s in (a, b)
        ]
        rows.append((f'  {part} (s)', *shares))
    for purpose in dict.fromkeys([*a.get('bytes_per_step', {}), *b.get('bytes_per_step', {})]):
        rows.append(
            (
                f'  bytes: {purpose}',
                *(format(s.get('bytes_per_step', {}).get(purpose, 0), ',.0f') for s in (a, b)),
            )
        )
    widths = [max(len(row[i]) for row in rows) for i in range(3)]
    return '\n'.join(f'{r[0]:<{widths[0]}}  {r[1]:>{widths[1]}}  {r[2]:>{widths[2]}}' for r in rows)


@user_errors()
def main(argv: list[str] | None = None) -> dict:
    """Run ``tools/benchmarks/pretrain_speed.py``.

    Args:
        argv (list[str], optional): Arguments; those of the process by default.

    Returns:
        dict: What the last line of the output says.
    """
    args = parse_args(argv)
    check_device('--device', args.device)
    cfgs = dict(a=load_side(args.a, args.a_options), b=load_side(args.b, args.b_options))
    for name, cfg in cfgs.items():
        if args.img_size:
            set_image_size(cfg, args.img_size)
        if args.same == 'views' and args.views % masks_per_image(cfg):
            raise ValueError(
                f'--views must be a multiple of `masking.num_masks` {masks_per_image(cfg)} of side {name}, '
                f'but got {args.views}'
            )
    with tempfile.TemporaryDirectory() as photos:
        write_photos(photos, max(32, args.views), tuple(args.photo_size))
        remotes = {name: Remote(cfg, args, photos) for name, cfg in cfgs.items()}
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
                print(f'\none step of {name.upper()} by operator: calls, seconds, share')
                for operator, calls, seconds, share in remote.call('profile')[0]:
                    print(f'{operator[:60]:<60} {calls:6d} {seconds:8.3f} {100 * share:5.1f} %')
        # after the memory was read: plain attention keeps more than the kernels do
        flops = {name: remote.call('count_flops')[0] for name, remote in remotes.items()}
        drift = {n: max(r.call('teachers_differ')) for n, r in remotes.items()} if args.processes > 1 else {}
        sides = {name: summarise(rounds[name], flops[name], remotes[name], peaks) for name in remotes}
        for remote in remotes.values():
            remote.close()
    pairs = zip(sides['a']['rounds'], sides['b']['rounds'], strict=True)
    views = sides['a']['views_per_step'] / sides['b']['views_per_step']
    result = dict(
        ratio=statistics.median(views * b / a for a, b in pairs),
        gflop_per_view=sides['a']['gflop_per_view'],
        gflops=sides['a']['gflops'],
        peak_share=sides['a']['peak_share'],
        memory_ratio=sides['a']['peak_bytes'] / sides['b']['peak_bytes'],
        gflops_ratio=statistics.median(
            sides['a']['gflop_per_view'] * views * b / sides['b']['gflop_per_view'] / a
            for a, b in zip(sides['a']['rounds'], sides['b']['rounds'], strict=True)
        ),
        matmul_gflops=statistics.median(peaks),
        **sides,
        teachers_differ_between_processes=drift,
        settings={name: value for name, value in vars(args).items()},
    )
    print(table(sides))
    print(f'A / B: masked views/s {result["ratio"]:.3f}, memory {result["memory_ratio"]:.3f}')
    print(json.dumps(result))
    return result
