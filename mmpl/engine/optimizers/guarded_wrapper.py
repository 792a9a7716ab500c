"""An optimizer wrapper that takes no step with numbers that are not finite."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from mmengine.device import get_device
from mmengine.dist import all_reduce, get_world_size
from mmengine.optim import OptimWrapper
from torch import Tensor

from mmpl.registry import OPTIM_WRAPPERS
from mmpl.utils.fields import check_choice, check_number


@OPTIM_WRAPPERS.register_module()
class GuardedOptimWrapper(OptimWrapper):
    """mmengine's wrapper, but a step whose loss or gradients hold NaN or Inf in any process is not taken.

    Weights, optimizer state and, as :class:`mmpl.engine.DualTeacherHook` follows the steps that were really taken,
    teachers stay as they were. With accumulation all gradients of the step are dropped. All processes decide alike.
    :class:`mmpl.engine.NonFiniteHook` counts, explains and stops.

    Args:
        skip_non_finite (bool): Whether to guard the steps. Costs one norm a gradient, and waiting for the device once
            a step. Defaults to True.
        **kwargs: As mmengine's ``OptimWrapper``.

    Attributes:
        step_taken (bool | None): Whether the last :meth:`step` was taken; None before the first.
        bad_gradients (list[Tensor]): Parameters whose gradients were not finite at the last step.
    """

    def __init__(self, skip_non_finite: bool = True, **kwargs) -> None:
        check_choice('optim_wrapper.skip_non_finite', skip_non_finite, (True, False))
        check_number('optim_wrapper.accumulative_counts', kwargs.get('accumulative_counts', 1), 1, integer=True)
        self._check_clip_grad(kwargs.get('clip_grad'))
        super().__init__(**kwargs)
        self.skip_non_finite = skip_non_finite
        self.step_taken: bool | None = None
        self.bad_gradients: list[Tensor] = []
        self._loss_bad: Tensor | None = None

    @staticmethod
    def _check_clip_grad(clip_grad: Any) -> None:
        if clip_grad is None:
            return
        if not isinstance(clip_grad, Mapping):
            raise TypeError(
                f'`optim_wrapper.clip_grad` must be a dict such as dict(max_norm=3.0), but got {clip_grad!r}'
            )
        check_choice('optim_wrapper.clip_grad.type', clip_grad.get('type', 'norm'), ('norm', 'value'))
        limit = 'max_norm' if clip_grad.get('type', 'norm') == 'norm' else 'clip_value'
        check_number(f'optim_wrapper.clip_grad.{limit}', clip_grad.get(limit), 0, open_minimum=True)
        allowed = ('type', limit, 'norm_type', 'error_if_nonfinite', 'foreach')
        for key in clip_grad:
            check_choice('optim_wrapper.clip_grad', key, allowed)

    def backward(self, loss: Tensor, **kwargs) -> None:
        """Note whether the loss is finite, then propagate it back: other processes wait for these gradients."""
        if self.skip_non_finite:
            bad = ~torch.isfinite(loss.detach()).all()
            self._loss_bad = bad if self._loss_bad is None else self._loss_bad | bad
        super().backward(loss, **kwargs)

    def step(self, **kwargs) -> None:
        """Take the step if everything is finite."""
        for group in self.optimizer.param_groups:
            if not math.isfinite(group['lr']):
                raise ValueError(
                    f'`optim_wrapper.optimizer.lr` has become {group["lr"]}: it, or a `start_factor`, `end_factor`, '
                    '`eta_min` or `gamma` of `param_scheduler`, is not finite'
                )
        self.bad_gradients = []
        self.step_taken = not self.skip_non_finite or self._all_finite()
        self._loss_bad = None
        if self.step_taken:
            super().step(**kwargs)

    def _all_finite(self) -> bool:
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
