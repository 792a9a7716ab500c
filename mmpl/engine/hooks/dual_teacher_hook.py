"""When the teachers move, and when the log looks at the health of a method."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, Literal

import torch
from mmengine.dataset import InfiniteSampler
from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch import Tensor
from torch.utils.data import DataLoader

from mmpl.engine.optimizers.guarded_wrapper import single_wrappers, taken_on_device
from mmpl.registry import HOOKS
from mmpl.utils.dist import unwrapped
from mmpl.utils.fields import Count, check_choice, check_number, checked
from mmpl.utils.figures import Figure, measured

MOST_OF_START = 0.05  # of a teacher, in the middle of a run (our choice)


class LabelCollapseError(RuntimeError):
    """What is learnt has collapsed, and the run was told to stop then."""


def check_groups(loader: DataLoader, group_size: int) -> None:
    """Refuse a loader whose batches, the last one of an epoch too, are not whole groups of images.

    Raises:
        ValueError: It would stop the run where the first such batch comes.
    """
    if group_size == 1 or loader.batch_size is None:  # batches of a sampler's own are seen when they come
        return
    count = loader.batch_size
    if count % group_size == 0 and not loader.drop_last and not isinstance(loader.sampler, InfiniteSampler):
        count = len(loader.sampler) % count
    if count % group_size:
        raise ValueError(
            f'the model takes images in groups of {group_size}, but a batch of an epoch has {count}: make '
            f'`train_dataloader.batch_size` a multiple of {group_size}, and set `train_dataloader.drop_last=True`'
        )


@HOOKS.register_module()
class DualTeacherHook(Hook):
    """Tells a :class:`mmpl.methods.Method` when the optimizer has taken a step, however many teachers it has.

    Gradient accumulation and steps that a loss scaler skips are told apart by the optimizer itself, which reports the
    steps it really took. Momenta and what else follows a schedule are logged in every iteration; the figures of health,
    over all processes, every ``health_interval`` iterations. Which there are, and what is healthy, the method's parts
    declare (:attr:`mmpl.methods.Method.figures`).

    Args:
        health_interval: Iterations between two looks at the health.
        healthy: Lowest and highest healthy value by logged name, such as ``dict(cls_usage=(0.1, None))``, where they
            are to differ from what is declared; None is no bound.
        patience: Looks in a row after which unhealthy figures are warned about, once until they have recovered.
        on_collapse: ``'warn'``, or ``'stop'`` the run with a :class:`LabelCollapseError` where the warning would be
            given.
    """

    priority = 'NORMAL'  # before the logger and the checkpoint

    @checked()
    def __init__(
        self,
        health_interval: Count = 10,
        healthy: Mapping[str, tuple[float | None, float | None]] | None = None,
        patience: Count = 20,
        on_collapse: Literal['warn', 'stop'] = 'warn',
        **moved: Any,
    ) -> None:
        for field, value in moved.items():
            if field.startswith('momentum_'):
                raise TypeError(
                    f'`{field}` is a field of the model, beside its teacher, and not of DualTeacherHook: '
                    f'set `model.{field}` to {value!r}'
                )
            raise TypeError(
                f'`{field}` is not a field of DualTeacherHook: its fields are health_interval, healthy, patience and '
                'on_collapse'
            )
        for name, bounds in (healthy or {}).items():
            if not isinstance(bounds, (tuple, list)) or len(bounds) != 2:
                raise TypeError(f'`healthy.{name}` must be a lowest and a highest value, but got {bounds!r}')
            for bound in bounds:
                if bound is not None:
                    check_number(f'healthy.{name}', bound)
        self.health_interval = health_interval
        self.healthy = dict(healthy or {})
        self.patience = patience
        self.on_collapse = on_collapse
        self._unhealthy_looks: dict[str, int] = {}  # in a row, by part
        self._handles: list = []
        self._stepped = False
        self._overflows: list[Tensor] = []
        self._start_was_watched = False
        self._missing: list[str] = []

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Refuse what does not fit, and note which teachers the checkpoint lacks."""
        model = unwrapped(runner.model)
        if hasattr(model, 'check_loaded'):
            self._missing = model.check_loaded(checkpoint.get('state_dict', checkpoint), resumed=runner._resume)

    def before_train(self, runner: Runner) -> None:
        """Take charge of the teachers."""
        model = unwrapped(runner.model)
        if not hasattr(model, 'attach_updater'):
            raise TypeError(
                f'DualTeacherHook needs a model with teachers, such as mmpl.PLMAE or mmpl.MSA, '
                f'but got {type(model).__name__}'
            )
        check_groups(runner.train_dataloader, getattr(model, 'group_size', 1))
        self._declared = self._declarations(model)
        model.attach_updater(type(self).__name__)
        if self._missing:
            runner.logger.info(
                f'The checkpoint does not bring these teachers, which start as copies of its student: {self._missing}.'
            )
            model.copy_to_teachers(self._missing)
            self._missing = []
        wrappers = single_wrappers(runner.optim_wrapper)
        self._handles = [wrapper.optimizer.register_step_post_hook(self._note_step) for wrapper in wrappers]
        steps, epochs = (
            math.ceil(runner.max_iters / count)
            for count in (getattr(wrappers[0], '_accumulative_counts', 1), _epoch_length(runner))
        )
        model.set_length(steps, epochs)

    def _declarations(self, model: Any) -> dict[str, Figure]:
        declared: dict[str, Figure] = model.figures
        for name in self.healthy:
            check_choice('healthy', name, declared)
        return {
            name: dataclasses.replace(figure, healthy=self.healthy.get(name, figure.healthy))
            for name, figure in declared.items()
        }

    def after_train(self, runner: Runner) -> None:
        """Leave the teachers alone again."""
        unwrapped(runner.model).detach_updater()
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """Tell the model how far the run is, and whether to look at its health."""
        model = unwrapped(runner.model)
        model.set_progress(min(1.0, runner.iter / runner.max_iters))
        model.track_health = self.every_n_train_iters(runner, self.health_interval)
        self._stepped, self._overflows = False, []

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: dict | None = None
    ) -> None:
        """Move the teachers if the optimizer took a step, and log."""
        model = unwrapped(runner.model)
        done = runner.iter + 1
        progress = min(1.0, done / runner.max_iters)
        if self._stepped:
            taken = taken_on_device(runner.optim_wrapper)
            if taken is None and self._overflows:
                taken = ~torch.stack([overflow.bool().reshape(()) for overflow in self._overflows]).any()
            model.after_step(progress, done // _epoch_length(runner), taken)
        scalars = model.scheduled(progress)
        if model.track_health:
            health = measured(model.last_figures)
            scalars |= health
            self._watch(runner, health)
            shares = model.init_shares(progress)
            scalars |= shares
            self._watch_start(runner, progress, shares)
        for name, value in scalars.items():
            runner.message_hub.update_scalar(f'train/{name}', value)

    def _watch_start(self, runner: Runner, progress: float, shares: Mapping[str, float]) -> None:
        """Warn once, in the middle of the run, of teachers that still are much of what they started as."""
        if progress < 0.5 or self._start_was_watched:
            return
        self._start_was_watched = True
        for name, share in shares.items():
            if share > MOST_OF_START:
                runner.logger.warning(
                    f'{self._declared[name].part}: {share:.0%} of its weights are still those of the start, at '
                    f'{progress:.0%} of the run; a start at random teaches noise. Lower the `start` of its momentum, '
                    'or give a `horizon` instead, as a share of the run such as 0.05'
                )

    def _note_step(self, optimizer: Any, *args: Any, **kwargs: Any) -> None:
        self._stepped = True
        overflow = getattr(optimizer, 'found_inf', None)  # by which a loss scaler tells a fused one to do nothing
        if isinstance(overflow, Tensor):
            self._overflows.append(overflow.clone())

    def _watch(self, runner: Runner, health: Mapping[str, float]) -> None:
        """Warn of parts whose figures stay unhealthy."""
        found: dict[str, list[str]] = {}
        advice: dict[str, str] = {}
        for name, value in health.items():
            figure = self._declared[name]
            faults = found.setdefault(figure.part, [])
            if not figure.is_healthy(value):
                low, high = figure.healthy
                bound = f'> {high}' if high is not None and value > high else f'< {low}'
                faults.append(f'{name} {value:.4f} {bound}')
                advice[figure.part] = figure.advice
        for part, faults in found.items():
            looks = self._unhealthy_looks[part] = self._unhealthy_looks.get(part, 0) + 1 if faults else 0
            if looks == self.patience:
                message = (
                    f'What is learnt of {part!r} has collapsed or says nothing ({"; ".join(faults)}) at iteration '
                    f'{runner.iter + 1}, {looks} looks in a row. {advice[part]}'
                )
                if self.on_collapse == 'stop':
                    raise LabelCollapseError(message)
                runner.logger.warning(message)


def _epoch_length(runner: Runner) -> int:
    """Iterations of an epoch: 1 where an endless sampler fills batches from fewer images than these have."""
    return max(1, len(runner.train_dataloader))
