"""Statistics over the batches of all processes, waiting for one of them, and what a distributed model wraps."""

import itertools
import pickle
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed.nn
from mmengine.dist import (
    all_gather,
    all_gather_object,
    all_reduce,
    broadcast_object_list,
    get_rank,
    get_world_size,
    is_main_process,
)
from mmengine.model import is_model_wrapper
from torch import Tensor, nn

_blocks = itertools.count()  # the same on all ranks, who run the same blocks in the same order


@contextmanager
def others_wait(interval: float = 0.1) -> Iterator[None]:
    """Let the other ranks stay at the end of a block for as long as rank 0 is in it.

    They look at the store of the process group, every ``interval`` seconds. In a collective they would be ended by its
    time-out: NCCL's is ten minutes, and what one rank does alone may take longer.
    """
    if get_world_size() == 1:
        yield
        return
    store, key = torch.distributed.distributed_c10d._get_default_store(), f'mmpl/block_{next(_blocks)}'
    try:
        yield
    finally:
        if get_rank() == 0:
            store.set(key, 'done')
    while not store.check([key]):
        time.sleep(interval)


def _travels(error: Exception) -> bool:
    try:
        return type(pickle.loads(pickle.dumps(error))) is type(error)  # what this process has made itself
    except Exception:
        return False


def on_main(work: Callable[[], Any]) -> Any:
    """What the main process makes, in all processes; so is an error there, for which the others would wait forever."""
    told: list[Any] = [None, None]
    with others_wait():
        if is_main_process():
            try:
                told[0] = work()
            except Exception as error:
                told[1] = error if _travels(error) else RuntimeError(f'{type(error).__name__}: {error}')
    broadcast_object_list(told)
    if told[1] is not None:
        raise told[1]
    return told[0]


@contextmanager
def all_or_none() -> Iterator[None]:
    """An error in this block in one process is one in all: the others would wait for it in their next collective.

    Raises:
        RuntimeError: In the processes that had no error.
    """
    failed: Exception | None = None
    try:
        yield
    except Exception as error:
        failed = error
    told = all_gather_object(None if failed is None else f'{type(failed).__name__}: {failed}')
    if failed is not None:
        raise failed
    others = {rank: text for rank, text in enumerate(told) if text is not None}
    if others:
        rank, text = next(iter(others.items()))
        raise RuntimeError(f'process {rank} failed: {text}')


def unwrapped(model: nn.Module) -> Any:
    """The model itself, without the wrapper that trains it on several devices, if it has one."""
    return model.module if is_model_wrapper(model) else model


def is_sharded(x: Any) -> bool:
    """Whether a tensor is a ``DTensor`` of torch; asked without an import, which takes seconds."""
    return isinstance(x, Tensor) and hasattr(x, 'to_local')


def local_shard(x: Any) -> Tensor:
    """What this process holds of a tensor: all of it unless it is sharded; changes in place are changes of it."""
    return x.detach().to_local() if is_sharded(x) else x


def whole_tensor(x: Any) -> Tensor:
    """All of a tensor that may be sharded; all processes must ask for it."""
    return x.detach().full_tensor() if is_sharded(x) else x


def global_sum(x: Tensor) -> Tensor:
    """Sum a tensor over all processes; it is left as it is.

    Gradients flow back to the tensors of all processes; they are those of the sum of the processes' losses.
    """
    if get_world_size() == 1:
        return x
    if x.requires_grad and torch.is_grad_enabled():
        return torch.distributed.nn.functional.all_reduce(x)
    total = x.detach().clone()
    all_reduce(total, 'sum')
    return total


def global_logsumexp(x: Tensor, dim: int) -> Tensor:
    """Reduce a dimension, which is split over the processes, by log-sum-exp."""
    local = torch.logsumexp(x, dim)
    if get_world_size() == 1:
        return local
    highest = local.clone()
    all_reduce(highest, 'max')
    return highest + global_sum((local - highest).exp()).log()


def joint_places(count: int) -> tuple[int, int]:
    """Where this process's share of ``count`` rows begins among those of all processes, as many each; and how many."""
    return get_rank() * count, get_world_size() * count


def global_concat(x: Tensor) -> Tensor:
    """Concatenate (L, ...) of all processes to (processes * L, ...), in the order of their ranks; without gradients."""
    if get_world_size() == 1:
        return x.detach()
    return torch.cat(all_gather(x.detach().contiguous()))
