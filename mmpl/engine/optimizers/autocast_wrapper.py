"""Mixed precision without a loss scaler, on CPU and CUDA alike."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import nn

from mmpl.registry import OPTIM_WRAPPERS
from mmpl.utils.fields import checked

from .guarded_wrapper import GuardedOptimWrapper


@OPTIM_WRAPPERS.register_module()
class AutocastOptimWrapper(GuardedOptimWrapper):
    """Runs the model under ``torch.autocast`` in bf16.

    bf16 has the exponents of fp32, so no loss needs scaling and no step is lost to an overflow. mmengine's
    ``AmpOptimWrapper`` scales losses and refuses to run without a GPU; for fp16 use that one and leave
    :class:`mmpl.engine.NonFiniteHook` out of ``custom_hooks``: it wants a :class:`mmpl.engine.GuardedOptimWrapper`,
    and a scaled loss overflows now and then by design.

    Args:
        dtype: ``'float32'`` switches autocast off.
        **kwargs: As :class:`mmpl.engine.GuardedOptimWrapper`, which refuses steps with NaN or Inf.
    """

    @checked('optim_wrapper')
    def __init__(self, dtype: Literal['bfloat16', 'float32'] = 'bfloat16', **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.dtype = getattr(torch, dtype)

    @contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        """Autocast on the device that the model is on, around mmengine's own context."""
        device = next(model.parameters()).device.type
        with super().optim_context(model), torch.autocast(device, self.dtype, enabled=self.dtype != torch.float32):
            yield
