"""An optimizer wrapper that takes no step with numbers that are not finite."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from mmengine.device import get_device
from mmengine.dist import all_reduce, get_world_size
from mmengine.optim import OptimWrapper, OptimWrapperDict
from torch import Tensor
from torch.optim import Optimizer

from mmpl.registry import OPTIM_WRAPPERS
from mmpl.utils.fields import Count, check_choice, check_number, check_part, checked


def single_wrappers(wrapper: OptimWrapper) -> list[OptimWrapper]:
    """The optimizer wrappers of a run, which may have one for each of several optimizers."""
    return list(wrapper.values()) if isinstance(wrapper, OptimWrapperDict) else [wrapper]


@OPTIM_WRAPPERS.register_module()
class GuardedOptimWrapper(OptimWrapper):
    """mmengine's wrapper, but a step whose loss or gradients hold NaN or Inf in any process is not taken.

    Weights, optimizer state and, as :class:`mmpl.engine.DualTeacherHook` follows the steps that were really taken,
    teachers stay as they were. With accumulation all gradients of the step are dropped. All processes decide alike.
    :class:`mmpl.engine.NonFiniteHook` counts, explains and stops. It costs one norm a gradient, and waiting for the
    device once a step.

    Attributes:
        step_taken (bool | None): Whether the last :meth:`step` was taken; None before the first.
        bad_gradients (list[Tensor]): Parameters whose gradients were not finite at the last step.
        held (list[Tensor]): Parameters that stay as they are; see :class:`mmpl.engine.FrozenWarmupHook`.
    """

    @checked('optim_wrapper')
    def __init__(
        self, optimizer: Optimizer, accumulative_counts: Count = 1, clip_grad: Mapping[str, Any] | None = None
    ) -> None:
        if clip_grad is not None:
            _check_clip_grad(clip_grad)
        super().__init__(optimizer, accumulative_counts, clip_grad)
        self.step_taken: bool | None = None
        self.bad_gradients: list[Tensor] = []
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
        self.step_taken = self._all_finite()
        self._loss_bad = None
        if self.step_taken:
            super().step(**kwargs)

    def _all_finite(self) -> bool:
        self.bad_gradients = []
        parameters = [p for group in self.optimizer.param_groups for p in group['params'] if p.grad is not None]
        norms = [norm.float() for norm in torch._foreach_norm([p.grad for p in parameters])] if parameters else []
        device = norms[0].device if norms else torch.device(get_device())
        finite = torch.isfinite(torch.stack([norm.to(device) for norm in norms])) if norms else None
        bad = torch.zeros((), device=device) if finite is None else (~finite).any().float()
        if self._loss_bad is not None:
            bad = torch.maximum(bad, self._loss_bad.float().to(device))
        if get_world_size() > 1:
            all_reduce(bad, 'max')
        if bad.item() == 0:
            return True
        if finite is not None:
            self.bad_gradients = [p for p, good in zip(parameters, finite.tolist(), strict=True) if not good]
        return False


def _check_clip_grad(clip_grad: Any) -> None:
    where = 'optim_wrapper.clip_grad'
    check_part(where, clip_grad, 'dict(max_norm=3.0)')
    kind = clip_grad.get('type', 'norm')
    check_choice(f'{where}.type', kind, ('norm', 'value'))
    limit = 'max_norm' if kind == 'norm' else 'clip_value'
    check_number(f'{where}.{limit}', clip_grad.get(limit), 0, open_minimum=True)
    for key in clip_grad:
        check_choice(where, key, ('type', limit, 'norm_type', 'error_if_nonfinite', 'foreach'))
