"""What a training step would do on a GPU, known without one: host waits, copies, collectives and memory.

A config is run at full size through mmengine's Runner, with everything that it has but its probes and checkpoints, on
torch's fake CUDA tensors: they have shapes, types and a device, and no numbers. A mismatch of devices or types raises
as on a GPU. It needs no GPU, no CUDA driver, no compiler and hardly any memory::

    python tools/benchmarks/fake_cuda.py                    # the table of docs/performance.md
    python tools/benchmarks/fake_cuda.py configs/pl_mae_vitb.py --json

What it cannot know: time, the allocator's fragmentation, workspaces of libraries, what kernels do with the numbers.
"""

import argparse
import contextlib
import copy
import functools
import json
import math
import os
import sys
import tempfile
import traceback
import warnings
import weakref
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from multiprocessing import get_context
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import mmengine.device.utils
import mmengine.dist.utils
import mmengine.model.base_module
import mmengine.runner.runner
import mmpretrain
import mmpretrain.models.utils.attention
import numpy as np
import torch
import torch._dynamo  # looks at torch as it is: before anything is replaced
import torch.distributed as dist
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.model import MMDistributedDataParallel
from mmengine.registry import DATA_SAMPLERS, DATASETS
from mmengine.runner import Runner
from mmpretrain.structures import DataSample
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.nn import functional as F  # noqa: N812
from torch.testing._internal.distributed.fake_pg import FakeStore
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend
from torch.utils.data import Dataset
from torch.utils.flop_counter import flop_registry

import mmpl.engine
import mmpl.methods
from bench.arguments import CONFIGS, at_least
from mmpl.models import Teacher
from mmpl.utils.cfg_options import HELP, CfgOptions, merge_options
from mmpl.utils.config_errors import read_config
from mmpl.utils.dist import unwrapped
from mmpl.utils.user_errors import user_errors

ORDINARY, LOOK = 2, 3  # iterations: the second is like most, at the third the health is looked at and logged
GIB = 2**30
CARDS = (24, 40, 80)  # GiB
RESERVE = 2.0  # GiB of a card that the table leaves for CUDA's context, libraries and fragmentation; our choice
BLOCK = 512  # bytes, to which CUDA's allocator rounds
WAITS = {'_local_scalar_dense', 'nonzero', 'masked_select', 'unique_dim', '_unique2', 'unique_consecutive', 'equal'}
WAITS |= {'is_nonzero', 'bincount', 'repeat_interleave.Tensor'}
PHASES = ('forward', 'backward', 'optimizer', 'teachers and log')
COLLECTIVES: tuple[str, ...] = (
    'all_reduce',
    'all_gather',
    'broadcast',
    'reduce',
    'gather',
    'barrier',
    'reduce_scatter',
)
COLLECTIVES += ('all_gather_object', 'broadcast_object_list', 'all_gather_into_tensor', 'reduce_scatter_tensor')
CUDA, META = torch.device('cuda:0'), torch.device('meta')
_WRAPPERS = (torch._compile.__file__, str(Path(torch._dynamo.__file__).parent))  # of modes' __torch_dispatch__
_ENGINE = torch.autograd.graph._engine_run_backward.__code__


class Stop(Exception):
    """The iterations that were asked for are done."""


class Watch(TorchDispatchMode):
    """Sees every operation on fake tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.iteration = 0
        self.phase = 'building'
        self.waits: dict[int, Counter] = defaultdict(Counter)
        self.copies: dict[int, Counter] = defaultdict(Counter)
        self.collectives: dict[int, Counter] = defaultdict(Counter)
        self.flops: Counter = Counter()
        self.peaks: dict[str, int] = defaultdict(int)
        self.bytes = self.resting = 0
        self._storages: dict[int, Any] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        """Count an operation, and run it."""
        kwargs = dict(kwargs or {})
        if func is torch.ops.prim.device.default:
            # autograd's engine would move gradients between streams of a device that is not there
            return META if _asked_by_engine() else func(*args)
        if kwargs.get('device') is not None and torch.device(kwargs['device']).type == 'meta':
            kwargs['device'] = CUDA  # what the engine makes is like the gradients
        name = func.overloadpacket.__name__
        if (answer := self._wait(func, name, args, kwargs)) is not NotImplemented:
            return answer
        if name in ('is_pinned', '_pin_memory'):
            return self._pin(name, args[0])
        self._copy(name, args, kwargs)
        result = func(*args, **kwargs)
        self.flops[self.iteration] += flops_of(name, args, kwargs, result)
        for tensor in tree_leaves(result):
            self._hold(tensor)
        return result

    def _wait(self, func: Any, name: str, args: tuple, kwargs: dict) -> Any:
        """Count what waits for the device; answer what fake tensors cannot know."""
        by_bool = name in ('index', 'index_put_', 'index_put') and any(
            isinstance(i, Tensor) and i.dtype in (torch.bool, torch.uint8) for i in args[1]
        )
        if not by_bool and name not in WAITS and f'{name}.{func._overloadname}' not in WAITS:
            return NotImplemented
        tensor = next(leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor))
        if tensor.device.type == 'cuda':
            self.waits[self.iteration][f'{name}{" by bools" if by_bool else ""} in {place()}'] += 1
        if name == '_local_scalar_dense':
            with contextlib.suppress(Exception):
                return func(*args, **kwargs)
            one = tensor.dtype == torch.bool or 'figures' in place()  # no figure is divided by 0; nothing is found bad
            return float(one) if tensor.dtype.is_floating_point else int(one)
        if name == 'bincount':
            return torch.zeros(kwargs.get('minlength', args[-1]), dtype=torch.long, device=tensor.device)
        return torch.empty_like(tensor) if name == 'index' else NotImplemented  # as if all were chosen

    def _pin(self, name: str, tensor: Tensor) -> Any:
        if name == 'is_pinned':
            return hasattr(tensor, 'was_pinned')
        copy = torch.empty_like(tensor)
        copy.was_pinned = True
        return copy

    def _copy(self, name: str, args: tuple, kwargs: dict) -> None:
        if name == '_to_copy':
            source, target, no_wait = args[0], kwargs.get('device'), kwargs.get('non_blocking')
        elif name == 'copy_':
            source, target, no_wait = args[1], args[0].device, kwargs.get('non_blocking', args[2:] == (True,))
        elif name in ('index', 'index_put', 'index_put_'):
            target, no_wait = args[0].device, False
            source = next((i for i in args[1] if isinstance(i, Tensor) and i.device != target and i.ndim), None)
        else:
            return
        if source is None or target is None or torch.device(target).type == source.device.type:
            return
        to_host = torch.device(target).type == 'cpu'  # torch pins what it copies to without waiting
        kind = 'asynchronous' if no_wait and (to_host or hasattr(source, 'was_pinned')) else 'BLOCKING'
        self.copies[self.iteration][f'{kind} {source.device.type} -> {torch.device(target).type} in {place()}'] += 1

    def _hold(self, tensor: Any) -> None:
        """Count the storage of a tensor on the device for as long as it lives."""
        if not isinstance(tensor, FakeTensor) or tensor.device.type != 'cuda':
            return
        storage = tensor.untyped_storage()
        key, size = storage._cdata, math.ceil(storage.nbytes() / BLOCK) * BLOCK
        if key not in self._storages:

            def freed(_: Any) -> None:
                if self._storages.pop(key, None) is not None:
                    self.bytes -= size

            self._storages[key] = weakref.ref(storage, freed)
            self.bytes += size
            self.peaks[self.phase] = max(self.peaks[self.phase], self.bytes)


def flops_of(name: str, args: tuple, kwargs: Mapping, result: Any) -> int:
    """FLOP of an operator of ATen: of matrix products, convolutions and attention, 0 of all else.

    The backward pass of attention counts twice its forward pass: what the fused kernels compute once more is no work of
    the model's. What activation checkpointing computes once more is counted, as it takes as long as any.
    """
    formula = flop_registry.get(getattr(torch.ops.aten, name.removesuffix('_'), None))  # `addmm_` is `addmm`
    if formula is None:
        return 0
    flops = formula(*args, **kwargs, out_val=result)
    return flops * 4 // 5 if name.endswith('_attention_backward') else flops  # torch counts five products, not four


def place() -> str:
    """Where in mmpl, or else in what it uses, something happens: file and function."""
    found = 'torch'
    for frame, _ in traceback.walk_stack(sys._getframe(1)):
        package, file = _in_package(frame.f_code.co_filename)
        if package is mmpl:
            return f'{file}:{frame.f_code.co_name}'
        if package is not None and found == 'torch':
            found = f'{file}:{frame.f_code.co_name}'
    return found


@functools.cache
def _in_package(filename: str) -> tuple[Any, str]:
    """Which of the packages that :func:`place` names a file is part of, and its name there; None if of none."""
    path = Path(filename)
    for package in (mmpl, mmengine, mmpretrain):
        folder = Path(str(package.__file__)).parent
        if folder in path.parents:
            return package, path.relative_to(folder.parent).as_posix()
    return None, filename


def _asked_by_engine() -> bool:
    """Whether autograd's engine asks from C++: there is no frame of Python below, or only that which called it."""
    frame: Any = sys._getframe(2)
    while frame is not None and frame.f_code.co_filename.startswith(_WRAPPERS):
        frame = frame.f_back
    return frame is None or frame.f_code is _ENGINE


class FakeEvent:
    """Of CUDA; waiting for one of the same iteration is a wait."""

    watch: Watch

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.iteration = -1

    def record(self, stream: Any = None) -> None:
        """Note when."""
        self.iteration = self.watch.iteration

    def synchronize(self) -> None:
        """Count a wait for this iteration; the device has more to do than one from before."""
        if self.iteration == self.watch.iteration:
            self.watch.waits[self.iteration][f'synchronize in {place()}'] += 1


class FakeDDP(MMDistributedDataParallel):
    """Sums no gradients: torch's own does, in buckets, amid the backward pass."""

    def __init__(self, module: torch.nn.Module, **kwargs: Any) -> None:
        torch.nn.Module.__init__(self)
        self.module = module
        self.detect_anomalous_params = False

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run the module."""
        return self.module(*args, **kwargs)

    @contextlib.contextmanager
    def no_sync(self) -> Iterator[None]:
        """Nothing is summed anyway."""
        yield


@DATASETS.register_module(force=True)
class FakeImages(Dataset):
    """Images without numbers, as many views of each as the method wants."""

    def __init__(self, count: int, views: int, channels: int, side: int, boxes: bool) -> None:
        self.count, self.views, self.shape, self.boxes = count, views, (channels, side, side), boxes

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> dict:
        images = [torch.empty(self.shape, dtype=torch.uint8) for _ in range(self.views)]
        sample = DataSample()
        if self.views > 1:
            boxes = np.array([[0.0, 0, 100, 100], [10, 10, 120, 120]]) if self.boxes else None
            sample.set_field(boxes, 'view_boxes', field_type='metainfo')
        return dict(inputs=images if self.views > 1 else images[0], data_samples=sample)


@DATA_SAMPLERS.register_module(force=True)
class InOrder:
    """The indices in their order."""

    def __init__(self, dataset: Any, **kwargs: Any) -> None:
        self.count = len(dataset)

    def __iter__(self) -> Iterator[int]:
        return iter(range(self.count))

    def __len__(self) -> int:
        return self.count

    def set_epoch(self, epoch: int) -> None:
        """There is one order."""


class Phases(Hook):
    """Tells the watch where the run is, and stops it."""

    priority = 'VERY_HIGH'

    def __init__(self, watch: Watch) -> None:
        self.watch = watch

    def before_train(self, runner: Runner) -> None:
        """Let the optimizer wrapper say what it does."""
        for name, phase in (('backward', 'backward'), ('step', 'optimizer')):
            setattr(runner.optim_wrapper, name, self._in_phase(phase, getattr(runner.optim_wrapper, name)))

    def _in_phase(self, phase: str, function: Any) -> Any:
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            self.watch.phase = phase
            return function(*args, **kwargs)

        return wrapped

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """A new iteration."""
        if batch_idx == LOOK:
            raise Stop
        self.watch.iteration, self.watch.phase = batch_idx + 1, 'forward'
        self.watch.resting = self.watch.bytes

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """What follows the optimizer."""
        self.watch.phase = 'teachers and log'


def pretend(watch: Watch, world: int, rank: int) -> None:
    """Make this process believe in a GPU, and in ``world`` processes; not to be undone."""
    _setup_privateuseone_for_python_backend('nodevice')  # a device without streams, which autograd takes for ours
    properties = SimpleNamespace(major=8, minor=0, name='fake', total_memory=CARDS[-1] * GIB, multi_processor_count=108)
    answers: dict[str, Any] = dict(
        is_available=True, is_initialized=False, device_count=1, current_device=0, _lazy_init=None, set_device=None
    )
    answers |= dict(get_device_properties=properties, get_device_capability=(8, 0), max_memory_allocated=0)
    answers |= dict(reset_peak_memory_stats=None, manual_seed=None, manual_seed_all=None, empty_cache=None)
    for name, answer in answers.items():
        setattr(torch.cuda, name, lambda *args, answer=answer, **kwargs: answer)
    FakeEvent.watch = watch
    torch.cuda.Event = FakeEvent  # type: ignore[assignment,misc]
    torch.cuda.synchronize = lambda device=None: watch.waits[watch.iteration].update([f'synchronize in {place()}'])
    torch.accelerator.is_available = lambda: True
    torch.optim.Optimizer._accelerator_graph_capture_health_check = lambda self: None  # type: ignore[method-assign]
    mmengine.model.base_module.update_init_info = lambda module, init_info: None  # means of numbers that are not there
    torch.nn.init._no_grad_trunc_normal_ = lambda tensor, *args, **kwargs: tensor  # draws until all numbers fit
    torch.nn.Module._apply = _convert  # type: ignore[method-assign,assignment]
    FakeTensorMode.avoid_device_init = property(lambda self: True)  # type: ignore[assignment,method-assign]
    FakeTensor.numpy = lambda self: np.arange(self.numel()).reshape(self.shape)  # such as the units of a mask
    FakeTensorMode.__deepcopy__ = lambda self, memo: self  # type: ignore[attr-defined]
    callers: list[Any] = [F, mmpretrain.models.utils.attention]
    for module in callers:
        module.scaled_dot_product_attention = fake_attention
    mmengine.device.utils.DEVICE = 'cuda'
    mmengine.runner.runner.MMDistributedDataParallel = FakeDDP
    os.environ.update(RANK=str(rank), WORLD_SIZE=str(world), LOCAL_RANK='0')
    if world > 1:
        dist.init_process_group('fake', rank=rank, world_size=world, store=FakeStore())
        mmengine.dist.utils.get_backend = lambda group=None: 'nccl'
        for name in COLLECTIVES:
            setattr(dist, name, _counted(watch, name, getattr(dist, name)))


def _convert(module: torch.nn.Module, function: Any, recurse: bool = True) -> torch.nn.Module:
    """What ``Module._apply`` does; torch's cannot put a fake tensor on another device in the place of one."""
    for part in module.modules():
        for name, parameter in part._parameters.items():
            if parameter is not None:
                with torch.no_grad():
                    part._parameters[name] = torch.nn.Parameter(function(parameter), parameter.requires_grad)
        for name, buffer in part._buffers.items():
            if buffer is not None:
                part._buffers[name] = function(buffer)
    return module


def fake_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
) -> Tensor:
    """``scaled_dot_product_attention`` by the fused kernel that CUDA takes; without a card torch takes none."""
    if torch.is_autocast_enabled('cuda'):
        query, key, value = (part.to(torch.get_autocast_dtype('cuda')) for part in (query, key, value))
    if attn_mask is None and query.dtype in (torch.bfloat16, torch.float16):
        flash = torch.ops.aten._scaled_dot_product_flash_attention
        return flash(query, key, value, dropout_p, is_causal, scale=scale)[0]
    if attn_mask is not None:
        if attn_mask.dtype == torch.bool:
            attn_mask = torch.zeros_like(attn_mask, dtype=query.dtype).masked_fill_(~attn_mask, -math.inf)
        attn_mask = attn_mask.to(query.dtype).expand(*query.shape[:3], key.shape[2])
    efficient = torch.ops.aten._scaled_dot_product_efficient_attention
    return efficient(query, key, value, attn_mask, True, dropout_p, is_causal, scale=scale)[0]


def _counted(watch: Watch, name: str, function: Any) -> Any:
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        devices = '+'.join(sorted({tensor.device.type for tensor in tensors})) or 'objects'
        size = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
        watch.collectives[watch.iteration][f'{name} {devices} {size} bytes in {place()}'] += 1
        if name == 'broadcast_object_list':
            return None  # nobody sends: what this process has itself is what it would get
        return function(*args, **kwargs)

    return wrapped


def has_own_crop(node: Any) -> bool:
    """Whether a part of a config, such as a data loader's, gives two views crops of their own."""
    if isinstance(node, Mapping):
        return bool(node.get('own_crop')) or any(map(has_own_crop, node.values()))
    return isinstance(node, (list, tuple)) and any(map(has_own_crop, node))


def hooks_of_step(cfg: Config) -> list[Any]:
    """The hooks without probes, and without what holds parts still in the first epochs: the step is a later one."""
    left_out = ('Probe', 'Guard', 'FrozenWarmup')
    return [hook for hook in cfg.get('custom_hooks', []) if not any(name in hook.type for name in left_out)]


def prepare(cfg: Config, world: int, work_dir: str) -> Config:
    """The config of a run on fake images."""
    cfg = copy.deepcopy(cfg)
    model, loader = cfg.model, cfg.train_dataloader
    method = mmpl.methods.base.MODELS.get(model.type)
    paired = method.__name__ == 'MSA' or model.get('teacher_view') == 'other'
    own_crop = has_own_crop(loader)
    shape = dict(views=1 + paired, channels=model.backbone.get('in_channels') or 3)
    shape |= dict(side=model.backbone.get('img_size', 224), boxes=own_crop)
    count = loader.batch_size * world * (LOOK + 1)
    loader.dataset = dict(type='mmengine.FakeImages', _scope_='mmengine', count=count, **shape)
    loader.sampler = dict(type='mmengine.InOrder', _scope_='mmengine')
    loader.update(num_workers=0, persistent_workers=False, pin_memory=True)
    cfg.train_cfg.pop('bad_files', None)
    cfg.update(work_dir=work_dir, resume=False, load_from=None, visualizer=dict(type='Visualizer', vis_backends=[]))
    cfg.update(log_level='ERROR', launcher='pytorch' if world > 1 else 'none', experiment_name=Path(work_dir).name)
    cfg.custom_hooks = hooks_of_step(cfg)
    for hook in cfg.custom_hooks:
        if 'DualTeacher' in hook.type:
            hook.health_interval = LOOK
    cfg.default_hooks.checkpoint.update(interval=-1, iter_interval=-1, save_last=False)
    cfg.model_wrapper_cfg = None  # shards would need streams: what is split is looked at unsplit
    cfg.default_hooks.logger.interval = LOOK
    return cfg


def fake_run(cfg: Config, world: int = 8, rank: int = 0) -> dict[str, Any]:
    """Run a config in this process, which is good for nothing else afterwards.

    Args:
        cfg: Of the run; not changed.
        world: Processes of the run.
        rank: Which of them this one is.

    Returns:
        ``batch`` (images a GPU), ``peak`` (bytes by phase), ``rest`` (bytes between steps), ``flops`` (of an iteration
        of this process, see :func:`flops_of`), ``rate`` (the largest learning rate, as it is used), ``parameters``
        (those trained, and of each teacher), ``weights`` and ``optimizer`` (bytes that a checkpoint has of them), and
        of the iterations ``ordinary`` and ``look`` the ``waits``, ``copies`` and ``collectives``, a number by kind and
        place each.
    """
    watch = Watch()
    pretend(watch, world, rank)
    with tempfile.TemporaryDirectory() as work_dir:
        cfg = prepare(cfg, world, work_dir)
        with FakeTensorMode(), watch:
            runner = Runner.from_cfg(cfg)
            runner.register_hook(Phases(watch), priority='VERY_HIGH')
            with contextlib.suppress(Stop):
                runner.train()
        if watch.iteration != LOOK:
            raise RuntimeError(f'{cfg.filename} stopped at iteration {watch.iteration} of {LOOK}')
    result: dict[str, Any] = dict(batch=cfg.train_dataloader.batch_size, peak=dict(watch.peaks), rest=watch.resting)
    result |= dict(flops=watch.flops[ORDINARY], **_sizes(runner))
    for name, at in dict(ordinary=ORDINARY, look=LOOK).items():
        counted = dict(waits=watch.waits[at], copies=watch.copies[at], collectives=watch.collectives[at])
        result[name] = {key: dict(value) for key, value in counted.items()}
    return result


def _sizes(runner: Runner) -> dict[str, Any]:
    model, optimizer = unwrapped(runner.model), runner.optim_wrapper.optimizer

    def bytes_of(state: Any) -> int:
        return sum(leaf.nbytes for leaf in tree_leaves(state) if isinstance(leaf, Tensor))

    def count(parameters: Iterator[Tensor]) -> int:
        return sum(parameter.numel() for parameter in parameters)

    trained = count(parameter for parameter in model.parameters() if parameter.requires_grad)
    teachers = {name: part for name, part in model.named_children() if isinstance(part, Teacher)}
    return dict(
        rate=max(group.get('initial_lr', group['lr']) for group in optimizer.param_groups),
        parameters=dict(trained=trained, **{name: count(part.parameters()) for name, part in teachers.items()}),
        weights=bytes_of(model.state_dict()),
        optimizer=bytes_of(optimizer.state_dict()),
    )


def presets() -> list[Path]:
    """The pre-training configs, one of those that differ in nothing that a step sees, such as their length."""
    found: dict[str, Path] = {}
    for path in sorted([*CONFIGS.glob('*.py'), *CONFIGS.glob('ablations/*.py')], key=lambda path: (path.parent, path)):
        cfg = read_config(path)
        loader = cfg.train_dataloader
        step = [cfg.model, loader.batch_size, cfg.optim_wrapper, hooks_of_step(cfg), has_own_crop(loader)]
        found.setdefault(repr(step), path)
    return list(found.values())


def _run(job: tuple[Config, int, int]) -> dict[str, Any]:
    warnings.simplefilter('ignore')
    try:
        return fake_run(*job)
    except Exception:
        return dict(error=traceback.format_exc())  # the others are to be known too


def run_all(jobs: Sequence[tuple[Config, int, int]], processes: int, start: str = 'fork') -> list[dict[str, Any]]:
    """:func:`fake_run` of each job, in processes of their own; ``error`` is the traceback of one that failed.

    Args:
        jobs: Arguments of :func:`fake_run`.
        processes: At once.
        start: How they start: ``'fork'`` imports nothing again; ``'spawn'`` is for callers that have used autograd,
            which counts the devices when it is first used.
    """
    with get_context(start).Pool(processes, maxtasksperchild=1) as pool:
        return pool.map(_run, jobs, chunksize=1)


def table(results: Mapping[str, dict[str, Any]]) -> str:
    """Peak memory of each config at its batch, and the largest batches, in Markdown.

    Those below 1 GiB, which fit anywhere, are left out. What a step takes beside what rests between steps is taken to
    grow with the images.
    """
    cards = [f'largest, {card} GB' for card in CARDS]
    lines = ['| ' + ' | '.join(['config', 'images a GPU', 'peak (GiB)', 'at rest', *PHASES, *cards]) + ' |']
    lines.append('| --- ' * (4 + len(PHASES) + len(cards)) + '|')
    for name, run in results.items():
        peak = max(run['peak'].values())
        if peak < GIB:
            continue
        an_image = (peak - run['rest']) / run['batch']
        largest = [max(0, int(((card - RESERVE) * GIB - run['rest']) / an_image)) for card in CARDS]
        sizes = [f'{size / GIB:.1f}' for size in (peak, run['rest'], *(run['peak'][phase] for phase in PHASES))]
        lines.append('| ' + ' | '.join([f'`{name}`', str(run['batch']), *sizes, *map(str, largest)]) + ' |')
    return '\n'.join(lines)


@user_errors()
def main(argv: list[str] | None = None) -> None:
    """Print the table, or all that was counted."""
    parser = argparse.ArgumentParser(description='Host waits, copies, collectives and memory of a step, without a GPU')
    parser.add_argument('configs', nargs='*', type=Path, help='default: the pre-training configs')
    parser.add_argument('--json', action='store_true', help='print all that was counted, and no table')
    parser.add_argument('--world', type=at_least(1), default=8, help='processes that the run has')
    parser.add_argument('--rank', type=at_least(0), default=0, help='which of them is looked at')
    parser.add_argument('--options', nargs='+', action=CfgOptions, default={}, help=HELP)
    parser.add_argument('--jobs', type=at_least(1), default=2, help='configs at once')
    options = parser.parse_args(argv)
    paths = options.configs or presets()
    configs = [read_config(path) for path in paths]
    for cfg in configs:
        merge_options(cfg, options.options)
    jobs = [(cfg, options.world, options.rank) for cfg in configs]
    results = dict(zip((path.stem for path in paths), run_all(jobs, options.jobs), strict=True))
    print(json.dumps(results) if options.json else table({n: run for n, run in results.items() if 'error' not in run}))
    if failed := {name: run['error'] for name, run in results.items() if 'error' in run}:
        sys.exit('\n'.join(f'{name}: {error}' for name, error in failed.items()))


if __name__ == '__main__':
    main()
