"""Errors of other libraries, with the part of the config that led to them."""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
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

    Raises:
        FileNotFoundError: There is no such file.
        ConfigError: It is no config; the message names the file.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f'config {str(path)!r} does not exist')
    try:
        return Config.fromfile(path)
    except (SyntaxError, ValueError, OSError) as error:
        raise ConfigError(f'config {str(path)!r} cannot be read: {type(error).__name__}: {error}') from error


def check_sections(cfg: Mapping) -> None:
    """Refuse a whole config with a section of the wrong kind, or without a model; others may be missing or None."""
    for field, kinds in _SECTIONS.items():
        if cfg.get(field) is not None and not isinstance(cfg[field], kinds):
            allowed = ' or a '.join('dict' if kind is Mapping else kind.__name__ for kind in kinds)
            raise TypeError(f'`{field}` must be a {allowed}, but got {cfg[field]!r}')
    if cfg.get('model') is None:
        raise TypeError("`model` must be a dict such as dict(type='mmpl.PLMAE', ...), but the config has none")


def _parts(node: Any, path: str = '') -> Iterator[tuple[str, Any]]:
    """All dicts and lists of a config that are not empty, by their dotted paths."""
    if path and isinstance(node, (Mapping, list, tuple)) and node:
        yield path, node
    if isinstance(node, Mapping):
        for key, value in node.items():
            yield from _parts(value, f'{path}.{key}' if path else str(key))
    elif isinstance(node, Sequence) and not isinstance(node, str):
        for index, value in enumerate(node):
            yield from _parts(value, f'{path}[{index}]')


def _same(a: Any, b: Any) -> bool:
    try:
        return a is b or bool(a == b)
    except Exception:  # tensors and the like
        return False


def _shared_fields(local: Mapping, part: Mapping) -> int:
    """How many fields of a local dict come from a part of the config; 0 if any differs."""
    shared = [key for key in part if key in local]
    return len(shared) if all(_same(local[key], part[key]) for key in shared) else 0


def find_config_part(frames: Sequence[FrameType], cfg: Mapping) -> tuple[str, Any] | None:
    """The part of a config that the innermost frame with such a part was busy with.

    Args:
        frames: Of an exception's traceback, the innermost last.
        cfg: The whole config.

    Returns:
        Dotted path and part; None if no frame holds one.
    """
    parts = list(_parts(cfg))
    for frame in reversed(frames):
        best: tuple[int, str, Any] | None = None
        arguments = [dict(frame.f_locals)] if frame.f_code.co_name == '__init__' else []
        for value in (*arguments, *frame.f_locals.values()):
            for path, part in parts:
                if isinstance(value, Mapping) and isinstance(part, Mapping):
                    shared = _shared_fields(value, part)
                    # all of a part but its type, which is taken out before the rest is used
                    if shared >= max(1, len(part) - 1) and (best is None or shared > best[0]):
                        best = (shared, path, part)
                lists = isinstance(value, (list, tuple)) and isinstance(part, (list, tuple))
                if lists and best is None and _same(value, part):
                    best = (0, path, part)  # any dict of the frame says more
        if best is not None:
            return best[1], best[2]
    return None


@contextmanager
def explained_by(cfg: Mapping) -> Iterator[None]:
    """Turn an error of another library, while things are built, into one that names the part of the config.

    Errors of mmpl that name their field pass, and so does all that happens in the iterations. A RuntimeError, such as
    torch's for a value of the wrong type, is explained only if a registry was building something.

    Args:
        cfg: The whole config.

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
            frames.append(trace.tb_frame)
            trace = trace.tb_next
        own = frames[-1].f_code.co_filename.startswith(_OWN) and ('`' in str(error) or '=' in str(error))
        names = [frame.f_code.co_name for frame in frames]
        if own or 'run_iter' in names:
            raise
        of_building = type(error) is RuntimeError and 'build_from_cfg' in names
        if isinstance(error, RuntimeError) and not (of_building or isinstance(error, NotImplementedError)):
            raise
        found = find_config_part(frames, plain)
        if found is None and not isinstance(error, KeyError):
            raise
        shown = ''
        if found is not None:
            path, part = found
            shown = f'\nin `{path}` of the config: {str(part)[:_SHOWN]}'
            untyped = isinstance(part, Mapping) and 'type' not in part
            if untyped and isinstance(error, TypeError) and ' argument' in str(error):
                shown += f'\n`{path}.type` is not given'
        raise ConfigError(f'{type(error).__name__}: {error}{shown}') from error
