"""Errors of other libraries, with the part of the config that led to them."""

import os
import re
import traceback
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from mmengine.config import Config
from mmengine.runner import BaseLoop, EpochBasedTrainLoop, IterBasedTrainLoop
from torch.utils.data import Dataset
from torch.utils.data.dataloader import _BaseDataLoaderIter

from .fields import FieldTypeError
from .user_errors import UserError

_OWN = str(Path(__file__).resolve().parents[1])
_SHOWN = 3000
_MISSING_TYPE = re.compile(r"'type'|\btype\b|unexpected keyword argument")
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


class ConfigError(UserError, ValueError):
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
            raise FieldTypeError(f'`{field}` must be a {allowed}, but got {cfg[field]!r}')
    if cfg.get('model') is None:
        raise FieldTypeError("`model` must be a dict such as dict(type='mmpl.PLMAE', ...), but the config has none")


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


def _busy_with(values: Iterable[Any], parts: Sequence[tuple[str, Any]]) -> list[tuple[str, Any]]:
    """The parts of a config that fit the values of a frame best; several if they are alike."""
    best = 0
    found: list[tuple[str, Any]] = []
    lists: list[tuple[str, Any]] = []
    for value in values:
        for path, part in parts:
            if isinstance(value, Mapping) and isinstance(part, Mapping):
                shared = _shared_fields(value, part)
                # all of a part but its type, which is taken out before the rest is used
                if shared >= max(1, len(part) - 1, best):
                    found = [item for item in found if shared == best and item[0] != path] + [(path, part)]
                    best = shared
            elif isinstance(value, list | tuple) and isinstance(part, list | tuple) and _same(value, part):
                lists.append((path, part))
    return found or lists[:1]  # any dict of the frame says more


def find_config_part(frames: Sequence[FrameType], cfg: Mapping) -> tuple[str, Any] | None:
    """The part of a config that was being built, or that the innermost frame with such a part was busy with.

    Args:
        frames: Of an exception's traceback, the innermost last.
        cfg: The whole config.

    Returns:
        Dotted path and part; None if no frame holds one. Of parts that are alike the one in the part that was built
        around it; several paths if that does not tell them apart.
    """
    parts = list(_parts(cfg))
    building = [frame for frame in frames if frame.f_code.co_name == 'build_from_cfg']
    if building:
        # What a class makes of its arguments is its own affair: the part that it was built from is to be looked at.
        frames = frames[: frames.index(building[-1]) + 1]
    for index in reversed(range(len(frames))):
        found = _busy_with(_values(frames[index]), parts)
        outer = index
        while len(found) > 1 and outer > 0:
            outer -= 1
            around = [path for path, _ in _busy_with(_values(frames[outer]), parts)]
            inside = [item for item in found if any(item[0].startswith((f'{path}.', f'{path}[')) for path in around)]
            found = inside or found
        if found:
            return '` or `'.join(path for path, _ in found), found[0][1]
    return None


def _values(frame: FrameType) -> list[Any]:
    """What a frame works with: its variables, and the arguments of a constructor as one dict."""
    arguments = [dict(frame.f_locals)] if frame.f_code.co_name == '__init__' else []
    return [*arguments, *frame.f_locals.values()]


def past_building(error: BaseException) -> bool:
    """Whether an error came from data, an iteration or an evaluation, and not from building what a config says."""
    loops = 0
    for frame, _ in traceback.walk_tb(error.__traceback__):
        name, owner = frame.f_code.co_name, frame.f_locals.get('self')
        loops += name == 'run' and isinstance(owner, BaseLoop)
        of_data = name in ('__getitem__', '__next__') and isinstance(owner, Dataset | _BaseDataLoaderIter)
        if name in ('run_iter', 'run_epoch') or loops > 1 or of_data:
            return True
        if loops and not isinstance(owner, EpochBasedTrainLoop | IterBasedTrainLoop) and isinstance(owner, BaseLoop):
            return True
    return False


def _with_source(error: Exception) -> Exception:
    """The error, or one that says what was asserted where the assertion does not."""
    if type(error) is not AssertionError or str(error):
        return error
    last = traceback.extract_tb(error.__traceback__)[-1]
    return AssertionError(f'{last.line} (line {last.lineno} of {last.filename})')


@contextmanager
def explained_by(cfg: Mapping) -> Iterator[None]:
    """Turn an error of another library, while things are built, into one that names the part of the config.

    Errors of mmpl that name their field pass, and so do those of loading data, of iterations and of evaluation: no part
    of the config is known to be at fault. A RuntimeError, such as torch's for a value of the wrong type, is explained
    only if a registry was building something. An assertion without a text gets its line of source.

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
        frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
        own = frames[-1].f_code.co_filename.startswith(_OWN) and ('`' in str(error) or '=' in str(error))
        building = 'build_from_cfg' in [frame.f_code.co_name for frame in frames]
        untold = isinstance(error, RuntimeError) and not isinstance(error, NotImplementedError)
        told = _with_source(error)
        passes = own or past_building(error) or (untold and not (building and type(error) is RuntimeError))
        found = None if passes else find_config_part(frames, plain)
        if passes or (found is None and not isinstance(error, KeyError)):
            if told is error:
                raise
            raise told from error
        shown = ''
        if found is not None:
            path, part = found
            shown = f'\nin `{path}` of the config: {str(part)[:_SHOWN]}'
            untyped = isinstance(part, Mapping) and 'type' not in part
            if untyped and _MISSING_TYPE.search(str(error)):
                shown += f'\n`{path}.type` is not given'
        raise ConfigError(f'{type(error).__name__}: {told}{shown}') from error
