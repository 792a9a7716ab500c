"""A training loop that can be killed anywhere and resumed to the same weights."""

from collections.abc import Mapping, Sequence
from typing import Any

from mmengine.dist import broadcast_object_list, get_rank, get_world_size
from mmengine.runner import EpochBasedTrainLoop, Runner

from mmpl.datasets.bad_files import REPORT_NAME
from mmpl.datasets.resumable_sampler import ResumableSampler
from mmpl.registry import LOOPS
from mmpl.utils.fields import Count, Natural, check_number, checked
from mmpl.utils.seeds import derive_seed, seed_all

from .hooks.bad_files_hook import BadFilesHook
from .hooks.log_history_hook import LogHistoryHook, fetch_late
from .hooks.position_hook import PositionHook, accumulative_counts
from .hooks.schedule_hook import ScheduleHook
from .hooks.unfinished import UnfinishedValidationHook
from .loader import resumable_loader
from .sharded import FullySharded


@LOOPS.register_module()
class ExactEpochLoop(EpochBasedTrainLoop):
    """mmengine's epoch-based loop, resumable at any iteration to the same weights, bit for bit on the CPU.

    All that is random is a function of where the run is, so that nothing random has to be stored: the transforms of a
    sample are seeded by (seed, epoch, index), the model's step by (seed, rank, iteration). Everything else that a step
    depends on is in the checkpoint; see :class:`mmpl.engine.SafeCheckpointHook`. A run goes on inside an epoch without
    loading the data before. With other numbers of processes or images it goes on behind the images that it has seen;
    see :class:`mmpl.engine.hooks.position_hook.PositionHook`.

    ``auto_scale_lr`` counts the images of an optimizer step, which are processes x batch size x
    ``optim_wrapper.accumulative_counts``; mmengine leaves the last factor out.

    Args:
        dataloader: Config with a map-style dataset, which is wrapped in a :class:`mmpl.datasets.GuardedDataset`, and a
            sampler; no ``batch_sampler``.
        bad_files: What to do with files that cannot be trained on. ``max_share``, the share of the dataset above which
            the run stops with their list (default 0.01, our choice; 1 never stops, and one file alone does so with 0
            only), and further fields of :class:`mmpl.datasets.GuardedDataset`. They are listed in ``bad_files.jsonl``
            in the work folder.
    """

    @checked('train_cfg')
    def __init__(
        self,
        runner: Runner,
        dataloader: dict,
        max_epochs: Count,
        val_begin: Natural = 1,
        val_interval: Count = 1,
        dynamic_intervals: Sequence[tuple[int, int]] | None = None,
        bad_files: Mapping[str, Any] | None = None,
    ) -> None:
        options = dict(bad_files or {}, report=f'{runner.work_dir}/{REPORT_NAME}')
        bad_files_hook = BadFilesHook(options['report'], max_share=options.pop('max_share', 0.01))
        super().__init__(
            runner, resumable_loader(dataloader, options), max_epochs, val_begin, val_interval, dynamic_intervals
        )
        if len(self.dataloader) == 0:
            raise ValueError(
                f'`train_dataloader.batch_size` {self.dataloader.batch_size} with `drop_last=True` leaves no iteration '
                f'in an epoch: {get_world_size()} processes share {len(self.dataloader.dataset)} images'
            )
        named = runner.cfg.get('max_epochs')  # mmpl's train.py lets the loop follow it, another project's does not
        if named not in (None, max_epochs):
            runner.logger.warning(
                f'`max_epochs` {named} at the top of the config has no effect: this run has the {max_epochs} epochs of '
                '`train_cfg.max_epochs`.'
            )
        fetch_late(runner.message_hub)
        seeds = [runner.seed]
        broadcast_object_list(seeds)
        self.sampler.sample_seed = seeds[0]
        self._start = 0  # iterations to leave out in the next epoch
        for hook in (PositionHook(), ScheduleHook(), bad_files_hook, LogHistoryHook(), UnfinishedValidationHook()):
            runner.register_hook(hook)
        self._scale_lr_by_step()

    @property
    def sampler(self) -> ResumableSampler:
        """The wrapped sampler, which has the seed of all that is random."""
        return self.dataloader.sampler

    def _scale_lr_by_step(self) -> None:
        """Let ``auto_scale_lr`` count the images of an optimizer step.

        ``Runner.scale_lr``, which comes after this loop is built, divides those of an iteration by ``base_batch_size``.
        """
        runner = self.runner
        counts, config = accumulative_counts(runner), getattr(runner, 'auto_scale_lr', None)  # FlexibleRunner has none
        if counts == 1 or not isinstance(config, Mapping) or not config.get('enable'):
            return
        base: Any = config.get('base_batch_size')
        check_number('auto_scale_lr.base_batch_size', base, 1, integer=True)
        images = get_world_size() * self.dataloader.batch_size
        runner.logger.info(
            f'An optimizer step sees {images * counts} images, {images} in each of `accumulative_counts` {counts} '
            f'iterations; `auto_scale_lr.base_batch_size` {base} is that of a step, {base / counts:g} of an iteration.'
        )
        runner.auto_scale_lr = dict(config, base_batch_size=base / counts)

    def run(self) -> Any:
        """Train, from where the checkpoint was written on."""
        if isinstance(self.runner.model, FullySharded):
            self.runner.model.cut(self.runner)  # initialised, loaded and resumed as a whole
        images, samples = len(self.dataloader.dataset), len(getattr(self.sampler.sampler, 'dataset', []))
        drawn = f', {samples} samples an epoch by their weights' if samples not in (0, images) else ''
        self.runner.logger.info(f'Training on {images} images{drawn}, {len(self.dataloader)} iterations an epoch.')
        self._start = self._iter - self._epoch * len(self.dataloader)
        if not 0 <= self._start <= len(self.dataloader):
            self.runner.logger.warning(
                f'Iteration {self._iter} does not lie in epoch {self._epoch} of {len(self.dataloader)} iterations, as '
                'in a checkpoint of another dataset or batch size: the run goes on at the start of the epoch.'
            )
            self._start = 0
        return super().run()

    def run_epoch(self) -> None:
        """Iterate one epoch, or what is left of it."""
        self.runner.call_hook('before_train_epoch')
        self.runner.model.train()
        start, self._start = self._start, 0
        self.sampler.set_epoch(self._epoch)
        self.sampler.skip = start * self.dataloader.batch_size
        for idx, data_batch in enumerate(self.dataloader, start):
            self.run_iter(idx, data_batch)
        self.sampler.skip = 0
        self.runner.call_hook('after_train_epoch')
        self._epoch += 1

    def run_iter(self, idx: int, data_batch: Sequence[dict]) -> None:
        """Iterate the batch of an index in the epoch, with generators seeded by where the run is."""
        self.seed_iteration()
        super().run_iter(idx, data_batch)

    def seed_iteration(self, iteration: int | None = None) -> None:
        """Seed all generators for an iteration, counted from 0; None: that which comes next."""
        rank = get_rank() if self.runner._randomness_cfg.get('diff_rank_seed', False) else 0
        iteration = self._iter if iteration is None else iteration
        seed_all(derive_seed(self.sampler.sample_seed, 'iteration', rank, iteration))
