"""Whether a state dict fits the module it is meant for."""

from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase

from torch import Tensor, nn

from mmpl.utils.user_errors import UserError

_SHOWN = 8


class CheckpointMismatchError(UserError, RuntimeError):
    """A checkpoint does not hold what is asked of it, or does not fit; the message lists what is there instead."""


def _listing(title: str, lines: Iterable[str]) -> str:
    lines = sorted(lines)
    more = f'\n    ... and {len(lines) - _SHOWN} more' if len(lines) > _SHOWN else ''
    return f'  {title} ({len(lines)}):' + ''.join(f'\n    {line}' for line in lines[:_SHOWN]) + more


def state_dict_prefixes(keys: Iterable[str]) -> list[str]:
    """Prefixes of keys, of one and of two dotted parts: ``['backbone.', 'backbone.layers.', ...]``."""
    parts = [key.split('.')[:-1] for key in keys]
    return sorted({'.'.join(names[:depth]) + '.' for names in parts for depth in (1, 2) if len(names) >= depth})


def select_prefix(state_dict: Mapping[str, Tensor], prefix: str | None) -> dict[str, Tensor]:
    """Take the part of a state dict under a prefix, without the prefix; None or ``''`` takes all.

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


def _matches(key: str, patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(key, pattern) for pattern in patterns)


def _only_length_differs(want: Tensor, got: Tensor) -> bool:
    """Whether two position embeddings, (1, L, D), differ in their length L alone."""
    return want.ndim == got.ndim == 3 and want.shape[::2] == got.shape[::2]


def check_state_dict(
    module: nn.Module | Mapping[str, Tensor],
    state_dict: Mapping[str, Tensor],
    prefix: str | None = None,
    resizable: Iterable[str] = (),
    ignore: Iterable[str] = (),
    allow_unexpected: bool = False,
) -> dict[str, Tensor]:
    """Compare a module, or its state dict, with the part of a checkpoint that is meant for it.

    Args:
        module: What is to be loaded.
        state_dict: The checkpoint's tensors.
        prefix: Where in the checkpoint the module's keys are.
        resizable: Patterns (``fnmatch``) of keys whose length, dimension 1 of (1, L, D), may differ because the module
            interpolates them while loading: ``('pos_embed',)`` for mmpretrain's ViT.
        ignore: Patterns of keys that may be missing on either side.
        allow_unexpected: Whether the checkpoint may hold more than the module.

    Returns:
        The tensors to load, by the module's own keys, without the ignored ones.

    Raises:
        CheckpointMismatchError: If ``prefix`` does not occur, or keys are missing, unexpected or of another shape.
    """
    resizable, ignore = tuple(resizable), tuple(ignore)
    want = module.state_dict() if isinstance(module, nn.Module) else module
    want = {key: value for key, value in want.items() if not _matches(key, ignore)}
    got = {key: value for key, value in select_prefix(state_dict, prefix).items() if not _matches(key, ignore)}
    missing = [key for key in want if key not in got]
    shapes = [
        f'{key}: {tuple(got[key].shape)} in the checkpoint, {tuple(value.shape)} in the module'
        for key, value in want.items()
        if key in got
        and got[key].shape != value.shape
        and not (_matches(key, resizable) and _only_length_differs(value, got[key]))
    ]
    misfits = {
        'missing from the checkpoint': missing,
        'unexpected in the checkpoint': [] if allow_unexpected else [key for key in got if key not in want],
        'of another shape': shapes,
    }
    problems = [_listing(title, lines) for title, lines in misfits.items() if lines]
    if problems:
        where = f' under prefix {prefix!r}' if prefix else ''
        if len(missing) == len(want):
            there = ', '.join(state_dict_prefixes(state_dict))
            problems.append(f'  Not one key fits. Prefixes in the checkpoint: {there}')
        raise CheckpointMismatchError('\n'.join([f'checkpoint{where} does not fit the module:', *problems]))
    return got


def load_completely(module: nn.Module, state_dict: Mapping[str, Tensor]) -> None:
    """Load a state dict as torch does, and refuse one that leaves a part of the module as it was.

    Modules convert old keys and interpolate position embeddings while they load, so torch is asked what did not fit.
    The state dict may hold more than the module; its ``_metadata``, if any, tells modules its version.

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
