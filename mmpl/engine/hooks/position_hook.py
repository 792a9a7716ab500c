"""Where a run is: what a checkpoint says of it, and how a run goes on from there, also with other numbers."""

from collections.abc import Mapping
from contextlib import suppress
from typing import Any, NamedTuple

from mmengine.dist import get_world_size
from mmengine.hooks import Hook
from mmengine.runner import Runner

from mmpl.checkpoints.encoders import parse_config_text
from mmpl.checkpoints.fit import CheckpointMismatchError
from mmpl.utils.config_changes import config_changes, listed
from mmpl.utils.fields import check_number

STATE_KEY = 'mmpl_resume'


class Position(NamedTuple):
    """What a checkpoint says of the data, beside epoch and iteration."""

    seed: int
    sampler_seed: int
    world_size: int
    batch_size: int  # of each process
    accumulative_counts: int
    epoch_length: int  # iterations
    num_samples: int

    @property
    def images(self) -> int:
        """Images of an iteration."""
        return self.world_size * self.batch_size


def accumulative_counts(runner: Runner) -> int:
    """Iterations of an optimizer step, as the config says or the optimizer wrapper that was built from it."""
    wrapper = runner.optim_wrapper
    built = not isinstance(wrapper, Mapping)
    counts = getattr(wrapper, '_accumulative_counts', 1) if built else wrapper.get('accumulative_counts', 1)
    check_number('optim_wrapper.accumulative_counts', counts, 1, integer=True)
    return counts


def resumed_iteration(old: Position, new: Position, epoch: int, iteration: int, max_iters: int) -> int:
    """The iteration, of epochs as they are now, at which a run goes on behind the images that it has seen.

    It is one at which gradients start to accumulate, or the end of the run.

    Args:
        old: Of the checkpoint.
        new: Of this run.
        epoch: Of the checkpoint.
        iteration: Of the checkpoint.
        max_iters: Of this run.
    """
    done = iteration - epoch * old.epoch_length
    begin = epoch * new.epoch_length
    if done == old.epoch_length:
        start = new.epoch_length
    elif old.num_samples != new.num_samples:
        start = 0  # the order of the images is another one
    else:
        start = min(new.epoch_length, done * old.images // new.images)
    if begin + start < max_iters:
        start = max(0, start - (begin + start) % new.accumulative_counts)
    return begin + start


def refuse_weights_alone(runner: Runner, checkpoint: dict) -> None:
    """Refuse to resume from a file that does not say where its run was.

    Raises:
        CheckpointMismatchError: Epoch, iteration, logged values or optimizer are missing.
    """
    meta = checkpoint.get('meta', {})
    needed = dict(epoch=meta, iter=meta, message_hub=checkpoint, optimizer=checkpoint)
    if lacks := [name for name, place in needed.items() if name not in place]:
        raise CheckpointMismatchError(
            f'`resume=True` cannot go on from {runner._load_from}, which does not hold: {", ".join(lacks)}, as '
            'best_*.pth and what is saved with `save_optimizer=False`. To start from its weights alone set `load_from` '
            'to it and `resume=False`'
        )


class PositionHook(Hook):
    """Puts the position of a :class:`mmpl.engine.ExactEpochLoop` into checkpoints, and takes it out to resume.

    If a run is resumed with another config, the log says what differs, and with other numbers what is then only
    statistically the same.
    """

    priority = 'VERY_HIGH'

    def _position(self, runner: Runner) -> Position:
        loader = runner.train_loop.dataloader
        sampler = runner.train_loop.sampler
        return Position(
            seed=int(sampler.sample_seed),
            sampler_seed=int(getattr(sampler.sampler, 'seed', None) or 0),
            world_size=get_world_size(),
            batch_size=loader.batch_size,
            accumulative_counts=accumulative_counts(runner),
            epoch_length=len(loader),
            num_samples=len(getattr(sampler.sampler, 'dataset', loader.dataset)),  # fewer or more where weights are
        )

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Add the position."""
        checkpoint[STATE_KEY] = self._position(runner)._asdict()

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Take over the seeds, and make epoch and iteration fit this run, if it is resumed.

        Args:
            runner: The runner.
            checkpoint: As loaded; ``meta`` is changed if epochs have another length now.
        """
        if not runner._resume:
            return
        refuse_weights_alone(runner, checkpoint)
        self._say_config_changes(runner, checkpoint['meta'].get('cfg'))
        if STATE_KEY not in checkpoint:
            runner.logger.warning(
                'The checkpoint was not written by mmpl.ExactEpochLoop: the weights, the optimizer and the schedules '
                'go on, the order of the images and their augmentations are those of the seed in the config.'
            )
            return
        old, sampler = Position(**checkpoint[STATE_KEY]), runner.train_loop.sampler
        sampler.sample_seed = old.seed
        if hasattr(sampler.sampler, 'seed'):
            sampler.sampler.seed = old.sampler_seed
        self._compare(runner, old, self._position(runner), checkpoint['meta'])

    def _say_config_changes(self, runner: Runner, text: Any) -> None:
        """Say in which fields the run departs from that of the checkpoint; the config text is parsed, never run."""
        with suppress(SyntaxError):
            changes = config_changes(parse_config_text(text), runner.cfg.to_dict()) if isinstance(text, str) else []
            if changes:
                runner.logger.warning(
                    f'The config differs from that of the checkpoint, and this run follows its own: {listed(changes)}.'
                )

    def _compare(self, runner: Runner, old: Position, new: Position, meta: dict) -> None:
        """Say what differs, and what follows from it; ``meta`` gets the iteration to go on at."""
        fields = ('world_size', 'batch_size', 'accumulative_counts', 'num_samples', 'epoch_length')
        changed = {field for field in fields if getattr(old, field) != getattr(new, field)}
        if not changed:
            return
        if len(changed) > 1:
            changed.discard('epoch_length')  # which follows from the others
        iteration = resumed_iteration(old, new, meta['epoch'], meta['iter'], runner.max_iters)
        same_iterations = iteration == meta['iter'] and old.epoch_length == new.epoch_length
        notes = []
        if changed & {'world_size', 'batch_size'}:
            notes.append('which images share a process, the masks and the dropout of an image, and the order of sums')
        if not same_iterations:
            notes.append('the images of a batch, and the number of steps')
        if 'accumulative_counts' in changed:
            notes.append('the images of an optimizer step')
        if 'num_samples' in changed:
            notes.append('the images, and their order: the epoch starts anew')
        numbers = ', '.join(f'{f} {getattr(old, f)} -> {getattr(new, f)}' for f in fields if f in changed)
        start = iteration - meta['epoch'] * new.epoch_length
        runner.logger.warning(
            f'Resumed with {numbers}. The weights, the teachers and the optimizer are the same, and so are '
            f'the augmentations of an image in an epoch; only statistically the same are: {"; ".join(notes)}. '
            f'The run goes on at epoch {meta["epoch"]}, iteration {start} of {new.epoch_length}.'
        )
        meta['iter'] = iteration
