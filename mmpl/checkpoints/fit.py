"""Checks that a checkpoint fits the module it is meant for."""

from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase

from torch import Tensor, nn

from mmpl.utils.user_errors import UserError

_SHOWN = 8


class CheckpointMismatchError(UserError, RuntimeError):
    """A checkpoint and a module do not fit; the message lists every kind of misfit."""


def _listing(title: str, lines: Iterable[str]) -> str:
    lines = sorted(lines)
    more = f'\n    ... and {len(lines) - _SHOWN} more' if len(lines) > _SHOWN else ''
    return f'  {title} ({len(lines)}):' + ''.join(f'\n    {line}' for line in lines[:_SHOWN]) + more


def state_dict_prefixes(keys: Iterable[str], depth: int = 2) -> list[str]:
    """Prefixes that occur in a state dict.

    Args:
        keys (Iterable[str]): Keys of the state dict.
        depth (int): Number of dotted parts at most. Defaults to 2.

    Returns:
        list[str]: Sorted, each with its final dot: ``['backbone.', 'backbone.layers.', ...]``.
    """
    found: set[str] = set()
    for key in keys:
        parts = key.split('.')[:-1]
        found.update('.'.join(parts[: n + 1]) + '.' for n in range(min(depth, len(parts))))
    return sorted(found)


def select_prefix(state_dict: Mapping[str, Tensor], prefix: str | None) -> dict[str, Tensor]:
    """Take the part of a state dict under a prefix, without the prefix.

    Args:
        state_dict (Mapping): Tensors by key.
        prefix (str, optional): Such as ``'backbone.'`` or ``'backbone'``; None or ``''`` takes all.

    Returns:
        dict: Tensors by shortened key; never empty.

    Raises:
        CheckpointMismatchError: If no key starts with ``prefix``; the prefixes there are get listed.
    """
    if not prefix:
        return dict(state_dict)
    prefix = prefix.rstrip('.') + '.'
    selected = {key[len(prefix) :]: value for key, value in state_dict.items() if key.startswith(prefix)}
    if not selected:
        there = ', '.join(repr(p) for p in state_dict_prefixes(state_dict)) or 'none: its keys have no dots'
        raise CheckpointMismatchError(f'prefix={prefix!r} does not occur in the checkpoint. Its prefixes are: {there}')
    return selected


def _resizable(name: str, want: Tensor, got: Tensor, patterns: Iterable[str]) -> bool:
    """Whether two position embeddings, (1, L, D), differ in their length L alone."""
    return (
        any(fnmatchcase(name, pattern) for pattern in patterns)
        and want.ndim == got.ndim == 3
        and want.shape[0] == got.shape[0]
        and want.shape[2] == got.shape[2]
    )


def check_state_dict(
    module: nn.Module | Mapping[str, Tensor],
    state_dict: Mapping[str, Tensor],
    prefix: str | None = None,
    resizable: Iterable[str] = (),
    ignore: Iterable[str] = (),
    allow_unexpected: bool = False,
) -> dict[str, Tensor]:
    """Compare a module with the part of a checkpoint that is meant for it.

    Args:
        module (nn.Module | Mapping): The module, or its state dict.
        state_dict (Mapping): The checkpoint's tensors by key.
        prefix (str, optional): Where in the checkpoint the module's keys are. Defaults to None, the top.
        resizable (Iterable[str]): Patterns (``fnmatch``) of keys whose length, dimension 1 of (1, L, D), may differ
            because the module interpolates them while loading: ``('pos_embed',)`` for mmpretrain's ViT.
        ignore (Iterable[str]): Patterns of keys that may be missing on either side.
        allow_unexpected (bool): Whether the checkpoint may hold more than the module. Defaults to False.

    Returns:
        dict: The tensors to load, by the module's own keys, without the ignored ones.

    Raises:
        CheckpointMismatchError: If ``prefix`` does not occur, or keys are missing, unexpected or of another shape.
    """
    ignore = tuple(ignore)
    resizable = tuple(resizable)
    want = module.state_dict() if isinstance(module, nn.Module) else module
    got = select_prefix(state_dict, prefix)

    def ignored(key: str) -> bool:
        return any(fnmatchcase(key, pattern) for pattern in ignore)

    got = {key: value for key, value in got.items() if not ignored(key)}
    problems = []
    missing = [key for key in want if key not in got and not ignored(key)]
    unexpected = [] if allow_unexpected else [key for key in got if key not in want]
    shapes = [
        f'{key}: {tuple(got[key].shape)} in the checkpoint, {tuple(want[key].shape)} in the module'
        for key in want
        if key in got and got[key].shape != want[key].shape and not _resizable(key, want[key], got[key], resizable)
    ]
    for title, lines in (
        ('missing from the checkpoint', missing),
        ('unexpected in the checkpoint', unexpected),
        ('of another shape', shapes),
    ):
        if lines:
            problems.append(_listing(title, lines))
    if problems:
        where = f' under prefix {prefix!r}' if prefix else ''
        hint = ''
        if len(missing) == len([key for key in want if not ignored(key)]):
            hint = f'\n  Not one key fits. Prefixes in the checkpoint: {", ".join(state_dict_prefixes(state_dict))}'
        raise CheckpointMismatchError(f'checkpoint{where} does not fit the module:\n' + '\n'.join(problems) + hint)
    return got


def load_completely(module: nn.Module, state_dict: Mapping[str, Tensor]) -> None:
    """Load a state dict into a module as torch does, and refuse one that leaves a part of the module as it was.

    Modules convert old keys and interpolate position embeddings while they load, so torch is asked what did not fit.
    The state dict may hold more than the module.

    Args:
        module (nn.Module): The module.
        state_dict (Mapping): The checkpoint's tensors by key; its ``_metadata``, if any, tells modules its version.

    Raises:
        CheckpointMismatchError: If keys are missing or of another shape.
    """
    try:
        missing = module.load_state_dict(state_dict, strict=False).missing_keys
    except RuntimeError as error:
        check_state_dict(module, state_dict, allow_unexpected=True)
        raise CheckpointMismatchError(str(error)) from error
    if missing:
        check_state_dict(module, state_dict, allow_unexpected=True)
        raise CheckpointMismatchError(_listing('missing from the checkpoint', missing))
