"""The rates of a run are those of its config: in the log, and when the run goes on with another config."""

import copy
from collections.abc import Iterator, Mapping
from typing import Any

from mmengine.dist import get_world_size
from mmengine.hooks import Hook
from mmengine.optim.scheduler.param_scheduler import ConstantParamScheduler, LinearParamScheduler, _ParamScheduler
from mmengine.runner import Runner

from mmpl.engine.optimizers.guarded_wrapper import single_wrappers

_MOVING = {'last_step', 'base_values', 'verbose', '_global_step', '_last_value'}  # of a scheduler's state
_MOVING |= {'best', 'num_bad_epochs', 'cooldown_counter'}  # of ReduceOnPlateauLR's


class ScheduleHook(Hook):
    """Keeps learning rates, other numbers of the optimizer and schedules what the run's config says.

    mmengine takes them from the checkpoint when a run goes on, whatever the config says by then. Here they follow the
    config: if a number of the optimizer, a schedule, or the iterations of an epoch differ, all of them are made anew
    and brought to where the run is, as if it had been so from the start, and the log says it.

    ``base_lr`` in the log is scaled by ``auto_scale_lr`` like the rates that are used, which mmengine leaves out.
    """

    priority = 'HIGH'  # after PositionHook, which may move the iteration

    def __init__(self) -> None:
        self._asked: list[dict[str, Any]] | None = None  # numbers of all groups as the config says, if the run goes on
        self._other_schedules = False

    def before_run(self, runner: Runner) -> None:
        """Scale ``base_lr`` as ``Runner.scale_lr`` scaled the groups."""
        config = getattr(runner, 'auto_scale_lr', None)
        if not isinstance(config, Mapping) or not config.get('enable'):
            return
        ratio = float(get_world_size() * runner.train_dataloader.batch_size) / float(config['base_batch_size'])
        for wrapper in single_wrappers(runner.optim_wrapper):
            base = wrapper.base_param_settings
            if base is not None:
                for key in {'lr', 'initial_lr'} & set(base):
                    base[key] = base[key] * ratio
        self._remake(runner, 0)
        _warn_of_large_batch(runner, ratio)

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Note what the config asks for, before the checkpoint's numbers take its place."""
        if not runner._resume:
            return
        self._asked = [_numbers(group) for group in _groups(runner)]
        old = [_constants(state) for state in _flat(checkpoint.get('param_schedulers') or [])]
        new = [_constants(scheduler.state_dict()) for scheduler in _flat(runner.param_schedulers or [])]
        self._other_schedules = new != old

    def before_train(self, runner: Runner) -> None:
        """Follow the config where it differs, and say what ends before the run does."""
        if self._asked is not None:
            self._follow_config(runner, self._asked)
            self._asked = None
        _warn_of_early_end(runner)
        _warn_of_short_warmup(runner)

    def _follow_config(self, runner: Runner, asked: list[dict[str, Any]]) -> None:
        groups = list(_groups(runner))
        changes: dict[str, tuple[Any, Any]] = {}
        for group, numbers in zip(groups, asked, strict=True):
            old = _numbers(group)
            for key, value in numbers.items():
                if old.get(key) != value:
                    changes.setdefault(key, (old.get(key), value))
        moved = any(s._global_step != runner.iter for s in _flat(runner.param_schedulers or []) if not s.by_epoch)
        if not (changes or self._other_schedules or moved):
            return
        listed = ', '.join(f'{key} {old} -> {new}' for key, (old, new) in changes.items())
        if any(getattr(scheduler, 'need_val_args', False) for scheduler in _flat(runner.param_schedulers or [])):
            runner.logger.warning(
                'The config differs from that of the checkpoint this run goes on from'
                + (f' (the optimizer has {listed})' if changes else '')
                + ': learning rates and schedules stay those of the checkpoint, for one of them follows what '
                'validation gave, and cannot be made anew. To begin again from its weights, set `load_from` and '
                '`resume=False`.'
            )
            return
        for group, numbers in zip(groups, asked, strict=True):
            for key, value in numbers.items():
                group[key] = value
                if f'initial_{key}' in group:
                    group[f'initial_{key}'] = value
        self._remake(runner, runner.iter)
        rate = single_wrappers(runner.optim_wrapper)[0].get_lr()['lr'][0]
        runner.logger.warning(
            'This run follows its own config, not that of the checkpoint it goes on from: '
            + (f'the optimizer has {listed}; ' if changes else '')
            + f'the schedules are made anew and stand at iteration {runner.iter}, where the learning rate is '
            f'{rate:.3g}.'
        )

    def _remake(self, runner: Runner, iterations: int) -> None:
        """Build the schedules again from the groups' initial numbers, and step them as often as a run would have."""
        cfg = runner.cfg.get('param_scheduler')
        if cfg is None or runner.param_schedulers is None:
            return
        for group in _groups(runner):
            for key in [key for key in group if key.startswith('initial_')]:
                group[key.removeprefix('initial_')] = group[key]
        runner.param_schedulers = runner.build_param_scheduler(copy.deepcopy(cfg))
        schedulers, length = list(_flat(runner.param_schedulers)), len(runner.train_dataloader)
        for iteration in range(1, iterations + 1):
            ends_epoch = iteration % length == 0 and iteration // length <= runner.epoch
            for scheduler in schedulers:
                if not scheduler.by_epoch or ends_epoch:
                    scheduler.step()


def _groups(runner: Runner) -> Iterator[dict]:
    """Parameter groups of all optimizers, and the numbers from which mmengine logs ``base_lr``."""
    for wrapper in single_wrappers(runner.optim_wrapper):
        yield from wrapper.param_groups


def _numbers(group: Mapping) -> dict[str, Any]:
    """What a group was made with: a number that is scheduled is its initial one."""
    keys = [key for key in group if key != 'params' and not key.startswith('initial_')]
    return {key: group.get(f'initial_{key}', group[key]) for key in keys}


def _flat(schedulers: Any) -> Iterator[Any]:
    """Schedulers, or their states, which are in a list or, for several optimizers, in a dict of lists."""
    for part in schedulers.values() if isinstance(schedulers, Mapping) else [schedulers]:
        yield from part


def _constants(state: Mapping) -> dict[str, Any]:
    return {key: value for key, value in state.items() if key not in _MOVING}


def _warn_of_large_batch(runner: Runner, ratio: float) -> None:
    """Warn if a rate linear in the batch goes beyond the batch that its recipe was made for."""
    if ratio <= 1:
        return
    wrappers = list(single_wrappers(runner.optim_wrapper))
    rate = max(group['initial_lr'] if 'initial_lr' in group else group['lr'] for group in wrappers[0].param_groups)
    unclipped = any(getattr(wrapper, 'clip_grad_kwargs', None) is None for wrapper in wrappers)
    runner.logger.warning(
        f'`auto_scale_lr` makes the learning rate {ratio:g} x that of the config, {rate:.3g}, for a batch {ratio:g} x '
        'that of its recipe: nobody has shown that this converges. A smaller `train_dataloader.batch_size` keeps the '
        'rate' + (', `optim_wrapper.clip_grad=dict(max_norm=3)` guards it.' if unclipped else '.')
    )


def _warn_of_early_end(runner: Runner) -> None:
    """Warn if all schedules of the learning rate end before the run; a warm-up to a constant rate may."""
    schedulers: list[_ParamScheduler] = [s for s in _flat(runner.param_schedulers or []) if s.param_name == 'lr']
    if not schedulers:
        return

    def share(scheduler: _ParamScheduler) -> float:
        return scheduler.end / (runner.max_epochs if scheduler.by_epoch else runner.max_iters)

    last = max(schedulers, key=share)
    if share(last) < 1 and not isinstance(last, LinearParamScheduler | ConstantParamScheduler):
        unit, total = ('epoch', runner.max_epochs) if last.by_epoch else ('iteration', runner.max_iters)
        runner.logger.warning(
            f'`param_scheduler` ends at {unit} {last.end} of {total}: from there on the learning rate stays at its '
            'last value. Let its `end` follow the length of the run.'
        )


def _warn_of_short_warmup(runner: Runner) -> None:
    """Warn if a LinearLR lasts one step: mmengine's stays at its ``start_factor``, and what follows starts there."""
    for scheduler in _flat(runner.param_schedulers or []):
        if not isinstance(scheduler, LinearParamScheduler) or scheduler.end - scheduler.begin >= 2:
            continue
        if scheduler.start_factor != scheduler.end_factor:
            unit = 'epoch' if scheduler.by_epoch else 'iteration'
            runner.logger.warning(
                f'`param_scheduler` warms {scheduler.param_name} up from {unit} {scheduler.begin} to {scheduler.end}: '
                f'less than two steps, so that it stays at `start_factor` {scheduler.start_factor} of its value for '
                'the whole run. Let the warm-up (`warmup_epochs`) last longer.'
            )
