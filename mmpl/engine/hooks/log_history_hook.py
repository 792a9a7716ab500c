"""Logged numbers are kept for as long as the log looks back, not for the whole run."""

from typing import Any

from mmengine.hooks import Hook
from mmengine.runner import LogProcessor, Runner

from mmpl.registry import HOOKS
from mmpl.utils.fields import check_number


@HOOKS.register_module()
class LogHistoryHook(Hook):
    """Bounds mmengine's histories of training scalars; :class:`mmpl.engine.ExactEpochLoop` brings it along.

    mmengine keeps a million values of each scalar, copies all of them whenever one is added, and puts them into every
    checkpoint. What is logged needs no more than the widest window of the log processor: with ``'epoch'`` an epoch;
    with ``'global'``, or a window left out, everything is kept, as in mmengine.

    Args:
        min_length (int): Kept at least, for hooks that look back by themselves. Defaults to 200 (our choice).

    Raises:
        TypeError: ``min_length`` is no integer.
        ValueError: ``min_length`` is below 1.
    """

    priority = 'LOWEST'  # the first time behind all that log a scalar

    def __init__(self, min_length: int = 200) -> None:
        check_number('min_length', min_length, 1, integer=True)
        self.min_length = min_length
        self._max_length: int | None = None

    def before_train(self, runner: Runner) -> None:
        """Look at the log's windows."""
        window = widest_window(runner.log_processor, len(runner.train_dataloader))
        self._max_length = None if window is None else max(window, self.min_length)

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Bound those that are new, or come from a checkpoint; they shorten themselves at their next value."""
        if self._max_length is None:
            return
        for name, history in runner.message_hub.log_scalars.items():
            if name.startswith('train/'):
                history.max_length = self._max_length


def widest_window(processor: LogProcessor, epoch_length: int) -> int | None:
    """How many values of a scalar the log looks back.

    Args:
        processor (LogProcessor): The runner's.
        epoch_length (int): Iterations of an epoch.

    Returns:
        int | None: None if all of the run.
    """
    widest = processor.window_size
    for entry in processor.custom_cfg:
        window = entry.get('window_size')
        if window == 'epoch':
            window = epoch_length
        if not isinstance(window, int):
            return None
        widest = max(widest, window)
    return widest
