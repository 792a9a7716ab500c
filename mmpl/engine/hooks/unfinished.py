"""What is measured at the end of an epoch, and was cut off: it is made up for when the run goes on."""

from contextlib import suppress
from pathlib import Path

from mmengine.dist import broadcast_object_list, is_main_process
from mmengine.hooks import Hook
from mmengine.runner import Runner

from mmpl.checkpoints.files import write_text
from mmpl.utils.preemption import Preempted


class Unfinished:
    """A file in the work folder that is there while something is measured, and says at which iteration.

    Args:
        what: Names the file.
    """

    def __init__(self, what: str) -> None:
        self.name = f'.unfinished_{what}'

    def begin(self, runner: Runner, iteration: int) -> None:
        """Note that it has begun when so many iterations were done."""
        if is_main_process():
            with suppress(OSError):  # a full disk
                write_text(Path(runner.work_dir, self.name), str(iteration))

    def end(self, runner: Runner) -> None:
        """Note that it has ended."""
        if is_main_process():
            with suppress(OSError):
                Path(runner.work_dir, self.name).unlink(missing_ok=True)

    def was_cut(self, runner: Runner) -> bool:
        """Whether it was cut off where the run goes on now; asked for once, so that what fails is not tried forever."""
        path, told = Path(runner.work_dir, self.name), [False]
        if is_main_process() and path.is_file():
            with suppress(OSError):
                told = [path.read_text(encoding='utf-8').strip() == str(runner.iter) and runner.iter > 0]
        self.end(runner)
        broadcast_object_list(told)
        return told[0]


class UnfinishedValidationHook(Hook):
    """Validates at the start of a run that was killed in the validation of the epoch that it goes on behind."""

    priority = 'LOWEST'

    def __init__(self) -> None:
        self._unfinished = Unfinished('validation')
        self._training = False

    def before_train(self, runner: Runner) -> None:
        """Make up for the validation."""
        if self._unfinished.was_cut(runner) and runner.val_loop is not None:
            runner.logger.warning(f'The validation after epoch {runner.epoch} was cut off: it is made now.')
            try:
                runner.val_loop.run()
            except Preempted:
                self._unfinished.begin(runner, runner.iter)
                raise
        self._training = True

    def after_train(self, runner: Runner) -> None:
        """Leave validations after the training alone."""
        self._training = False

    def before_val(self, runner: Runner) -> None:
        """Note that a validation has begun."""
        if self._training:
            self._unfinished.begin(runner, runner.iter)

    def after_val(self, runner: Runner) -> None:
        """Note that it has ended."""
        if self._training:
            self._unfinished.end(runner)
