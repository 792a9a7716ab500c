"""Checkpoints that survive kills, damage, preemption and full disks."""

import gc
import os
import signal
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.dist import all_reduce, barrier, broadcast_object_list, get_world_size, is_main_process
from mmengine.hooks import CheckpointHook
from mmengine.optim import OptimWrapper
from mmengine.runner import Runner

from mmpl.checkpoints import files as checkpoint_files
from mmpl.compat import forbid_unsafe_load
from mmpl.registry import HOOKS
from mmpl.utils.fields import check_choice, check_number
from mmpl.utils.preemption import EXIT_REQUEUE, Preempted

_WORKER_GRACE = 60  # seconds that data loader workers live on after a signal, for the main process to save


@HOOKS.register_module()
class SafeCheckpointHook(CheckpointHook):
    """mmengine's hook, with files that are whole or not there.

    - A file is written under a temporary name, synced, recorded with its SHA-256 (``epoch_3.pth.sha256``, as
      ``sha256sum -c`` reads it) and renamed; the pointer ``last_checkpoint`` moves after that, and older files are
      removed last.
    - A run that resumes by itself takes the newest whole file and warns of damaged ones; if all are damaged it stops
      instead of starting anew.
    - mmengine reads ``resume=True`` with ``load_from`` as "resume *from* that file", its iteration included. The log
      says so, and a file of another run that is at its end already is refused: nothing would be trained.
    - Amid the accumulation of gradients nothing is saved; it waits for the optimizer's step.
    - At one of ``signals`` it saves after the step under way and leaves with ``exit_code``.

    Args:
        interval (int): As in mmengine: a checkpoint every that many epochs, or iterations with ``by_epoch=False``.
        by_epoch (bool): As in mmengine.
        iter_interval (int): With ``by_epoch=True``, a checkpoint every that many iterations as well; -1 for none.
        max_keep_iter_ckpts (int): How many of those to keep, at least 1. Defaults to 2, so that one is left if the
            newest is damaged.
        signals (Sequence[str]): Signals that ask to save and leave, as Slurm sends them before it preempts a job or
            its time is up. Defaults to SIGTERM and SIGUSR1.
        exit_code (int): Exit code then. Defaults to 75 (EX_TEMPFAIL of sysexits.h: try again).
        on_save_error (str): When a checkpoint cannot be written, such as on a full disk: ``'raise'``, or
            ``'continue'`` with an error in the log. The last good file stays in either case.
        **kwargs: As in mmengine, such as ``max_keep_ckpts`` and ``save_best``. ``out_dir`` must be a local folder.

    Raises:
        TypeError: A field has the wrong type.
        ValueError: A field is outside of what is allowed.
    """

    def __init__(
        self,
        interval: int = -1,
        by_epoch: bool = True,
        iter_interval: int = -1,
        max_keep_iter_ckpts: int = 2,
        signals: Sequence[str] = ('SIGTERM', 'SIGUSR1'),
        exit_code: int = EXIT_REQUEUE,
        on_save_error: str = 'raise',
        **kwargs: Any,
    ) -> None:
        check_number('checkpoint.interval', interval, -1, integer=True)
        check_choice('checkpoint.by_epoch', by_epoch, (True, False))
        check_number('checkpoint.iter_interval', iter_interval, -1, integer=True)
        check_number('checkpoint.max_keep_iter_ckpts', max_keep_iter_ckpts, 1, integer=True)
        check_number('checkpoint.max_keep_ckpts', kwargs.get('max_keep_ckpts', -1), -1, integer=True)
        check_number('checkpoint.exit_code', exit_code, 0, 255, integer=True)
        check_choice('checkpoint.on_save_error', on_save_error, ('raise', 'continue'))
        for name in signals:
            check_choice('checkpoint.signals', name, [s.name for s in signal.Signals])
        if iter_interval > 0 and not by_epoch:
            raise ValueError(
                f'`checkpoint.iter_interval` must be left out with `by_epoch=False`, whose `interval` counts '
                f'iterations, but got {iter_interval}'
            )
        super().__init__(interval=interval, by_epoch=by_epoch, **kwargs)
        if '://' in str(self.out_dir or '') or '://' in str(kwargs.get('backend_args') or ''):
            raise ValueError(f'`checkpoint.out_dir` must be a local folder, but got {self.out_dir!r}')
        self.iter_interval = iter_interval
        self.max_keep_iter_ckpts = max_keep_iter_ckpts
        self.signals = tuple(signals)
        self.exit_code = exit_code
        self.on_save_error = on_save_error
        self._foreign = ''  # file of another run that this one is resumed from
        self._signal: int | None = None
        self._handlers: dict[int, Any] = {}
        self._due: set[str] = set()
        self._kept_iters: list[int] = []

    # ------------------------------------------------------------------ resuming

    def before_run(self, runner: Runner) -> None:
        """Forbid checkpoints to run code, and choose the one that a run resumes from by itself.

        Raises:
            RuntimeError: There are checkpoints, and all of them are damaged.
        """
        if os.environ.get('TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD') != '1':  # by --trust, or by who starts another train.py
            forbid_unsafe_load()  # also where another project's train.py runs
        if not runner._resume or runner._has_loaded:
            return
        if runner._load_from is not None:
            self._note_given(runner, str(runner._load_from))
            return
        choice: list[Any] = [None, []]
        if is_main_process():
            choice = list(checkpoint_files.find_whole_checkpoint(self._folder(runner)))
        broadcast_object_list(choice)
        path, passed = choice
        for line in passed:
            runner.logger.warning(f'Damaged checkpoint passed over: {line}')
        if path is None and passed:
            raise RuntimeError(
                'the run cannot be resumed, all of its checkpoints are damaged (move them away to start anew):\n  '
                + '\n  '.join(passed)
            )
        runner._load_from = path

    def _note_given(self, runner: Runner, path: str) -> None:
        """Say what it means that a run is resumed from a given file, unless it is one of its own."""
        folder = self._folder(runner)
        if Path(path).resolve().parent == Path(folder).resolve():
            return
        self._foreign = path
        own = is_main_process() and checkpoint_files.candidates(folder)
        runner.logger.warning(
            f'`resume=True` with `load_from` resumes from {path}: weights, optimizer, epoch and iteration. To start '
            'from its weights alone, set `resume=False`.'
            + (f' The checkpoints in {folder} are left aside; `load_from=None` goes on from them.' if own else '')
        )

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Refuse to resume from another run's file when nothing is left to be trained.

        Raises:
            RuntimeError: The checkpoint is at the end of this run, or behind it.
        """
        if not (runner._resume and self._foreign):
            return
        meta = checkpoint.get('meta', {})
        if meta.get('epoch', 0) >= runner.max_epochs or meta.get('iter', 0) >= runner.max_iters:
            raise RuntimeError(
                f'`resume=True` resumes from `load_from` {self._foreign} at epoch {meta.get("epoch")}, iteration '
                f'{meta.get("iter")}, but the run has {runner.max_epochs} epochs, {runner.max_iters} iterations: '
                'nothing would be trained. To start from the weights of this checkpoint, set `resume=False`'
            )

    def _folder(self, runner: Runner) -> str:
        return checkpoint_files.checkpoint_folder(runner.work_dir, self.out_dir)

    # ------------------------------------------------------------------ training

    def before_train(self, runner: Runner) -> None:
        """Prepare the folder and listen to signals."""
        super().before_train(runner)
        object.__setattr__(runner.cfg, '__class__', _FormattedOnce)  # Config's own writes into the config
        info = runner.message_hub.runtime_info
        self.keep_ckpt_ids = deque(info.get('keep_ckpt_ids', []))
        self._kept_iters = list(info.get('keep_iter_ckpt_ids', []))
        if is_main_process():
            for stale in Path(self.out_dir).glob('.*.tmp'):
                stale.unlink(missing_ok=True)
        main_process = os.getpid()
        self._signal = None

        def note(number: int, frame: Any) -> None:
            if os.getpid() == main_process:
                self._signal = number
            else:  # a data loader worker: the main process needs it until it has saved; a second signal ends it
                signal.signal(number, signal.SIG_DFL)
                signal.signal(signal.SIGALRM, signal.SIG_DFL)
                signal.alarm(_WORKER_GRACE)

        for name in self.signals:
            number = signal.Signals[name]
            try:
                self._handlers[number] = signal.signal(number, note)
            except ValueError:  # only the main thread may
                runner.logger.warning(f'{name} is not listened to: training does not run in the main thread')

    def after_train(self, runner: Runner) -> None:
        """Leave the signals alone again."""
        super().after_train(runner)
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        self._handlers = {}

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: dict | None = None
    ) -> None:
        """Save what is due, and leave if a signal asked for it; both at an optimizer step only."""
        last = self.save_last and self.is_last_train_iter(runner)
        if not self.by_epoch and (last or self.every_n_train_iters(runner, self.interval, self.save_begin)):
            self._due.add('main')
        if self.every_n_train_iters(runner, self.iter_interval):
            self._due.add('iter')
        if not _at_step(runner):
            return
        leave = self._told_to_leave()
        if 'main' in self._due:
            step = runner.epoch if self.by_epoch else runner.iter + 1
            self._save_main(runner, step, dict(epoch=runner.epoch, iter=runner.iter + 1))
        elif 'iter' in self._due or leave:
            self.save_now(runner)
        self._due.clear()
        if leave:
            self._leave(runner)

    def after_train_epoch(self, runner: Runner) -> None:
        """Save if an epoch's checkpoint is due; amid an accumulation, after the next optimizer step."""
        last = self.save_last and self.is_last_train_epoch(runner)
        if not self.by_epoch or not (last or self.every_n_epochs(runner, self.interval, self.save_begin)):
            return
        if _at_step(runner):
            self._save_main(runner, runner.epoch + 1, dict(epoch=runner.epoch + 1, iter=runner.iter))
        else:
            self._due.add('main')

    def save_now(self, runner: Runner) -> bool:
        """Save ``iter_<n>.pth`` after an iteration.

        Args:
            runner (Runner): The runner, after its optimizer's step.

        Returns:
            bool: Whether it could be written.
        """
        step = runner.iter + 1
        meta = dict(epoch=runner.epoch, iter=step)
        if not self.by_epoch:
            return self._save_main(runner, step, meta)
        kept = [old for old in self._kept_iters if old != step] + [step]
        drop = kept[: -self.max_keep_iter_ckpts]
        if not self._save_file(runner, f'iter_{step}.pth', meta, 'keep_iter_ckpt_ids', kept, drop, 'iter_{}.pth'):
            return False
        self._kept_iters = kept[len(drop) :]
        return True

    def _save_main(self, runner: Runner, step: int, meta: dict) -> bool:
        kept = [old for old in self.keep_ckpt_ids if old != step] + [step]
        drop = kept[: -self.max_keep_ckpts] if self.max_keep_ckpts > 0 else []
        name = self.filename_tmpl.format(step)
        if not self._save_file(runner, name, meta, 'keep_ckpt_ids', kept, drop, self.filename_tmpl):
            return False
        self.keep_ckpt_ids = deque(kept[len(drop) :])
        return True

    def _save_checkpoint_with_step(self, runner: Runner, step: int, meta: dict) -> None:
        self._save_main(runner, step, meta)  # mmengine calls it once more for a new best checkpoint

    def _save_file(
        self, runner: Runner, name: str, meta: dict, key: str, kept: list[int], drop: list[int], template: str
    ) -> bool:
        """Write a checkpoint, then remove old ones.

        The list in the message hub still has those that are about to be removed: a run that is killed in between
        removes them when it resumes.
        """
        runner.logger.info(f'Saving {name} at epoch {meta["epoch"]}, iteration {meta["iter"]}')
        path = str(Path(self.out_dir, name))
        before = {k: runner.message_hub.runtime_info.get(k) for k in (key, 'last_ckpt')}
        runner.message_hub.update_info_dict({key: list(kept), 'last_ckpt': path})
        temporary = Path(self.out_dir, f'.{name}.tmp')
        try:
            runner.save_checkpoint(
                self.out_dir,
                temporary.name,
                self.file_client_args,
                save_optimizer=self.save_optimizer,
                save_param_scheduler=self.save_param_scheduler,
                meta=meta,
                by_epoch=self.by_epoch,
                backend_args=self.backend_args,
                **self.args,
            )
            if is_main_process():
                checkpoint_files.publish(temporary, path)
                checkpoint_files.write_text(Path(runner.work_dir, checkpoint_files.POINTER), path)
        except OSError as error:
            temporary.unlink(missing_ok=True)
            runner.message_hub.update_info_dict({k: v for k, v in before.items() if v is not None})
            runner.logger.error(
                f'The checkpoint {path} could not be written ({error}). The last good one is '
                f'{getattr(self, "last_ckpt", None) or before["last_ckpt"]}.'
                + (' The run goes on.' if self.on_save_error == 'continue' else '')
            )
            if self.on_save_error == 'raise':
                raise
            return False
        self.last_ckpt = path
        runner.message_hub.update_info(key, list(kept[len(drop) :]))
        if is_main_process():
            for step in drop:
                checkpoint_files.remove(Path(self.out_dir, template.format(step)))
        gc.collect()  # Python's collector hardly looks at old objects, so that cycles of each epoch would stay
        return True

    # ------------------------------------------------------------------ leaving

    def _told_to_leave(self) -> bool:
        """Whether any process got a signal; all agree on the answer."""
        if not self._handlers:
            return False
        if get_world_size() == 1:
            return self._signal is not None
        told = torch.tensor([float(self._signal is not None)], device=get_device())
        all_reduce(told, 'max')
        return bool(told.item())

    def _leave(self, runner: Runner) -> None:
        name = signal.Signals(self._signal).name if self._signal is not None else 'a signal to another process'
        barrier()  # nobody leaves before the file is there
        runner.logger.warning(
            f'{name}: saved at iteration {runner.iter + 1}, leaving with exit code {self.exit_code}; the run goes on '
            'from here when it is started again.'
        )
        raise Preempted(self.exit_code)


class _FormattedOnce(Config):
    """A config that is formatted again only if it has changed.

    mmengine formats it for every checkpoint, with yapf, whose cyclic garbage makes the heap grow.
    """

    @property
    def pretty_text(self) -> str:
        """The config as Python."""
        state = repr(self._cfg_dict)
        if self.__dict__.get('_formatted', ('',))[0] != state:
            self.__dict__['_formatted'] = (state, super().pretty_text)
        return self.__dict__['_formatted'][1]


def _at_step(runner: Runner) -> bool:
    """Whether the optimizer has just taken its step, so that no gradients are held."""
    wrapper = runner.optim_wrapper
    return wrapper.should_update() if isinstance(wrapper, OptimWrapper) and hasattr(wrapper, 'optimizer') else True
