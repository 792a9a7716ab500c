"""Parameter groups of optimizers: joining those of equal settings, showing them, and reading older checkpoints."""

from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from typing import Any

from mmengine.optim import OptimWrapper
from torch import Tensor, nn
from torch.optim import Optimizer


def merge_groups(groups: Iterable[tuple[Hashable, dict]]) -> dict[Any, dict]:
    """Join parameter groups.

    Few large groups are what an optimizer's ``fused`` and ``foreach`` forms need: each group is a call of its own.

    Args:
        groups: Keys and groups; those of one key have the same settings.

    Returns:
        The groups by key, in the order in which the keys came first. The given groups are left alone.
    """
    merged: dict[Any, dict] = {}
    for key, group in groups:
        if key in merged:
            merged[key]['params'] += group['params']
        else:
            merged[key] = dict(group, params=list(group['params']))
    return merged


def settings_of(group: dict) -> tuple:
    """What a group says beside its parameters, as a key."""
    return tuple(sorted((key, value) for key, value in group.items() if key != 'params'))


def group_table(
    title: str,
    rows: Sequence[tuple[str, dict]],
    base_lr: float | None,
    base_wd: float | None,
    frozen: Sequence[tuple[str, Tensor]],
) -> str:
    """The groups as a table, and how much is frozen in which part of the model.

    Args:
        title: First line.
        rows: Names and groups.
        base_lr: Learning rate of groups without one; None if the optimizer has its own.
        base_wd: Weight decay of groups without one.
        frozen: Names and values of parameters that are in no group.

    Returns:
        Lines.
    """
    lines = [title, f'{"group":<18}{"lr":>11}{"lr scale":>10}{"decay":>8}{"tensors":>9}{"parameters":>13}']
    for name, group in rows:
        lr, decay = group.get('lr', base_lr), group.get('weight_decay', base_wd)
        rate = f'{"-":>11}{"-":>10}' if lr is None else f'{lr:>11.3e}{lr / base_lr if base_lr else 1:>10.4f}'
        count = sum(p.numel() for p in group['params'])
        lines.append(
            f'{name:<18}{rate}{"-" if decay is None else f"{decay:.3g}":>8}{len(group["params"]):>9}{count:>13,}'
        )
    tensors, sizes = Counter[str](), Counter[str]()
    for name, value in frozen:
        part = name.partition('.')[0]
        tensors[part] += 1
        sizes[part] += value.numel()
    lines += [f'{f"frozen: {part}":<47}{tensors[part]:>9}{sizes[part]:>13,}' for part in tensors]
    return '\n'.join(lines)


def refuse_other_groups(optimizer: Optimizer, state_dict: dict) -> None:
    """Say what to do when a checkpoint's groups are others; a hook of ``Optimizer.load_state_dict``.

    Raises:
        ValueError: The number of groups, or of tensors in a group, differs.
    """
    saved = [len(group['params']) for group in state_dict['param_groups']]
    own = [len(group['params']) for group in optimizer.param_groups]
    if saved != own:
        raise ValueError(
            f'the optimizer of the checkpoint has {len(saved)} parameter groups of {_shown(saved)} tensors, that of '
            f'this run {len(own)} of {_shown(own)}: `optim_wrapper.paramwise_cfg` or what is trained has changed. '
            '(Groups of one tensor each, as early versions of mmpl made them, are read by mmpl.ExactEpochLoop only, '
            'and with the same paramwise_cfg.) To start from the weights of this checkpoint, set `load_from` to it '
            'and `resume=False`'
        )


def _shown(lengths: list[int]) -> str:
    return f'{lengths[:5]}'.replace(']', ', ...]' if len(lengths) > 5 else ']')


def join_saved_groups(checkpoint: dict, wrapper: Any, model: nn.Module) -> bool:
    """Bring a checkpoint that has a parameter group for each tensor to the joined groups of this run.

    Such a checkpoint's groups are in the model's order. Values of the param schedulers, one for each group, follow.

    Args:
        checkpoint: As loaded; ``optimizer`` and ``param_schedulers`` are changed in place.
        wrapper: The run's optimizer wrapper.
        model: The run's model, not wrapped.

    Returns:
        Whether there was something to do. Groups of any other kind are left as they are.
    """
    saved = checkpoint.get('optimizer')
    if not isinstance(wrapper, OptimWrapper) or not isinstance(saved, dict) or 'param_groups' not in saved:
        return False
    groups, old = wrapper.optimizer.param_groups, saved['param_groups']
    trained = {id(p) for group in groups for p in group['params']}
    place = {id(p): i for i, p in enumerate(p for p in model.parameters() if id(p) in trained)}
    if len(groups) == len(old) or len(old) != len(place) or any(len(group['params']) != 1 for group in old):
        return False
    members = [[place[id(p)] for p in group['params']] for group in groups]
    if any(settings_of(old[i]) != settings_of(old[part[0]]) for part in members for i in part):
        return False
    saved['param_groups'] = [
        dict(old[part[0]], params=[index for i in part for index in old[i]['params']]) for part in members
    ]
    schedulers = checkpoint.get('param_schedulers') or []
    for state in schedulers if isinstance(schedulers, list) else []:
        for key in ('base_values', '_last_value'):
            values = state.get(key)
            if values is not None:  # behind those of the groups is mmengine's base learning rate
                state[key] = [values[part[0]] for part in members] + list(values[len(old) :])
    return True
