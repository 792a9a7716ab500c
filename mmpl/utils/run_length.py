"""``max_epochs`` and ``warmup_epochs`` at the top of a config: what they were put into follows them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmengine.config import Config

from .fields import check_number

LENGTHS = frozenset(('max_epochs', 'warmup_epochs', 'train_cfg.max_epochs'))
"""Options of the command line that :func:`set_length` knows."""


def _loop_epochs(cfg: Config | Mapping) -> Any:
    return (cfg.get('train_cfg') or {}).get('max_epochs')


def _schedulers(cfg: Config | Mapping) -> list[Any]:
    found = cfg.get('param_scheduler') or []
    return [found] if isinstance(found, Mapping) else list(found)


def _set_length(cfg: Config, old: tuple[Any, Any], new: tuple[Any, Any], follow: bool = True) -> None:
    """Let loop and schedule go from the old ``(max_epochs, warmup_epochs)`` to the new."""
    (old_max, old_warmup), (epochs, warmup) = old, new
    if epochs is not None:
        check_number('max_epochs', epochs, 1, integer=True)
    if warmup is not None:
        check_number('warmup_epochs', warmup, 0)
    if epochs is not None and warmup is not None and warmup >= epochs:
        raise ValueError(
            f'`warmup_epochs` {warmup} must be less than `max_epochs` {epochs}: the warm-up would not end; set both'
        )
    if epochs != old_max:
        cfg.train_cfg.max_epochs = cfg.max_epochs = epochs
    if warmup != old_warmup:
        cfg.warmup_epochs = warmup
    if not follow:
        return
    if old_warmup == 0 != warmup:
        raise ValueError(
            f'`warmup_epochs` {warmup}: `param_scheduler` has no warm-up that could last so long, since it was 0 '
            'before: set `param_scheduler`'
        )
    used = epochs != old_max
    for scheduler in _schedulers(cfg):
        if not isinstance(scheduler, dict) or not scheduler.get('by_epoch', True):
            continue
        begin, fields = scheduler.get('begin', 0), {}
        for field in ('begin', 'end'):
            value = scheduler.get(field)
            if old_warmup is not None and value == old_warmup:
                fields[field], used = warmup, True
            elif field == 'end' and value is not None and value == old_max:
                fields[field] = epochs
        if 'T_max' in scheduler and old_max is not None and scheduler['T_max'] in (old_max, old_max - begin):
            fields['T_max'] = epochs - (scheduler['T_max'] != old_max) * fields.get('begin', begin)
        scheduler.update(fields)
    if warmup == 0 and old_warmup:  # what lasts no time is no part of the schedule
        cfg.param_scheduler = [part for part in _schedulers(cfg) if part.get('begin', 0) != part.get('end')]
    if not used and warmup != old_warmup:
        raise ValueError(
            f'`warmup_epochs` {warmup}: no part of `param_scheduler` begins or ends at the old {old_warmup}'
        )


def resolve_length(cfg: Config, path: str | Path) -> None:
    """Let a config file that changes ``max_epochs`` or ``warmup_epochs`` of its base train that long.

    mmengine evaluates the base first, so that its ``train_cfg`` and ``param_scheduler`` hold the old numbers. A file
    that sets ``train_cfg.max_epochs`` itself means that; one that changes ``param_scheduler`` keeps it.

    Args:
        cfg: As read from ``path``; changed in place.
        path: The config file.

    Raises:
        ValueError: The file says two things, or the warm-up is as long as the run.
    """
    epochs, warmup = cfg.get('max_epochs'), cfg.get('warmup_epochs')
    bases = _bases_of(path) if epochs is not None or warmup is not None else None
    if bases is None:
        return
    raw, base = bases
    same_loop, same_schedule = _loop_epochs(cfg) == _loop_epochs(raw), _schedulers(cfg) == _schedulers(raw)
    if same_loop and _loop_epochs(raw) != _loop_epochs(base):
        cfg.train_cfg.max_epochs = _loop_epochs(base)
    if same_schedule and _schedulers(cfg) != _schedulers(base):
        cfg.param_scheduler = base.param_scheduler
    old, old_warmup, length = base.get('max_epochs'), base.get('warmup_epochs'), _loop_epochs(cfg)
    if old is None or old != _loop_epochs(base):
        epochs = old = None  # nothing follows it
    elif epochs == old and not same_loop:
        cfg.max_epochs = length  # set where it counts; the schedule stays, of which ScheduleHook speaks
        epochs = old = None
    elif not same_loop and epochs != length:
        raise ValueError(f'{path}: `max_epochs` {epochs} and `train_cfg.max_epochs` {length} differ')
    if not same_schedule:
        warmup = old_warmup = None
    if (epochs, warmup) != (old, old_warmup):
        _set_length(cfg, (old, old_warmup), (epochs, warmup), follow=same_schedule)


def _bases_of(path: str | Path) -> tuple[Config, Config] | None:
    """What the bases of a config file say together, as read and resolved; None without a base."""
    if 'read_base' in Path(path).read_text():
        return None  # Python imports it: names are what they are there
    both = Config(), Config()
    names = Config._get_base_files(str(path))
    for name in names:
        file, _ = Config._get_cfg_path(name, str(path))
        if not Path(file).is_file():
            return None
        base = Config.fromfile(file)
        both[0].merge_from_dict(base.to_dict())
        resolve_length(base, file)
        both[1].merge_from_dict(base.to_dict())
    return both if names else None


def set_length(cfg: Config, options: Mapping[str, Any]) -> None:
    """Take ``max_epochs`` and ``warmup_epochs`` from the command line.

    Args:
        cfg: Resolved by :func:`resolve_length`; changed in place.
        options: Those of the command line, as values.

    Raises:
        ValueError: The options contradict each other, or nothing follows them.
    """
    field = 'train_cfg.max_epochs'
    if 'max_epochs' in options:
        if field in options and options[field] != options['max_epochs']:
            raise ValueError(f'--cfg-options: max_epochs={options["max_epochs"]} and {field}={options[field]} differ')
        if cfg.get('max_epochs') is None or cfg.max_epochs != _loop_epochs(cfg):
            raise ValueError(
                f'--cfg-options max_epochs: nothing follows it in this config: set `{field}`, now {_loop_epochs(cfg)}'
            )
    elif field in options and cfg.get('max_epochs') == _loop_epochs(cfg) is not None:
        cfg.max_epochs = cfg.train_cfg.max_epochs = options[field]  # the name in the file says the same
        return
    old = cfg.get('max_epochs'), cfg.get('warmup_epochs')
    new = options.get('max_epochs', old[0]), options.get('warmup_epochs', old[1])
    if new != old:
        _set_length(cfg, old, new)
