"""An optimizer wrapper that takes no step with numbers that are not finite."""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from mmengine.device import get_device
from mmengine.dist import all_reduce, get_world_size
from mmengine.optim import OptimWrapper, OptimWrapperDict
from torch import Tensor
from torch.optim import SGD, Optimizer

from mmpl.registry import OPTIM_WRAPPERS
from mmpl.utils import transfer
from mmpl.utils.dist import local_shard, whole_tensor
from mmpl.utils.fields import Count, check_choice, check_number, check_part, checked


def single_wrappers(wrapper: OptimWrapper) -> list[OptimWrapper]:
    """The optimizer wrappers of a run, which may have one for each of several optimizers."""
    return list(wrapper.values()) if isinstance(wrapper, OptimWrapperDict) else [wrapper]


def guarded_wrappers(wrapper: OptimWrapper, who: str) -> list['GuardedOptimWrapper']:
    """The optimizer wrappers of a run, for a part of it that needs guarded ones.

    Raises:
        TypeError: One of them is none; ``who`` needs it.
    """
    found = []
    for single in single_wrappers(wrapper):
        if not isinstance(single, GuardedOptimWrapper):
            raise TypeError(
                '`optim_wrapper.type` must be mmpl.GuardedOptimWrapper or mmpl.AutocastOptimWrapper with '
                f'{who}, but got {type(single).__name__}'
            )
        found.append(single)
    return found


def taken_on_device(wrapper: OptimWrapper) -> Tensor | None:
    """Whether the optimizers of a run took their last steps, () bool, where only the device knows; else None."""
    taken = [getattr(single, 'step_taken', None) for single in single_wrappers(wrapper)]
    known_late = [value for value in taken if isinstance(value, Tensor)]
    return torch.stack(known_late).all() if known_late else None


def leaves_steps_out(optimizer: Optimizer) -> bool:
    """Whether an optimizer can be told on the device to leave a step out.

    Not torch's fused SGD with momentum (2.14): its first step, if it is left out, leaves averages of no value behind.
    """
    if isinstance(optimizer, SGD) and any(group['momentum'] for group in optimizer.param_groups):
        return False
    return bool(getattr(optimizer, '_step_supports_amp_scaling', False))


class Gradients(NamedTuple):
    """Which gradients of a step were finite.

    Attributes:
        parameters: Those that have a gradient, P of them; of sharded ones those of which this process holds a part.
        finite: (P,) bool.
    """

    parameters: list[Tensor]
    finite: Tensor

    def bad(self) -> list[Tensor]:
        """Parameters whose gradients were not finite; waits for the device."""
        return [p for p, good in zip(self.parameters, self.finite.tolist(), strict=True) if not good]


@OPTIM_WRAPPERS.register_module()
class GuardedOptimWrapper(OptimWrapper):
    """mmengine's wrapper, but a step whose loss or gradients hold NaN or Inf in any process is not taken.

    Weights, optimizer state and, as :class:`mmpl.engine.DualTeacherHook` follows the steps that were really taken,
    teachers stay as they were. With accumulation all gradients of the step are dropped. All processes decide alike.
    :class:`mmpl.engine.NonFiniteHook` counts, explains and stops. It costs one norm a gradient.

    On CUDA an optimizer that can leave a step out by itself, as a fused AdamW can for torch's ``GradScaler``, is told
    on the device, and the host does not wait. With any other it waits once a step.

    Attributes:
        step_taken (bool | Tensor | None): Whether the last :meth:`step` was taken, () bool where only the device
            knows; None before the first.
        gradients (Gradients | None): Those of the last step; None if there were none.
        held (list[Tensor]): Parameters that stay as they are; see :class:`mmpl.engine.FrozenWarmupHook`.
    """

    @checked('optim_wrapper')
    def __init__(
        self, optimizer: Optimizer, accumulative_counts: Count = 1, clip_grad: Mapping[str, Any] | None = None
    ) -> None:
        if clip_grad is not None:
            _check_clip_grad(clip_grad)
        super().__init__(optimizer, accumulative_counts, clip_grad)
        self.step_taken: bool | Tensor | None = None
        self.gradients: Gradients | None = None
        self.held: list[Tensor] = []
        self._loss_bad: Tensor | None = None

    def backward(self, loss: Tensor, **kwargs: Any) -> None:
        """Note whether the loss is finite, then propagate it back: other processes wait for these gradients."""
        bad = ~torch.isfinite(loss.detach()).all()
        self._loss_bad = bad if self._loss_bad is None else self._loss_bad | bad
        super().backward(loss, **kwargs)

    def step(self, **kwargs: Any) -> None:
        """Take the step if everything is finite."""
        for group in self.optimizer.param_groups:
            if not math.isfinite(group['lr']):
                raise ValueError(
                    f'`optim_wrapper.optimizer.lr` has become {group["lr"]}: it, or a `start_factor`, `end_factor`, '
                    '`eta_min` or `gamma` of `param_scheduler`, is not finite'
                )
        for parameter in self.held:
            parameter.grad = None
        bad = self._found_bad()
        self._loss_bad = None
        if transfer.reading_waits(bad.device) and leaves_steps_out(self.optimizer):
            self.step_taken = bad == 0
            self.optimizer.found_inf = bad  # as GradScaler does: where it is 1, nothing moves
            super().step(**kwargs)
            del self.optimizer.found_inf
        else:
            self.step_taken = bad.item() == 0
            if self.step_taken:
                super().step(**kwargs)

    def _found_bad(self) -> Tensor:
        """1 if the loss or a gradient of any process is not finite, else 0, ()."""
        self.gradients = None
        parameters = [p for group in self.optimizer.param_groups for p in group['params'] if p.grad is not None]
        parameters = [p for p in parameters if local_shard(p).numel()]
        bad = torch.zeros((), device=parameters[0].device if parameters else get_device())
        if parameters:
            held = [local_shard(p.grad) for p in parameters]
            norms = [norm.float().to(bad.device) for norm in torch._foreach_norm(held)]
            self.gradients = Gradients(parameters, torch.isfinite(torch.stack(norms)))
            bad = (~self.gradients.finite).any().float()
        if self._loss_bad is not None:
            bad = torch.maximum(bad, self._loss_bad.float().to(bad.device))
        if get_world_size() > 1:
            all_reduce(bad, 'max')
        return bad

    def _clip_grad(self) -> None:
        """Clip the gradients, and log their norm without waiting for it."""
        parameters = [p for group in self.optimizer.param_groups for p in group['params'] if p.grad is not None]
        norm = self.clip_func(parameters, **self.clip_grad_kwargs) if parameters else None
        if norm is not None:
            self.message_hub.update_scalar(f'train/{self.grad_name}', whole_tensor(norm))


def _check_clip_grad(clip_grad: Any) -> None:
    where = 'optim_wrapper.clip_grad'
    check_part(where, clip_grad, 'dict(max_norm=3.0)')
    kind = clip_grad.get('type', 'norm')
    check_choice(f'{where}.type', kind, ('norm', 'value'))
    limit = 'max_norm' if kind == 'norm' else 'clip_value'
    check_number(f'{where}.{limit}', clip_grad.get(limit), 0, open_minimum=True)
    for key in clip_grad:
        check_choice(where, key, ('type', limit, 'norm_type', 'error_if_nonfinite', 'foreach'))
