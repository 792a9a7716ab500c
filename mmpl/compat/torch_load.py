"""Loading checkpoints without running code, on either OpenMMLab stack.

A checkpoint is a pickle, and a pickle can run any program. ``torch.load(weights_only=True)`` reads tensors, plain
containers and an allow-list of classes, nothing else. Three things stand between that and mmengine:

- mmengine stores its ``HistoryBuffer`` and numpy arrays in every checkpoint. With torch >= 2.6 upstream mmengine
  therefore cannot resume from what it wrote itself. :func:`allow_mmengine_classes` puts exactly these on the list.
- OneDL's mmengine answers a refused file by loading it again, unsafely, and downloads are loaded unsafely by
  ``torch.hub``.
- ``Runner.resume`` runs ``meta['config']`` of old checkpoints as Python source.

:func:`set_load_policy` decides once for a process whether checkpoints may run code. Where nobody decided,
:func:`load_checkpoint` and all that is built on it refuse.
"""

import argparse
import functools
import os
import pickle
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import numpy as np
import torch
from mmengine.logging import HistoryBuffer, print_log
from mmengine.runner import CheckpointLoader
from mmengine.runner import checkpoint as mmengine_checkpoint

from mmpl.utils.user_errors import UserError

_FORCE_SAFE = 'TORCH_FORCE_WEIGHTS_ONLY_LOAD'
_FORCE_UNSAFE = 'TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD'
_original_load = CheckpointLoader.load_checkpoint.__func__  # type: ignore[attr-defined]
_original_local_load = getattr(mmengine_checkpoint, '_safe_torch_load', None)
_SIGNS_OF_DAMAGE = ('PytorchStreamReader failed', 'unexpected EOF', 'data was truncated')  # in torch's messages
_unsafe_load_allowed = False  # not read from the environment: a variable that somebody exported is no `--trust`


class UntrustedCheckpointError(UserError, RuntimeError):
    """A checkpoint holds something other than weights and plain values. Nothing of it was run."""

    def __init__(self, path: object, reason: object) -> None:
        self.told = str(path), _essence(reason)
        super().__init__(
            f'checkpoint {str(path)!r} was refused, and none of its code was run: it holds more than weights and plain '
            'values. Load it only if you trust whoever wrote it, with --trust (an option of the mmpl tools that load '
            f'checkpoints) or, in Python, after mmpl.compat.allow_unsafe_load(). Reason: {_essence(reason)}'
        )

    def __reduce__(self) -> tuple:
        """So that another process can raise it."""
        return type(self), self.told


class UnreadableCheckpointError(UserError, RuntimeError):
    """A file is no checkpoint, or a damaged one."""


def _essence(reason: object) -> str:
    """What torch's unpickler objects to, without its advice to load the file unsafely."""
    text = str(reason)
    return text.partition('WeightsUnpickler error: ')[2].strip().partition('\n')[0] or text


def _written_by_torch(path: str) -> bool:
    """Whether a file is a whole zip archive of ``torch.save``, or begins as torch's older format does."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            return any(name.endswith('/data.pkl') for name in archive.namelist())
    with open(path, 'rb') as file:
        start = file.read(64)
    magic = torch.serialization.MAGIC_NUMBER
    return start.startswith(tuple(pickle.dumps(magic, version) for version in range(pickle.HIGHEST_PROTOCOL + 1)))


def _statistics_method(owner: Any, name: str) -> Callable:
    """Stand-in for ``getattr``, which a ``HistoryBuffer`` is pickled with to name its four statistics.

    The real one must not be allowed: ``HistoryBuffer.__setstate__`` installs what the file names as the functions that
    the logger calls later.
    """
    if owner is not HistoryBuffer or name not in ('min', 'max', 'mean', 'current'):
        raise UnpicklingError(f'getattr({owner!r}, {name!r}) is not allowed in a checkpoint')
    return getattr(owner, name)


def _safe_globals() -> list[Any]:
    """Classes and functions that mmengine's own checkpoints refer to, under the names of numpy 1 and numpy 2."""
    core = getattr(np, '_core', None) or np.core
    found: list[Any] = [HistoryBuffer, np.ndarray, np.dtype, (_statistics_method, 'builtins.getattr')]
    for name in ('_reconstruct', 'scalar'):
        function = getattr(core.multiarray, name)
        found += [(function, f'{module}.multiarray.{name}') for module in ('numpy.core', 'numpy._core')]
    kinds = (np.bool_, np.uint8, np.int32, np.int64, np.float16, np.float32, np.float64)
    return found + [type(np.dtype(kind)) for kind in kinds]


def allow_mmengine_classes() -> None:
    """Let ``torch.load(weights_only=True)`` read what mmengine's hooks put into a checkpoint.

    None of the classes runs code of the file when it is rebuilt.
    """
    torch.serialization.add_safe_globals(_safe_globals())


def _without_source(checkpoint: Any, path: object) -> Any:
    """Drop ``meta['config']``, which ``Runner.resume`` would run to check the number of GPUs of mmcv 1 runs."""
    meta = checkpoint.get('meta') if isinstance(checkpoint, dict) else None
    if isinstance(meta, dict) and meta.pop('config', None) is not None:
        print_log(f'checkpoint {str(path)!r}: dropped meta["config"], which would have been run', logger='current')
    return checkpoint


def _readable(load: Callable[[], Any], path: str | os.PathLike) -> Any:
    """Load a file; torch answers one that is no checkpoint with almost any error."""
    name = os.fspath(path)
    try:
        return load()
    except UserError:
        raise
    except Exception as error:
        if not Path(name).is_file():
            raise
        if _written_by_torch(name):
            if not isinstance(error, EOFError) and not any(sign in str(error) for sign in _SIGNS_OF_DAMAGE):
                raise
            what = 'is damaged'
        else:
            what = 'is empty' if not os.path.getsize(name) else 'was not written by torch.save, or it is damaged'
        raise UnreadableCheckpointError(f'checkpoint {name!r} cannot be read: it {what}') from error


def _refusing_load(cls: type, filename: str, map_location: Any = None, logger: Any = 'current') -> Any:
    """Mmengine's ``CheckpointLoader.load_checkpoint``, with errors that say what to do."""
    try:
        checkpoint = _readable(lambda: _original_load(cls, filename, map_location, logger), filename)
    except UnpicklingError as error:
        raise UntrustedCheckpointError(filename, error) from error
    return _without_source(checkpoint, filename)


def set_load_policy(trust: bool) -> None:
    """Decide for the whole process whether checkpoints may run code; ``--trust`` of mmpl's tools is that decision.

    If they may not, every ``torch.load`` is weights-only from then on, in children too, and also where a library asks
    for the opposite (OneDL mmengine's second attempt, ``torch.hub``), and whatever goes through mmengine's
    ``CheckpointLoader`` (``load_from``, ``resume``, ``init_cfg``) raises :class:`UntrustedCheckpointError`.
    """
    global _unsafe_load_allowed
    _unsafe_load_allowed = trust
    allow_mmengine_classes()  # again: a library that used torch's `safe_globals` may have taken them off the list
    forced, dropped = (_FORCE_UNSAFE, _FORCE_SAFE) if trust else (_FORCE_SAFE, _FORCE_UNSAFE)
    os.environ.pop(dropped, None)
    os.environ[forced] = '1'
    if _original_local_load is not None:
        mmengine_checkpoint._safe_torch_load = functools.partial(torch.load, weights_only=not trust)
    CheckpointLoader.load_checkpoint = classmethod(_original_load if trust else _refusing_load)


def allow_unsafe_load() -> None:
    """Let checkpoints run code in the whole process: what ``--trust`` asks for."""
    set_load_policy(True)


def unsafe_load_allowed() -> bool:
    """Whether this process was told to trust checkpoints, by :func:`allow_unsafe_load` or ``--trust``."""
    return _unsafe_load_allowed


def add_trust_argument(parser: argparse.ArgumentParser) -> None:
    """Add ``--trust``, whose value is for :func:`set_load_policy`."""
    parser.add_argument(
        '--trust', action='store_true', help='let checkpoints run code while they load: only for files you trust'
    )


@contextmanager
def restored_load_policy() -> Iterator[None]:
    """Restore at the end of the block what was forbidden or allowed at its beginning."""
    global _unsafe_load_allowed
    allowed = _unsafe_load_allowed
    environ = {name: os.environ.get(name) for name in (_FORCE_SAFE, _FORCE_UNSAFE)}
    loader = CheckpointLoader.load_checkpoint.__func__  # type: ignore[attr-defined]
    local = getattr(mmengine_checkpoint, '_safe_torch_load', None)
    try:
        yield
    finally:
        _unsafe_load_allowed = allowed
        CheckpointLoader.load_checkpoint = classmethod(loader)
        if local is not None:
            mmengine_checkpoint._safe_torch_load = local
        for name, value in environ.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


@contextmanager
def safe_loading() -> Iterator[None]:
    """Forbid unsafe loading inside of the block, or of the function that this decorates, unless that is allowed."""
    with restored_load_policy():
        set_load_policy(unsafe_load_allowed())
        yield


@contextmanager
def _namespaces_allowed() -> Iterator[None]:
    """Let ``argparse.Namespace`` be read inside of the block: MAE's official files hold one in ``args``.

    It is rebuilt by setting attributes, without code of the file. What it holds is under the same rules.
    """
    if argparse.Namespace in torch.serialization.get_safe_globals():
        yield
        return
    with torch.serialization.safe_globals([argparse.Namespace]):
        yield


def check_checkpoint_path(path: str) -> None:
    """Refuse a local file that is not there; URLs pass."""
    if '://' not in path and not Path(path).is_file():
        raise FileNotFoundError(f'checkpoint {path!r} does not exist')


def load_checkpoint(path: str | os.PathLike, map_location: Any = 'cpu', trust: bool | None = None) -> dict[str, Any]:
    """Load a checkpoint file, or anything that mmengine's ``CheckpointLoader`` knows (``https://`` ...).

    Args:
        path: File or URL.
        map_location: As in ``torch.load``.
        trust: Whether the file may run code. None: only if the process was told so, by ``--trust`` or
            :func:`allow_unsafe_load`.

    Returns:
        The checkpoint, as it was saved.

    Raises:
        FileNotFoundError: A local path does not exist.
        UnreadableCheckpointError: A local file is no checkpoint, or a damaged one.
        UntrustedCheckpointError: The file may run no code and holds anything but weights, plain values, an
            ``argparse.Namespace`` of such, and mmengine's log buffers. None of its code was run.
        ValueError: The file holds no dict.
    """
    name = os.fspath(path)
    check_checkpoint_path(name)
    with restored_load_policy(), _namespaces_allowed():
        set_load_policy(unsafe_load_allowed() if trust is None else trust)
        checkpoint = _readable(
            lambda: CheckpointLoader.load_checkpoint(name, map_location=map_location, logger='silent'), name
        )
    if not isinstance(checkpoint, dict):
        raise ValueError(f'checkpoint {name!r} holds a {type(checkpoint).__name__}; a dict was expected')
    return checkpoint
