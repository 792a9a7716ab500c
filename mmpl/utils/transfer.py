"""Numbers between host and device, without waiting."""

from typing import Any

import torch
from torch import Tensor


def reading_waits(device: torch.device) -> bool:
    """Whether the host waits for a device to read a number from it; then it decides without, or reads later."""
    return device.type == 'cuda'


def to_device(tensor: Tensor, device: torch.device | str) -> Tensor:
    """A tensor on a device; the host goes on while it is copied, from pinned memory."""
    if torch.device(device).type == 'cuda' and tensor.device.type == 'cpu':
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)


class Late:
    """Numbers on their way to the host.

    Args:
        numbers: (...). On the CPU they are there already.
    """

    def __init__(self, numbers: Tensor) -> None:
        self._numbers = numbers.to('cpu', non_blocking=True)  # from CUDA into pinned memory
        self._arrived: Any = None
        if numbers.is_cuda:
            self._arrived = torch.cuda.Event()
            self._arrived.record()

    def read(self) -> Any:
        """The numbers, in lists as they were shaped; waits until they have arrived."""
        if self._arrived is not None:
            self._arrived.synchronize()
        return self._numbers.tolist()
