"""What our optimizer wrapper constructors share: checks of their fields, few parameter groups, a table of these."""

import difflib
from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Annotated, Any

from mmengine.logging import MMLogger
from mmengine.optim import DefaultOptimWrapperConstructor, OptimWrapper
from torch import Tensor, nn
from torch.optim import Optimizer

from mmpl.utils.fields import Example, check_choice, check_field, check_number, check_part

CustomKeys = Annotated[Mapping, Example('{"bias": dict(decay_mult=0.0)}')]
_WHERE = 'optim_wrapper.paramwise_cfg'


class GroupingConstructor(DefaultOptimWrapperConstructor):
    """Base of constructors that put parameters of equal settings into one group.

    Few large groups are what an optimizer's ``fused`` and ``foreach`` forms need: each group is a call of its own.

    Attributes:
        fields: Type of each field that ``paramwise_cfg`` may have.
    """

    fields: Mapping[str, Any] = {}
    optimizer_cfg: Any  # mmengine's

    def __init__(self, optim_wrapper_cfg: dict, paramwise_cfg: dict | None = None) -> None:
        optimizer: Any = optim_wrapper_cfg.get('optimizer')
        check_part('optim_wrapper.optimizer', optimizer, "dict(type='AdamW')")
        for field in ('lr', 'weight_decay'):  # what the factors of paramwise_cfg scale
            if optimizer.get(field) is not None:
                check_number(f'optim_wrapper.optimizer.{field}', optimizer[field], 0)
        super().__init__(optim_wrapper_cfg, paramwise_cfg)

    def _validate_cfg(self) -> None:
        cfg = self.paramwise_cfg
        check_part(_WHERE, cfg, 'dict(custom_keys=...)')
        for field, value in cfg.items():
            check_choice(_WHERE, field, self.fields)
            check_field(f'{_WHERE}.{field}', value, self.fields[field])
        scales_lr = [field for field in cfg if field.endswith(('lr_mult', 'custom_keys', 'decay_rate'))]
        scales_decay = [field for field in cfg if field.endswith('decay_mult')]
        for key, factors in cfg.get('custom_keys', {}).items():
            where = f'{_WHERE}.custom_keys.{key}'
            check_part(where, factors, 'dict(decay_mult=0.0)')
            for field, value in factors.items():
                check_choice(where, field, ('lr_mult', 'decay_mult'))
                check_number(f'{where}.{field}', value)
            scales_decay += [f'custom_keys.{key}.decay_mult'] if 'decay_mult' in factors else []
            self._warn_of_left_out(key, factors)
        for field, base, scaled in (('weight_decay', self.base_wd, scales_decay), ('lr', self.base_lr, scales_lr)):
            if scaled and base is None:
                raise ValueError(f'`optim_wrapper.optimizer.{field}` must be given with `paramwise_cfg.{scaled[0]}`')

    def _warn_of_left_out(self, key: str, factors: Mapping[str, Any]) -> None:
        """Say that what a key matches takes nothing from the other fields: so mmengine has it."""
        for kind in ('decay', 'lr'):
            others = [f for f in self.paramwise_cfg if f.endswith(f'_{kind}_mult') and self.paramwise_cfg[f] != 1]
            if others and f'{kind}_mult' not in factors:
                MMLogger.get_current_instance().warning(
                    f'`{_WHERE}.custom_keys.{key}` has no `{kind}_mult`, so what it matches has the factor 1, whatever '
                    f'{", ".join(f"`{field}`" for field in others)} say: mmengine takes all factors of a parameter '
                    f'from its key. Give it `{kind}_mult`'
                )

    def _fuse_on_cuda(self, model: nn.Module) -> None:
        """Let Adam, AdamW and SGD be torch's fused ones on CUDA, unless the config chooses another form (our choice).

        They are the fastest, and take or leave a step without the host; see :class:`mmpl.engine.GuardedOptimWrapper`.
        Not SGD with momentum: see :func:`mmpl.engine.optimizers.guarded_wrapper.leaves_steps_out`.
        """
        chosen = {'fused', 'foreach', 'capturable', 'differentiable'} & set(self.optimizer_cfg)
        can = self.optimizer_cfg['type'] in ('Adam', 'AdamW', 'SGD') and not self.optimizer_cfg.get('momentum')
        if can and not chosen and all(parameter.is_cuda for parameter in model.parameters()):
            self.optimizer_cfg = dict(self.optimizer_cfg, fused=True)

    def __call__(self, model: nn.Module) -> OptimWrapper:
        """Build the optimizer wrapper of a model, or of one that a wrapper holds as ``module``."""
        inner = model.module if hasattr(model, 'module') else model
        self._fuse_on_cuda(inner)
        check_custom_keys(self.paramwise_cfg.get('custom_keys', {}), (name for name, _ in inner.named_parameters()))
        wrapper = super().__call__(model)
        wrapper.optimizer.register_load_state_dict_pre_hook(refuse_other_groups)
        wrapper.optimizer.register_load_state_dict_pre_hook(keep_own_form)
        return wrapper

    def log_table(self, title: str, groups: Sequence[tuple[str, dict]], model: nn.Module) -> None:
        """Log the groups, each with a name, and how much is frozen in which part of the model."""
        lines = [title, f'{"group":<18}{"lr":>11}{"lr scale":>10}{"decay":>8}{"tensors":>9}{"parameters":>13}']
        for name, group in groups:
            lr, decay = group.get('lr', self.base_lr), group.get('weight_decay', self.base_wd)
            scale = lr / self.base_lr if self.base_lr else 1
            rate = f'{"-":>11}{"-":>10}' if lr is None else f'{lr:>11.3e}{scale:>10.4f}'
            count = sum(p.numel() for p in group['params'])
            lines.append(
                f'{name:<18}{rate}{"-" if decay is None else f"{decay:.3g}":>8}{len(group["params"]):>9}{count:>13,}'
            )
        tensors, sizes = Counter[str](), Counter[str]()
        for name, value in model.named_parameters():
            if not value.requires_grad:
                part = name.partition('.')[0]
                tensors[part] += 1
                sizes[part] += value.numel()
        lines += [f'{f"frozen: {part}":<47}{tensors[part]:>9}{sizes[part]:>13,}' for part in tensors]
        MMLogger.get_current_instance().info('\n'.join(lines))


def merge_groups(groups: Iterable[tuple[Hashable, dict]]) -> dict[Any, dict]:
    """Join parameter groups of one key, whose settings are the same, in the order in which the keys came first."""
    merged: dict[Any, dict] = {}
    for key, group in groups:
        params: list[Tensor] = merged.setdefault(key, dict(group, params=[]))['params']
        params += group['params']
    return merged


def check_custom_keys(custom_keys: Iterable[str], parameter_names: Iterable[str]) -> None:
    """Check that each key of ``paramwise_cfg.custom_keys`` is part of a parameter's name.

    The keys are substrings, as in mmengine; a key that matches nothing changes nothing, and mmengine does not say so.
    Frozen parameters count as matched: whether a parameter is trained is not this check's question.

    Raises:
        ValueError: A key matches no parameter. The message names the keys and the nearest names.
    """
    names = list(parameter_names)
    unmatched = [key for key in custom_keys if not any(key in name for name in names)]
    if not unmatched:
        return
    # Near matches are looked for among all dotted fragments of the names: a key is rarely a full name.
    fragments: dict[str, None] = {}
    for name in names:
        parts = name.split('.')
        for start in range(len(parts)):
            for stop in range(start + 1, min(start + 4, len(parts)) + 1):
                fragments.setdefault('.'.join(parts[start:stop]))
    lines = []
    for key in unmatched:
        near = difflib.get_close_matches(key.strip('.'), fragments, n=3, cutoff=0.6)
        hint = f'near matches: {near}' if near else f'first parameters: {names[:3]}'
        lines.append(f'  {key!r} ({hint})')
    raise ValueError(
        'paramwise_cfg.custom_keys has entries that match no parameter of the model '
        '(a key has to be a substring of a parameter name):\n' + '\n'.join(lines)
    )


_KINDS = ('betas', 'alpha', 'momentum')  # what groups of Adam, RMSprop and SGD have; schedules may add the last


def refuse_other_groups(optimizer: Optimizer, state_dict: dict) -> None:
    """Say what to do when a checkpoint's groups are others; a hook of ``Optimizer.load_state_dict``."""
    saved = [len(group['params']) for group in state_dict['param_groups']]
    own = [len(group['params']) for group in optimizer.param_groups]
    theirs, ours = (
        next((name for name in _KINDS if groups and name in groups[0]), 'none of them')
        for groups in (state_dict['param_groups'], optimizer.param_groups)
    )
    if theirs != ours:
        raise ValueError(
            f'the optimizer of the checkpoint has {theirs}, the {type(optimizer).__name__} of this run {ours}: '
            '`optim_wrapper.optimizer.type` has changed. To start from the weights of this checkpoint, set `load_from` '
            'to it and `resume=False`'
        )
    if saved != own:
        raise ValueError(
            f'the optimizer of the checkpoint has {len(saved)} parameter groups of {_shown(saved)} tensors, that of '
            f'this run {len(own)} of {_shown(own)}: `optim_wrapper.paramwise_cfg` or what is trained has changed. '
            'To start from the weights of this checkpoint, set `load_from` to it and `resume=False`'
        )


def keep_own_form(optimizer: Optimizer, state_dict: dict) -> dict:
    """Let a checkpoint that another form of the optimizer wrote go on in that of this run, as from CPU to CUDA.

    A hook of ``Optimizer.load_state_dict``, which would take the form from the checkpoint.
    """
    forms = ('fused', 'foreach', 'capturable')
    pairs = zip(state_dict['param_groups'], optimizer.param_groups, strict=True)
    groups = [saved | {form: own[form] for form in forms if form in own} for saved, own in pairs]
    return state_dict | dict(param_groups=groups)


def _shown(lengths: list[int]) -> str:
    return f'{lengths[:5]}'.replace(']', ', ...]' if len(lengths) > 5 else ']')
