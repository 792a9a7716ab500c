"""Mixed precision without a loss scaler, on CPU and CUDA alike."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
from mmengine.logging import MMLogger
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
        self._looked = False

    def _warn_of_emulation(self, device: str) -> None:
        """Say once that a GPU has no bf16 of its own: torch computes it without a word, several times slower."""
        if self._looked or device != 'cuda' or self.dtype == torch.float32:
            return
        self._looked = True
        if torch.cuda.is_available() and not torch.cuda.is_bf16_supported(including_emulation=False):
            MMLogger.get_current_instance().warning(
                f"`optim_wrapper.dtype` 'bfloat16' is emulated on {torch.cuda.get_device_name()}, which is slow: take "
                "'float32', or mmengine's AmpOptimWrapper in fp16 without NonFiniteHook"
            )

    @contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        """Autocast on the device that the model is on, around mmengine's own context."""
        device = next(model.parameters()).device.type
        self._warn_of_emulation(device)
        with super().optim_context(model), torch.autocast(device, self.dtype, enabled=self.dtype != torch.float32):
            yield
