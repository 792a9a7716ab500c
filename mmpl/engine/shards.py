"""From whole tensors to the shards of them that processes hold, and back."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from mmengine.dist import is_main_process
from mmengine.runner import Runner
from torch import Tensor, nn
from torch.optim import Optimizer

from mmpl.utils.dist import is_sharded, unwrapped, whole_tensor

from .optimizers.guarded_wrapper import single_wrappers

_gathered: set[nn.Module] = set()  # models whose whole tensors the main process holds at the moment


def shard_like(shard: Any, whole: Tensor) -> Tensor:
    """The shard of a whole tensor that belongs to one of the same shape; nothing is sent."""
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(whole.to(shard.device), shard.device_mesh, shard.placements, src_data_rank=None)


@contextmanager
def whole_checkpoint(runner: Runner) -> Iterator[None]:
    """Let the main process find whole tensors in the states of model and optimizers, to save them.

    All processes must enter it. Nothing happens if the model is not sharded, or inside of another one.
    """
    module = unwrapped(runner.model)
    if module in _gathered or not any(is_sharded(parameter) for parameter in module.parameters()):
        yield
        return
    weights = _whole(module.state_dict())
    optimizers = [wrapper.optimizer for wrapper in single_wrappers(runner.optim_wrapper)]
    states = [_whole(optimizer.state_dict()['state']) for optimizer in optimizers]
    handles = []
    if is_main_process():
        handles = [module.register_state_dict_post_hook(lambda part, state, *place: state.update(weights))]
        handles += [
            optimizer.register_state_dict_post_hook(_with_state(state))
            for optimizer, state in zip(optimizers, states, strict=True)
        ]
    _gathered.add(module)
    try:
        yield
    finally:
        _gathered.discard(module)
        for handle in handles:
            handle.remove()


def _with_state(state: dict) -> Callable[[Optimizer, dict], dict]:
    return lambda optimizer, state_dict: state_dict | dict(state=state)


def _whole(state: Mapping) -> dict:
    """A state with whole tensors on the CPU, in the main process; the others help to gather them."""
    found = {}
    for name, value in state.items():
        if isinstance(value, Mapping):
            value = _whole(value)
        elif is_sharded(value):
            value = whole_tensor(value)
            value = value.cpu() if is_main_process() else None
        found[name] = value
    return found


@contextmanager
def whole_weights(model: nn.Module, part: nn.Module) -> Iterator[None]:
    """Hold the weights of a part of a model whole in every process, so that each may call it as it likes.

    All processes must enter it. Nothing happens if the model is not sharded.

    Args:
        model: Not the wrapper of it.
        part: One of its modules.
    """
    units: list[Any] = [unit for unit in dict.fromkeys([model, *part.modules()]) if hasattr(unit, 'unshard')]
    try:
        for unit in units:
            unit.set_reshard_after_forward(False, recurse=False)
            unit.unshard()
        yield
    finally:
        for unit in units:
            unit.set_reshard_after_forward(True, recurse=False)
            unit.reshard()


def load_whole(own: Mapping[str, Tensor], whole: Mapping[str, Tensor], names: Iterable[str]) -> None:
    """Copy some whole tensors of a checkpoint into those of a model, sharded or not."""
    with torch.no_grad():
        for name in names:
            target = own[name]
            target.copy_(shard_like(target, whole[name]) if is_sharded(target) else whole[name])
