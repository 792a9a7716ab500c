"""Logs files that were found bad, and stops the run if they are too many."""

from typing import Any

from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.runner import Runner

from mmpl.datasets.bad_files import BadDataError, BadFileReport, listing, losses, too_many
from mmpl.datasets.decode import loss
from mmpl.utils.dist import on_main
from mmpl.utils.fields import Share, checked


class BadFilesHook(Hook):
    """Reads, in the main process, the reports that the :class:`mmpl.datasets.GuardedDataset` of all processes write to.

    These are bad files, and what of good ones the loader leaves out.

    Args:
        report: Path of the report.
        max_share: Share of the dataset above which the run stops, with a
            :class:`mmpl.datasets.bad_files.BadDataError`; not for one file alone.
    """

    priority = 'VERY_HIGH'  # before anything is done with the batch

    @checked('train_cfg.bad_files')
    def __init__(self, report: str, max_share: Share) -> None:
        self.report = BadFileReport(report)
        self.max_share = max_share
        self._size = self._count = 0  # bytes, and files, that were read
        self.losses = losses(report)
        self._losses_size = self._losses_count = 0

    def before_train(self, runner: Runner) -> None:
        """Note what a run that is resumed knows already."""
        on_main(lambda: self._note(runner))
        self._say_losses(runner)

    def _note(self, runner: Runner) -> None:
        self._size, self._count = self.report.size(), len(self.report.read())
        if self._count:
            runner.logger.warning(f'{self._count} bad files are known from before, see {self.report.path}')
            self._judge(runner, self.report.read())

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """Look whether any process has found more."""
        self._report_new(runner)

    def after_train_epoch(self, runner: Runner) -> None:
        """The same, for the last batches."""
        self._report_new(runner)

    def _say_losses(self, runner: Runner) -> None:
        size = self.losses.size() if is_main_process() else 0
        if size == self._losses_size:
            return
        entries = self.losses.read()
        for entry in entries[self._losses_count :]:
            runner.logger.warning(loss(entry['path'], entry['lost']))
        self._losses_size, self._losses_count = size, len(entries)

    def _report_new(self, runner: Runner) -> None:
        self._say_losses(runner)
        size = self.report.size() if is_main_process() else self._size
        if size == self._size:
            return
        entries = self.report.read()
        for entry in entries[self._count :]:
            runner.logger.warning(f'Bad file {entry["path"]!r}: {entry["reason"]}. It is replaced from now on.')
        self._size, self._count = size, len(entries)
        self._judge(runner, entries)

    def _judge(self, runner: Runner, entries: list[dict]) -> None:
        total = len(runner.train_dataloader.dataset)
        if too_many(len(entries), total, self.max_share):
            raise BadDataError(
                f'{len(entries)} of {total} images are bad, more than `train_cfg.bad_files.max_share` '
                f'{self.max_share} allows. Mend or remove them (tools/check_dataset.py finds all of them), delete '
                f'{self.report.path}, and resume:\n{listing(entries)}'
            )
