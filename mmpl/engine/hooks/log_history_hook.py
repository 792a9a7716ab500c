"""Logged numbers are kept for as long as the log looks back, not for the whole run."""

from typing import Any

from mmengine.hooks import Hook
from mmengine.runner import LogProcessor, Runner

from mmpl.registry import HOOKS

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
        for name, history in runner.message_hub.log_scalars.items():
            if name.startswith('train/'):
                history.max_length = self._max_length


def widest_window(processor: LogProcessor, epoch_length: int) -> int | None:
    """How many values of a scalar the log looks back; None if all of the run."""
    windows = [entry.get('window_size') for entry in processor.custom_cfg]
    lengths = [epoch_length if window == 'epoch' else window for window in windows]
    return max([processor.window_size, *lengths]) if all(isinstance(length, int) for length in lengths) else None
