"""Errors of other libraries, with the part of the config that led to them."""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

from mmengine.config import Config

_OWN = str(Path(__file__).resolve().parents[1])
_SHOWN = 3000


# What mmengine's Runner takes under these names in a config.
_SECTIONS: dict[str, tuple[type, ...]] = dict(
    model=(Mapping,),
    train_dataloader=(Mapping,),
    train_cfg=(Mapping,),
    optim_wrapper=(Mapping,),
    param_scheduler=(Mapping, list, tuple),
    default_hooks=(Mapping,),
    custom_hooks=(list, tuple),
)


class ConfigError(ValueError):
    """Something cannot be built as the config says; the message names the part of the config."""


def read_config(path: str | os.PathLike) -> Config:
    """Read a config file.

    Args:
        path (str | PathLike): The file.

    Returns:
        Config: What it says.

    Raises:
        FileNotFoundError: If there is no such file.
        ConfigError: If it is no config; the message names the file.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f'config {str(path)!r} does not exist')
    try:
        return Config.fromfile(path)
    except (SyntaxError, ValueError, OSError) as error:
        raise ConfigError(f'config {str(path)!r} cannot be read: {type(error).__name__}: {error}') from error


def check_sections(cfg: Mapping) -> None:
    """Refuse a config with a section of the wrong kind, or without a model.

    Args:
        cfg (Mapping): The whole config. Sections other than ``model`` may be missing or None.

    Raises:
        TypeError: A section is neither None nor of its kind, or there is no ``model``.
    """
    for field, kinds in _SECTIONS.items():
        if cfg.get(field) is not None and not isinstance(cfg[field], kinds):
            allowed = ' or a '.join('dict' if kind is Mapping else kind.__name__ for kind in kinds)
            raise TypeError(f'`{field}` must be a {allowed}, but got {cfg[field]!r}')
    if cfg.get('model') is None:
        raise TypeError("`model` must be a dict such as dict(type='mmpl.PLMAE', ...), but the config has none")


def _nodes(node: Any, path: str = '') -> Iterator[tuple[str, Any]]:
    if path and isinstance(node, (Mapping, list, tuple)) and node:
        yield path, node
    if isinstance(node, Mapping):
        for key, value in node.items():
            yield from _nodes(value, f'{path}.{key}' if path else str(key))
    elif isinstance(node, Sequence) and not isinstance(node, str):
        for index, value in enumerate(node):
            yield from _nodes(value, f'{path}[{index}]')


def _same(a: Any, b: Any) -> bool:
    try:
        return a is b or bool(a == b)
    except Exception:  # tensors and the like
        return False


def _overlap(local: Mapping, node: Mapping) -> int:
    """How many fields of a local dict come from a node of the config; 0 if any differs."""
    count = 0
    for key, value in node.items():
        if key in local:
            if not _same(local[key], value):
                return 0
            count += 1
    return count


def find_config_part(trace: TracebackType | None, cfg: Mapping) -> tuple[str, Any] | None:
    """The part of a config that the innermost frame with such a part was busy with.

    Args:
        trace (TracebackType, optional): Of an exception.
        cfg (Mapping): The whole config.

    Returns:
        tuple[str, Any] | None: Dotted path and part; None if no frame holds one.
    """
    frames = []
    while trace is not None:
        frames.append(trace.tb_frame)
        trace = trace.tb_next
    nodes = list(_nodes(cfg))
    for frame in reversed(frames):
        best: tuple[int, str, Any] | None = None
        arguments = [dict(frame.f_locals)] if frame.f_code.co_name == '__init__' else []
        for value in (*arguments, *frame.f_locals.values()):
            for path, node in nodes:
                if isinstance(value, Mapping) and isinstance(node, Mapping):
                    shared = _overlap(value, node)
                elif isinstance(value, (list, tuple)) and isinstance(node, (list, tuple)):
                    if best is None and _same(value, node):
                        best = (0, path, node)  # any dict of the frame says more
                    continue
                else:
                    continue
                # all of a part but its type, which is taken out before the rest is used
                if shared >= max(1, len(node) - 1) and (best is None or shared > best[0]):
                    best = (shared, path, node)
        if best is not None:
            return best[1], best[2]
    return None


@contextmanager
def explained_by(cfg: Mapping) -> Iterator[None]:
    """Turn an error of another library, while things are built, into one that names the part of the config.

    Errors of mmpl that name their field pass, and so does all that happens in the iterations. A RuntimeError, such as
    torch's for a value of the wrong type, is explained only if a registry was building something.

    Args:
        cfg (Mapping): The config.

    Raises:
        ConfigError: Instead of the other library's error, which is its cause.
        TypeError: A section of the config is of the wrong kind.
    """
    plain = cfg.to_dict() if hasattr(cfg, 'to_dict') else cfg
    check_sections(plain)
    try:
        yield
    except (TypeError, ValueError, LookupError, AttributeError, AssertionError, RuntimeError) as error:
        frames, trace = [], error.__traceback__
        while trace is not None:
            frames.append(trace.tb_frame.f_code)
            trace = trace.tb_next
        own = frames[-1].co_filename.startswith(_OWN) and ('`' in str(error) or '=' in str(error))
        names = [code.co_name for code in frames]
        if own or 'run_iter' in names:
            raise
        of_building = type(error) is RuntimeError and 'build_from_cfg' in names
        if isinstance(error, RuntimeError) and not (of_building or isinstance(error, NotImplementedError)):
            raise
        part = find_config_part(error.__traceback__, plain)
        if part is None and not isinstance(error, KeyError):
            raise
        shown = ''
        if part is not None:
            path, node = part
            shown = f'\nin `{path}` of the config: {str(node)[:_SHOWN]}'
            untyped = isinstance(node, Mapping) and 'type' not in node
            if untyped and isinstance(error, TypeError) and ' argument' in str(error):
                shown += f'\n`{path}.type` is not given'
        raise ConfigError(f'{type(error).__name__}: {error}{shown}') from error
