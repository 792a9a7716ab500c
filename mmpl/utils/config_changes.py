"""What differs between the configs of two runs."""

from collections.abc import Iterator, Mapping
from typing import Any

SECTIONS = (
    *('model', 'data_preprocessor', 'train_dataloader', 'optim_wrapper', 'param_scheduler', 'auto_scale_lr'),
    *('train_cfg', 'custom_hooks'),
)
"""Sections of a config that decide what training computes."""
_SHOWN = 20
_MISSING = '(not given)'


def config_changes(old: Mapping, new: Mapping) -> list[str]:
    """Fields of :data:`SECTIONS` that differ, each as ``'path old -> new'``.

    Values that one side cannot tell, since they are no literals of a config's text, count as the same.
    """
    return [
        f'`{path}` {a!r} -> {b!r}'
        for section in SECTIONS
        for path, a, b in _differences(old.get(section, _MISSING), new.get(section, _MISSING), section)
    ]


def listed(changes: list[str]) -> str:
    """The first of many changes, in one line."""
    more = f', and {len(changes) - _SHOWN} more' if len(changes) > _SHOWN else ''
    return ', '.join(change[:200] for change in changes[:_SHOWN]) + more


def _differences(a: Any, b: Any, path: str) -> Iterator[tuple[str, Any, Any]]:
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        for key in [*a, *(key for key in b if key not in a)]:
            yield from _differences(a.get(key, _MISSING), b.get(key, _MISSING), f'{path}.{key}')
    elif isinstance(a, list | tuple) and isinstance(b, list | tuple) and len(a) == len(b):
        for index, (x, y) in enumerate(zip(a, b, strict=True)):
            yield from _differences(x, y, f'{path}.{index}')
    elif a is not None and b is not None and _plain(a) != _plain(b):
        yield path, a, b


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
