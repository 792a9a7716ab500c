"""An optimizer wrapper constructor that refuses ``custom_keys`` without effect."""

import difflib
import logging
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from mmengine.logging import MMLogger
from mmengine.optim import DefaultOptimWrapperConstructor, OptimWrapper
from torch import Tensor, nn

from mmpl.registry import OPTIM_WRAPPER_CONSTRUCTORS
from mmpl.utils.fields import check_choice, check_number, check_part

from .param_groups import group_table, merge_groups, refuse_other_groups, settings_of

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


@contextmanager
def _without_lines_of_each_tensor() -> Iterator[None]:
    """Keep mmengine from a line for each tensor that is frozen or has settings of its own."""

    def wanted(record: logging.LogRecord) -> bool:
        message = record.getMessage()
        return not message.startswith('paramwise_options -- ') and 'since its requires_grad=False' not in message

    logger = MMLogger.get_current_instance()
    logger.addFilter(wanted)
    try:
        yield
    finally:
        logger.removeFilter(wanted)


class _ClipInOrder:
    """Clips gradients in the model's order, so that the sum of their norms does not depend on the groups."""

    def __init__(self, clip: Any, model: nn.Module) -> None:
        self.clip = clip
        self.order = {id(p): i for i, p in enumerate(model.parameters())}

    def __call__(self, params: Iterable[Tensor], **kwargs: Any) -> Any:
        return self.clip(sorted(params, key=lambda p: self.order.get(id(p), len(self.order))), **kwargs)


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class StrictOptimWrapperConstructor(DefaultOptimWrapperConstructor):
    """mmengine's default constructor, with unmatched ``custom_keys`` as an error, and few groups.

    Takes the same ``paramwise_cfg`` as :class:`mmengine.optim.DefaultOptimWrapperConstructor`, and gives each parameter
    the same settings, but one group to all of equal settings instead of one to each tensor: ``fused`` and ``foreach``
    optimizers work group by group. The weights come out the same to the last bit; gradients are clipped in the model's
    order. The groups are logged as a table.

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

    def add_params(self, params: list[dict], module: nn.Module, prefix: str = '', is_dcn_module: Any = None) -> None:
        """Sort the trainable parameters into groups of equal settings.

        Args:
            params: Groups for the optimizer, filled in place.
            module: The model; or, when mmengine descends into it, a part.
            prefix: The part's name; empty for the model.
            is_dcn_module: mmengine's.

        Raises:
            ValueError: A parameter occurs twice.
        """
        if prefix:
            super().add_params(params, module, prefix=prefix, is_dcn_module=is_dcn_module)
            return
        single: list[dict] = []
        with _without_lines_of_each_tensor():
            super().add_params(single, module, is_dcn_module=is_dcn_module)
        if len({id(p) for group in single for p in group['params']}) < len(single):
            raise ValueError(
                'a parameter occurs in several places of the model: set '
                '`optim_wrapper.paramwise_cfg.bypass_duplicate=True` to take the settings of the first'
            )
        params.extend(merge_groups((settings_of(group), group) for group in single).values())
        rows = [(f'{number}', group) for number, group in enumerate(params)]
        frozen = [(name, p) for name, p in module.named_parameters() if not p.requires_grad]
        MMLogger.get_current_instance().info(group_table('Parameter groups:', rows, self.base_lr, self.base_wd, frozen))

    def __call__(self, model: nn.Module) -> OptimWrapper:
        """Build the optimizer wrapper.

        Args:
            model: The model, or a wrapper of it that holds it as ``module``.

        Raises:
            ValueError: An entry of ``custom_keys`` matches no parameter, or a parameter occurs twice.
        """
        inner = model.module if hasattr(model, 'module') else model
        custom_keys = self.paramwise_cfg.get('custom_keys', {})
        check_custom_keys(custom_keys, (name for name, _ in inner.named_parameters()))
        wrapper = super().__call__(model)
        if hasattr(wrapper, 'clip_func'):
            wrapper.clip_func = _ClipInOrder(wrapper.clip_func, inner)
        wrapper.optimizer.register_load_state_dict_pre_hook(refuse_other_groups)
        return wrapper
