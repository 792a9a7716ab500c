"""Checkpoints that survive kills, damage, preemption and full disks."""

import gc
import inspect
import os
import signal
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from mmengine.config import Config
from mmengine.dist import all_gather_object, barrier, broadcast_object_list, is_main_process
from mmengine.hooks import CheckpointHook, EMAHook
from mmengine.optim import OptimWrapper
from mmengine.runner import EpochBasedTrainLoop, Runner

from mmpl.checkpoints import files as checkpoint_files
from mmpl.compat import set_load_policy
from mmpl.engine.shards import whole_checkpoint
from mmpl.registry import HOOKS
from mmpl.utils.dist import others_wait
from mmpl.utils.fields import Interval, check_choice, checked
from mmpl.utils.preemption import EXIT_INTERRUPTED, EXIT_REQUEUE, SIGNALS, Preempted, StopSignals, shelter_workers

from .position_hook import refuse_weights_alone

Limit = Annotated[int, Interval(-1)]  # -1: none


@dataclass
class _Series:
    """Checkpoints of one kind, of which the newest are kept."""

    template: str  # of the file names
    info_key: str  # under which the message hub, and so the next checkpoint, has the steps
    max_kept: int  # -1: all
    steps: list[int] = field(default_factory=list)


class _Swap:
    """Takes the place of the swap of an ``EMAHook``, and knows whether its average stands in for the student."""

    def __init__(self, hook: Any) -> None:
        self.stands_in = False
        self._swap = hook._swap_ema_parameters
        hook._swap_ema_parameters = self

    def __call__(self) -> None:
        self.stands_in = not self.stands_in
        self._swap()


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
    - At SIGTERM, SIGUSR1 or Ctrl-C it saves after the step or the batch of a validation under way (on several GPUs
      after the next one, as none waits to hear of it), and leaves with exit code 75, or 130 after Ctrl-C. Data loader
      workers that get the signal too live on until then.

    Args:
        interval: As in mmengine: a checkpoint every that many epochs, or iterations with ``by_epoch=False``.
        by_epoch: As in mmengine.
        iter_interval: With ``by_epoch=True``, a checkpoint every that many iterations as well; -1 for none. Two of
            them are kept, so that one is left if the newest is damaged.
        max_keep_ckpts: How many of the others are kept; -1 for all.
        out_dir: As in mmengine, but a local folder.
        on_save_error: When a checkpoint cannot be written, such as on a full disk: ``'raise'``, or ``'continue'`` with
            an error in the log. The last good file stays in either case.
        **kwargs: As in mmengine, such as ``save_best``.
    """

    best_ckpt_path: str | None

    @checked('checkpoint')
    def __init__(
        self,
        interval: Limit = -1,
        by_epoch: bool = True,
        iter_interval: Limit = -1,
        max_keep_ckpts: Limit = -1,
        out_dir: str | None = None,
        on_save_error: Literal['raise', 'continue'] = 'raise',
        **kwargs: Any,
    ) -> None:
        for name in kwargs:
            check_choice('checkpoint', name, inspect.signature(CheckpointHook).parameters)
        if iter_interval > 0 and not by_epoch:
            raise ValueError(
                f'`checkpoint.iter_interval` must be left out with `by_epoch=False`, whose `interval` counts '
                f'iterations, but got {iter_interval}'
            )
        if '://' in str(out_dir or '') or '://' in str(kwargs.get('backend_args') or ''):
            raise ValueError(f'`checkpoint.out_dir` must be a local folder, but got {out_dir!r}')
        super().__init__(interval, by_epoch, out_dir=out_dir, max_keep_ckpts=max_keep_ckpts, **kwargs)
        self.last_ckpt: str | None = None
        self._saved_iteration = 0
        self.iter_interval = iter_interval
        self.on_save_error = on_save_error
        self._regular = _Series(self.filename_tmpl, 'keep_ckpt_ids', max_keep_ckpts)
        self._inside_epochs = _Series('iter_{}.pth', 'keep_iter_ckpt_ids', 2)
        self._due: list[_Series] = []  # waits for the optimizer's step
        self._signals = StopSignals()
        self._val_iters: int | None = None  # of a validation, in which all processes have a batch
        shelter_workers()  # now: mmengine's loop over iterations starts its workers when it is built
        self._averages: list[_Swap] = []
        self._foreign = ''  # file of another run that this one is resumed from

    # ------------------------------------------------------------------ resuming

    def before_run(self, runner: Runner) -> None:
        """Forbid checkpoints to run code, and choose the one that a run resumes from by itself.

        Raises:
            RuntimeError: There are checkpoints, and all of them are damaged.
        """
        if os.environ.get('TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD') != '1':  # by --trust, or by who starts another train.py
            set_load_policy(trust=False)  # also where another project's train.py runs
        if not runner._resume or runner._has_loaded:
            return
        if runner._load_from is not None:
            self._check_given(runner, str(runner._load_from))
            return
        choice: list[Any] = [None, []]
        with others_wait():  # files are read to their ends
            if is_main_process():
                choice = list(checkpoint_files.find_whole_checkpoint(self._folder(runner)))
        broadcast_object_list(choice)
        path, damaged = choice
        for line in damaged:
            runner.logger.warning(f'Damaged checkpoint passed over: {line}')
        if path is None and damaged:
            raise RuntimeError(
                'the run cannot be resumed, all of its checkpoints are damaged (move them away to start anew):\n  '
                + '\n  '.join(damaged)
            )
        runner._load_from = path

    def _check_given(self, runner: Runner, path: str) -> None:
        """Refuse a damaged file; say what it means that a run is resumed from it, unless it is one of its own."""
        folder = self._folder(runner)
        wrong = ['']
        if is_main_process() and checkpoint_files.record_of(path).is_file():
            wrong = [checkpoint_files.damage(path)]
        broadcast_object_list(wrong)
        if wrong[0]:
            raise RuntimeError(f'the run cannot be resumed from `load_from` {path}: {wrong[0]}')
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
        """Refuse what no run can go on from; say that nothing is left to be trained, or refuse another run's then."""
        if not runner._resume:
            return
        refuse_weights_alone(runner, checkpoint)
        meta = checkpoint['meta']
        if not self._foreign:
            epochs = isinstance(runner.train_loop, EpochBasedTrainLoop)
            if meta.get('epoch', 0) >= runner.max_epochs if epochs else meta.get('iter', 0) >= runner.max_iters:
                runner.logger.warning(
                    f'This run is at its end already, at epoch {meta.get("epoch")}, iteration {meta.get("iter")}: '
                    'nothing is trained. For more raise what `train_cfg` has; to start anew take another `work_dir`.'
                )
            return
        if meta.get('epoch', 0) >= runner.max_epochs or meta.get('iter', 0) >= runner.max_iters:
            raise RuntimeError(
                f'`resume=True` resumes from `load_from` {self._foreign} at epoch {meta.get("epoch")}, iteration '
                f'{meta.get("iter")}, but the run has {runner.max_epochs} epochs, {runner.max_iters} iterations: '
                'nothing would be trained. To start from the weights of this checkpoint, set `resume=False`'
            )

    def _folder(self, runner: Runner) -> str:
        return checkpoint_files.checkpoint_folder(runner.work_dir, self.out_dir)

    # ------------------------------------------------------------------ when

    def before_train(self, runner: Runner) -> None:
        """Prepare the folder and listen to signals."""
        self._forget_best_elsewhere(runner)
        super().before_train(runner)
        self._averages = [_Swap(hook) for hook in runner.hooks if isinstance(hook, EMAHook)]
        if runner._resume and not self._foreign and runner._load_from:
            self.last_ckpt = str(runner._load_from)
        object.__setattr__(runner.cfg, '__class__', _FormattedOnce)  # Config's own writes into the config
        for series in (self._regular, self._inside_epochs):
            series.steps = list(runner.message_hub.runtime_info.get(series.info_key, []))
        if is_main_process():
            for unfinished in Path(self.out_dir).glob('.*.tmp'):
                unfinished.unlink(missing_ok=True)
        if not self._signals.listen():
            names = ', '.join(number.name for number in SIGNALS)
            runner.logger.warning(f'{names} are not listened to: training does not run in the main thread')

    def _forget_best_elsewhere(self, runner: Runner) -> None:
        """Take the best files for this folder's, or for none: another run's, or those of a copy, are not removed."""
        hub = runner.message_hub
        stored = {key: hub.get_info(key) for key in hub.runtime_info if key.startswith('best_ckpt')}
        paths = {key: Path(self._folder(runner), Path(str(path)).name) for key, path in stored.items()}
        there = [{key: path.is_file() for key, path in paths.items()} if is_main_process() else {}]
        broadcast_object_list(there)
        for key, is_here in there[0].items():
            if is_here:
                hub.update_info(key, str(paths[key]))
            else:
                del hub.runtime_info[key]
                hub.runtime_info.pop(key.replace('best_ckpt', 'best_score'), None)

    def after_train(self, runner: Runner) -> None:
        """Leave the signals alone again."""
        super().after_train(runner)
        self._signals.release()

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: dict | None = None
    ) -> None:
        """Save what is due, and leave if a signal asked for it; both at an optimizer step only."""
        last = self.save_last and self.is_last_train_iter(runner)
        if not self.by_epoch and (last or self.every_n_train_iters(runner, self.interval, self.save_begin)):
            self._due.append(self._regular)
        if self.every_n_train_iters(runner, self.iter_interval):
            self._due.append(self._inside_epochs)
        if not _at_step(runner):
            return
        stop = self._signals.received()
        if self._regular in self._due:
            step = runner.epoch if self.by_epoch else runner.iter + 1
            self._save(runner, self._regular, step, dict(epoch=runner.epoch, iter=runner.iter + 1))
        elif self._due or stop:
            self.save_now(runner)
        self._due.clear()
        if stop:
            self._leave(runner, stop)

    def before_val(self, runner: Runner) -> None:
        """Agree in how many iterations all processes can be asked for signals."""
        if self._signals.listening:
            self._val_iters = min(all_gather_object(len(runner.val_dataloader)))

    def after_val_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Leave amid a validation during training if a signal asked for it; saved is what was validated."""
        if not self._signals.listening or not _at_step(runner):  # amid an accumulation: after the next optimizer step
            return
        if self._val_iters is not None and batch_idx >= self._val_iters:
            return
        if stop := self._signals.received():
            if self._saved_iteration != runner.iter:
                for average in self._averages:
                    if average.stands_in:  # what is validated is the average: the student takes its place
                        average()
                series = self._inside_epochs if self.by_epoch else self._regular
                self._save(runner, series, runner.iter, dict(epoch=runner.epoch, iter=runner.iter))
            self._leave(runner, stop)

    def after_train_epoch(self, runner: Runner) -> None:
        """Save if an epoch's checkpoint is due; amid an accumulation, after the next optimizer step."""
        last = self.save_last and self.is_last_train_epoch(runner)
        if not self.by_epoch or not (last or self.every_n_epochs(runner, self.interval, self.save_begin)):
            return
        if _at_step(runner):
            step = runner.epoch + 1
            self._save(runner, self._regular, step, dict(epoch=step, iter=runner.iter))
        else:
            self._due.append(self._regular)

    def _leave(self, runner: Runner, stop: int) -> None:
        barrier()  # nobody leaves before the file is there
        code = EXIT_INTERRUPTED if stop == signal.SIGINT else EXIT_REQUEUE
        runner.logger.warning(
            f'{signal.Signals(stop).name}: saved at iteration {self._saved_iteration}, leaving with exit code {code}; '
            'the run goes on from here when it is started again.'
        )
        raise Preempted(code)

    # ------------------------------------------------------------------ saving

    def save_now(self, runner: Runner) -> bool:
        """Save ``iter_<n>.pth`` after an iteration; False if it could not be written."""
        step = runner.iter + 1
        series = self._inside_epochs if self.by_epoch else self._regular
        return self._save(runner, series, step, dict(epoch=runner.epoch, iter=step))

    def _save_best_checkpoint(self, runner: Runner, metrics: Any) -> None:
        """As mmengine's, but the previous best file is removed when the new one is there."""
        if not self.save_best:
            return
        if 'auto' in self.key_indicators:
            self._init_rule(self.rules, [next(iter(metrics))])
        hub, meta = runner.message_hub, dict(epoch=runner.epoch, iter=runner.iter)
        step = runner.epoch if self.by_epoch else runner.iter
        saved = False
        for indicator, rule in zip(self.key_indicators, self.rules, strict=True):
            ending = '' if len(self.key_indicators) == 1 else f'_{indicator}'
            score, best = metrics[indicator], hub.runtime_info.get(f'best_score{ending}', self.init_value_map[rule])
            if score is None or not self.is_better_than[indicator](score, best):
                continue
            name = f'best_{indicator}_{self.filename_tmpl.format(step)}'.replace('/', '_')
            previous = self.best_ckpt_path_dict[indicator] if ending else self.best_ckpt_path
            path = str(Path(self.out_dir, name))
            if not self._write(runner, name, meta, {f'best_score{ending}': score, f'best_ckpt{ending}': path}):
                continue
            saved = True
            if ending:
                self.best_ckpt_path_dict[indicator] = path
            else:
                self.best_ckpt_path = path
            if is_main_process() and previous and previous != path:
                checkpoint_files.remove(previous)
            runner.logger.info(f'{name} is the best checkpoint, with {score:0.4f} {indicator}')
        if saved and self.last_ckpt is not None:  # the last one has the previous best in its message hub
            self._save_checkpoint_with_step(runner, step, meta)

    def _save_checkpoint_with_step(self, runner: Runner, step: int, meta: dict) -> None:
        """Save once more, as mmengine does for a new best checkpoint; amid an accumulation at the next step."""
        if _at_step(runner):
            self._save(runner, self._regular, step, meta)
        else:
            self._due.append(self._regular)

    def _save(self, runner: Runner, series: _Series, step: int, meta: dict) -> bool:
        """Write a checkpoint, then remove old ones of its kind; False if it could not be written.

        The list in the message hub still has those that are about to be removed: a run that is killed in between
        removes them when it resumes.
        """
        for hook in runner.hooks:
            if hasattr(hook, 'settle'):
                hook.settle(runner)  # nothing is saved before it is known to be good
        name = series.template.format(step)
        path = str(Path(self.out_dir, name))
        runner.logger.info(f'Saving {name} at epoch {meta["epoch"]}, iteration {meta["iter"]}')
        hub = runner.message_hub
        steps = [old for old in series.steps if old != step] + [step]
        if not self._write(runner, name, meta, {series.info_key: steps, 'last_ckpt': path}, to_resume=True):
            return False
        self.last_ckpt, self._saved_iteration = path, meta['iter']
        too_old = steps[: -series.max_kept] if series.max_kept > 0 else []
        series.steps = steps[len(too_old) :]
        hub.update_info(series.info_key, list(series.steps))
        if is_main_process():
            for old in too_old:
                checkpoint_files.remove(Path(self.out_dir, series.template.format(old)))
        gc.collect()  # Python's collector hardly looks at old objects, so that cycles of each epoch would stay
        return True

    def _write(self, runner: Runner, name: str, meta: dict, infos: dict, to_resume: bool = False) -> bool:
        """Write a file that is whole or not there; False if it could not be written.

        Args:
            runner: The run.
            name: Of the file.
            meta: Where the run is.
            infos: For the message hub, whose state is in the file; taken back if there is no file.
            to_resume: Whether the run would go on from it: it has the optimizer, and the pointer moves to it.
        """
        path, temporary = Path(self.out_dir, name), Path(self.out_dir, f'.{name}.tmp')
        hub = runner.message_hub
        before = {key: hub.runtime_info.get(key) for key in infos}
        hub.update_info_dict(infos)
        failure: OSError | None = None
        try:
            with whole_checkpoint(runner), others_wait():  # a slow file system may take longer than a collective may
                runner.save_checkpoint(
                    self.out_dir,
                    temporary.name,
                    save_optimizer=self.save_optimizer and to_resume,
                    save_param_scheduler=self.save_param_scheduler and to_resume,
                    meta=meta,
                )
                if is_main_process():
                    checkpoint_files.publish(temporary, path)
                    if to_resume:
                        checkpoint_files.write_text(Path(runner.work_dir, checkpoint_files.POINTER), str(path))
        except OSError as error:
            failure = error
        told = ['' if failure is None else str(failure)]
        broadcast_object_list(told)  # what follows is the same for all processes
        if told[0]:
            temporary.unlink(missing_ok=True)
            for key, value in before.items():
                if value is None:
                    del hub.runtime_info[key]
                else:
                    hub.update_info(key, value)
            runner.logger.error(
                f'The checkpoint {path} could not be written ({told[0]}). The last good one is '
                f'{self.last_ckpt or hub.runtime_info.get("last_ckpt")}.'
                + (' The run goes on.' if self.on_save_error == 'continue' else '')
            )
            if self.on_save_error == 'raise':
                raise failure or OSError(told[0])
        return not told[0]


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
