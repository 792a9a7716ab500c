"""An optimizer wrapper constructor that refuses ``custom_keys`` without effect."""

import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from mmengine.logging import MMLogger
from mmengine.optim import OptimWrapper
from torch import Tensor, nn

from mmpl.registry import OPTIM_WRAPPER_CONSTRUCTORS

from .param_groups import CustomKeys, GroupingConstructor, merge_groups


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class StrictOptimWrapperConstructor(GroupingConstructor):
    """mmengine's default constructor, with unmatched ``custom_keys`` as an error, and few groups.

    Takes the same ``paramwise_cfg`` as :class:`mmengine.optim.DefaultOptimWrapperConstructor`, and gives each parameter
    the same settings, but one group to all of equal settings instead of one to each tensor. The weights come out the
    same to the last bit; gradients are clipped in the model's order. The groups are logged as a table.

    Example:
        >>> optim_wrapper = dict(
        ...     constructor='mmpl.StrictOptimWrapperConstructor',
        ...     optimizer=dict(type='AdamW', lr=1.5e-4, weight_decay=0.05),
        ...     paramwise_cfg=dict(custom_keys={'ln': dict(decay_mult=0.0), 'bias': dict(decay_mult=0.0)}),
        ... )
    """

    fields = dict(
        bias_decay_mult=float,
        bias_lr_mult=float,
        bypass_duplicate=bool,
        custom_keys=CustomKeys,
        dcn_offset_lr_mult=float,
        dwconv_decay_mult=float,
        flat_decay_mult=float,
        norm_decay_mult=float,
    )

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
        params.extend(merge_groups((_settings(group), group) for group in single).values())
        self.log_table('Parameter groups:', [(f'{i}', group) for i, group in enumerate(params)], module)

    def __call__(self, model: nn.Module) -> OptimWrapper:
        """Build the optimizer wrapper of a model, or of one that a wrapper holds as ``module``."""
        wrapper = super().__call__(model)
        if hasattr(wrapper, 'clip_func'):
            inner = model.module if hasattr(model, 'module') else model
            wrapper.clip_func = _ClipInOrder(wrapper.clip_func, inner)
        return wrapper


def _settings(group: dict) -> tuple:
    """What a group says beside its parameters, as a key."""
    return tuple(sorted((key, value) for key, value in group.items() if key != 'params'))


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
        self.model = model  # the parameters may become shards later

    def __call__(self, params: Iterable[Tensor], **kwargs: Any) -> Any:
        order = {id(p): i for i, p in enumerate(self.model.parameters())}
        return self.clip(sorted(params, key=lambda p: order.get(id(p), len(order))), **kwargs)
