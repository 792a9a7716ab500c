"""An optimizer wrapper constructor that refuses ``custom_keys`` without effect."""

import difflib
from collections.abc import Iterable, Mapping
from typing import Any

from mmengine.optim import DefaultOptimWrapperConstructor, OptimWrapper
from torch import nn

from mmpl.registry import OPTIM_WRAPPER_CONSTRUCTORS
from mmpl.utils.checks import check_choice, check_number, check_part

_PARAMWISE_FIELDS = (
    'bias_decay_mult',
    'bias_lr_mult',
    'bypass_duplicate',
    'custom_keys',
    'dcn_offset_lr_mult',
    'dwconv_decay_mult',
    'flat_decay_mult',
    'norm_decay_mult',
)


def check_custom_keys(custom_keys: Iterable[str], parameter_names: Iterable[str]) -> None:
    """Check that each key of ``paramwise_cfg.custom_keys`` is part of a parameter's name.

    The keys are substrings, as in mmengine; a key that matches nothing changes nothing, and mmengine does not say so.
    Frozen parameters count as matched: whether a parameter is trained is not this check's question.

    Args:
        custom_keys: The keys of ``paramwise_cfg.custom_keys``.
        parameter_names: Full names of the model's parameters.

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


def check_multipliers(paramwise_cfg: Any) -> None:
    """Check that the fields of ``paramwise_cfg`` exist and its factors are numbers.

    Args:
        paramwise_cfg: As of :class:`mmengine.optim.DefaultOptimWrapperConstructor`.

    Raises:
        TypeError: A factor is no number, or ``custom_keys`` is no dict of dicts.
        ValueError: A factor is not finite, or a field does not exist.
    """
    if not isinstance(paramwise_cfg, Mapping):
        raise TypeError(f'`optim_wrapper.paramwise_cfg` must be a dict, but got {paramwise_cfg!r}')
    for field, value in paramwise_cfg.items():
        check_choice('optim_wrapper.paramwise_cfg', field, _PARAMWISE_FIELDS)
        if field.endswith('_mult'):
            check_number(f'optim_wrapper.paramwise_cfg.{field}', value)
    custom_keys = paramwise_cfg.get('custom_keys', {})
    where = 'optim_wrapper.paramwise_cfg.custom_keys'
    if not isinstance(custom_keys, Mapping):
        raise TypeError(f'`{where}` must be a dict, but got {custom_keys!r}')
    for key, factors in custom_keys.items():
        if not isinstance(factors, Mapping):
            raise TypeError(f'`{where}.{key}` must be a dict such as dict(decay_mult=0.0), but got {factors!r}')
        for field, value in factors.items():
            check_choice(f'{where}.{key}', field, ('lr_mult', 'decay_mult'))
            check_number(f'{where}.{key}.{field}', value)


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class StrictOptimWrapperConstructor(DefaultOptimWrapperConstructor):
    """mmengine's default constructor, with unmatched ``custom_keys`` as an error.

    Takes the same ``paramwise_cfg`` as :class:`mmengine.optim.DefaultOptimWrapperConstructor`.

    Example:
        >>> optim_wrapper = dict(
        ...     constructor='mmpl.StrictOptimWrapperConstructor',
        ...     optimizer=dict(type='AdamW', lr=1.5e-4, weight_decay=0.05),
        ...     paramwise_cfg=dict(custom_keys={'ln': dict(decay_mult=0.0), 'bias': dict(decay_mult=0.0)}),
        ... )
    """

    def __init__(self, optim_wrapper_cfg: dict, paramwise_cfg: dict | None = None) -> None:
        optimizer: Any = optim_wrapper_cfg.get('optimizer')
        check_part('optim_wrapper.optimizer', optimizer, "dict(type='AdamW')")
        for field in ('lr', 'weight_decay'):  # what the factors of paramwise_cfg scale
            if optimizer.get(field) is not None:
                check_number(f'optim_wrapper.optimizer.{field}', optimizer[field], 0)
        super().__init__(optim_wrapper_cfg, paramwise_cfg)

    def _validate_cfg(self) -> None:
        check_multipliers(self.paramwise_cfg)
        factors = [field for field in self.paramwise_cfg if field.endswith('decay_mult')]
        if factors and self.base_wd is None:
            raise ValueError(f'`optim_wrapper.optimizer.weight_decay` must be given with `paramwise_cfg.{factors[0]}`')
        scaled = [field for field in self.paramwise_cfg if field.endswith('lr_mult') or field == 'custom_keys']
        if scaled and self.base_lr is None:
            raise ValueError(f'`optim_wrapper.optimizer.lr` must be given with `paramwise_cfg.{scaled[0]}`')
        super()._validate_cfg()

    def __call__(self, model: nn.Module) -> OptimWrapper:
        """Build the optimizer wrapper.

        Args:
            model: The model, or a wrapper of it that holds it as ``module``.

        Raises:
            ValueError: An entry of ``custom_keys`` matches no parameter.
        """
        inner = model.module if hasattr(model, 'module') else model
        custom_keys = self.paramwise_cfg.get('custom_keys', {})
        check_custom_keys(custom_keys, (name for name, _ in inner.named_parameters()))
        return super().__call__(model)
