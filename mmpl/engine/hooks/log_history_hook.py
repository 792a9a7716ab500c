"""Logged numbers are kept for as long as the log looks back, not for the whole run."""

from typing import Any

import torch
from mmengine.hooks import Hook
from mmengine.logging import HistoryBuffer, MessageHub
from mmengine.runner import LogProcessor, Runner
from torch import Tensor

from mmpl.registry import HOOKS
from mmpl.utils import transfer

MIN_LENGTH = 200
"""Values kept at least (our choice), for hooks that look back by themselves."""


@HOOKS.register_module()
class LogHistoryHook(Hook):
    """Bounds mmengine's histories of training scalars; :class:`mmpl.engine.ExactEpochLoop` brings it along.

    mmengine keeps a million values of each scalar, copies all of them whenever one is added, and puts them into every
    checkpoint. What is logged needs no more than the widest window of the log processor: with ``'epoch'`` an epoch;
    with ``'global'``, or a window left out, everything is kept, as in mmengine.
    """

    priority = 'LOWEST'  # the first time behind all that log a scalar

    def __init__(self) -> None:
        self._max_length: int | None = None

    def before_train(self, runner: Runner) -> None:
        """Look at the log's windows."""
        window = widest_window(runner.log_processor, len(runner.train_dataloader))
        self._max_length = None if window is None else max(window, MIN_LENGTH)

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Bound those that are new, or come from a checkpoint; they shorten themselves at their next value."""
        if self._max_length is None:
            return
        for name, history in runner.message_hub._log_scalars.items():  # `log_scalars` fetches what is on the device
            if name.startswith('train/'):
                history.max_length = self._max_length


class LateMessageHub(MessageHub):
    """mmengine's, but numbers that are on a device stay there until somebody reads one; then all travel at once."""

    _late: list[tuple[str, Tensor, int, bool]]

    def update_scalar(self, key: str, value: Any, count: int = 1, resumed: bool = True) -> None:
        """Add a number to a history; as in mmengine."""
        if isinstance(value, Tensor) and transfer.reading_waits(value.device):
            self._late.append((key, value.detach().reshape(()), count, resumed))
        else:
            super().update_scalar(key, value, count, resumed)

    def fetch(self) -> None:
        """Bring what is on the device into the histories."""
        late, self._late = self._late, []
        if late:
            numbers = torch.stack([value.double() for _, value, _, _ in late]).tolist()
            for number, (key, _, count, resumed) in zip(numbers, late, strict=True):
                super().update_scalar(key, number, count, resumed)

    @property
    def log_scalars(self) -> Any:
        """All histories by name."""
        self.fetch()
        return super().log_scalars

    def get_scalar(self, key: str) -> HistoryBuffer:
        """One history."""
        here = key in self._log_scalars and all(name != key for name, _, _, _ in self._late)
        return self._log_scalars[key] if here else super().get_scalar(key)

    def state_dict(self) -> dict:
        """As in mmengine."""
        self.fetch()
        return super().state_dict()


def fetch_late(hub: MessageHub) -> None:
    """Make a message hub, which mmengine hands to everybody, one that does not wait for each number."""
    hub.__class__ = LateMessageHub
    hub._late = []


def widest_window(processor: LogProcessor, epoch_length: int) -> int | None:
    """How many values of a scalar the log looks back; None if all of the run."""
    windows = [entry.get('window_size') for entry in processor.custom_cfg]
    lengths = [epoch_length if window == 'epoch' else window for window in windows]
    return max([processor.window_size, *lengths]) if all(isinstance(length, int) for length in lengths) else None
