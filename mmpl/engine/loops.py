"""A training loop that can be killed anywhere and resumed to the same weights."""

import copy
from collections.abc import Mapping, Sequence
from typing import Any

from mmengine.dist import broadcast_object_list, get_rank, get_world_size, is_main_process
from mmengine.hooks import Hook
from mmengine.optim import OptimWrapperDict
from mmengine.runner import EpochBasedTrainLoop, Runner
from torch.utils.data import DataLoader

from mmpl.datasets.bad_files import REPORT_NAME, BadDataError, BadFileReport, listing
from mmpl.datasets.guarded import GuardedDataset
from mmpl.datasets.resumable_sampler import ResumableSampler
from mmpl.engine.hooks.log_history_hook import LogHistoryHook
from mmpl.engine.optimizers.param_groups import join_saved_groups
from mmpl.registry import LOOPS
from mmpl.utils.dist import unwrapped
from mmpl.utils.fields import check_choice, check_number
from mmpl.utils.seeds import derive_seed, seed_all

STATE_KEY = 'mmpl_resume'


@LOOPS.register_module()
class ExactEpochLoop(EpochBasedTrainLoop):
    """mmengine's epoch-based loop, resumable at any iteration to the same weights, bit for bit on the CPU.

    All that is random is made a function of where the run is, so that nothing random has to be stored: the transforms
    of a sample are seeded by (seed, epoch, index), the model's step by (seed, rank, iteration). A checkpoint that was
    written inside an epoch is resumed there, without loading the data before it. Everything else that a step depends
    on is in the checkpoint; see :class:`mmpl.engine.SafeCheckpointHook`.

    With another number of processes, another batch size or another accumulation of gradients the run goes on behind the
    images that it has seen, and the log says what is then no more the same.

    ``auto_scale_lr`` counts the images of an optimizer step, which are processes x batch size x
    ``optim_wrapper.accumulative_counts``; mmengine leaves the last factor out.

    The dataset is wrapped in a :class:`mmpl.datasets.GuardedDataset`, which replaces bad files.

    Args:
        runner: The runner.
        dataloader: Config of the training data loader: a map-style dataset, a sampler, no ``batch_sampler``.
        max_epochs: Epochs of the run.
        val_begin: As in mmengine.
        val_interval: As in mmengine.
        dynamic_intervals: As in mmengine.
        bad_files: What to do with files that cannot be trained on. ``max_share``, the share of the dataset above which
            the run stops with their list (default 0.01, our choice; 1 never stops), and ``replace_bad``, ``max_pixels``
            and ``min_side`` of :class:`mmpl.datasets.GuardedDataset`. They are listed in ``bad_files.jsonl`` in the
            work folder.

    Raises:
        TypeError: A field has the wrong type.
        ValueError: A field is outside of its interval, or the data loader is of a kind that cannot be resumed.
    """

    def __init__(
        self,
        runner: Runner,
        dataloader: dict,
        max_epochs: int,
        val_begin: int = 1,
        val_interval: int = 1,
        dynamic_intervals: Sequence[tuple[int, int]] | None = None,
        bad_files: Mapping[str, Any] | None = None,
    ) -> None:
        check_number('train_cfg.max_epochs', max_epochs, 1, integer=True)
        check_number('train_cfg.val_begin', val_begin, 0, integer=True)
        check_number('train_cfg.val_interval', val_interval, 1, integer=True)
        options = dict(bad_files or {})
        self.max_bad_share = options.pop('max_share', 0.01)
        check_number('train_cfg.bad_files.max_share', self.max_bad_share, 0, 1)
        super().__init__(
            runner, self._guarded(dataloader, options), max_epochs, val_begin, val_interval, dynamic_intervals
        )
        if len(self.dataloader) == 0:
            raise ValueError(
                f'`train_dataloader.batch_size` {self.dataloader.batch_size} with `drop_last=True` leaves no iteration '
                f'in an epoch: {get_world_size()} processes share {len(self.dataloader.dataset)} images'
            )
        seeds = [runner.seed]
        broadcast_object_list(seeds)
        self._set_seed(seeds[0])
        self._to_skip: int | None = 0
        self._new_lr: float | None = None  # learning rate factor, if the schedules have to be made anew
        self.bad_files = BadFileReport(f'{runner.work_dir}/{REPORT_NAME}')
        self._bad_size = self._bad_count = 0
        dataset = self.dataloader.dataset
        dataset = dataset if isinstance(dataset, GuardedDataset) else dataset._dataset  # num_batch_per_epoch slices it
        dataset.report = self.bad_files.path
        runner.register_hook(_PositionHook(self))
        runner.register_hook(LogHistoryHook())
        self._count_accumulation()

    @staticmethod
    def _guarded(dataloader: Any, options: dict) -> Any:
        """The data loader's config with sampler and dataset wrapped."""
        if isinstance(dataloader, DataLoader):
            if isinstance(dataloader.sampler, ResumableSampler) and isinstance(dataloader.dataset, GuardedDataset):
                return dataloader
            raise ValueError(
                '`train_dataloader` must be a config, or a DataLoader of a GuardedDataset with a ResumableSampler, but '
                f'got a DataLoader of {type(dataloader.dataset).__name__} with {type(dataloader.sampler).__name__}'
            )
        cfg = copy.deepcopy(dict(dataloader))
        if cfg.get('batch_sampler') is not None:
            raise ValueError(
                f'`train_dataloader.batch_sampler` must be left out with mmpl.ExactEpochLoop, which cannot resume '
                f'inside its order, but got {cfg["batch_sampler"]!r}'
            )
        for field, example in (('dataset', "dict(type='ImageNet', ...)"), ('sampler', "dict(type='DefaultSampler')")):
            if not isinstance(cfg.get(field), Mapping) or 'type' not in cfg[field]:
                raise ValueError(
                    f'`train_dataloader.{field}` must be a config such as {example}, got {cfg.get(field)!r}'
                )
        check_number('train_dataloader.batch_size', cfg.get('batch_size'), 1, integer=True)
        check_number('train_dataloader.num_workers', cfg.get('num_workers', 0), 0, integer=True)
        for field in ('drop_last', 'persistent_workers', 'pin_memory'):
            check_choice(f'train_dataloader.{field}', cfg.get(field, False), (True, False))
        collate = cfg.get('collate_fn', dict(type='pseudo_collate'))
        kind = collate.get('type') if isinstance(collate, Mapping) else collate
        if not isinstance(kind, str) and not callable(kind):
            raise ValueError(f'`train_dataloader.collate_fn` must be a config with a `type`, but got {collate!r}')
        if cfg.get('persistent_workers') and not cfg.get('num_workers'):
            raise ValueError('`train_dataloader.persistent_workers` must be False with `num_workers=0`, but got True')
        cfg['dataset'] = dict(type='mmpl.GuardedDataset', dataset=cfg['dataset'], **options)
        cfg['sampler'] = dict(type='mmpl.ResumableSampler', sampler=cfg['sampler'])
        return cfg

    def _accumulation(self) -> Any:
        """Iterations in an optimizer step, as the config says or the optimizer wrapper that was built from it."""
        wrapper = self.runner.optim_wrapper
        if isinstance(wrapper, Mapping):
            return wrapper.get('accumulative_counts', 1)
        return getattr(wrapper, '_accumulative_counts', 1)

    def _count_accumulation(self) -> None:
        """Let the learning rate follow the images of an optimizer step.

        ``Runner.scale_lr``, which comes after this loop is built, divides those of an iteration by ``base_batch_size``.
        """
        runner = self.runner
        counts, config = self._accumulation(), getattr(runner, 'auto_scale_lr', None)  # FlexibleRunner has none
        check_number('optim_wrapper.accumulative_counts', counts, 1, integer=True)
        if counts == 1 or not isinstance(config, Mapping) or not config.get('enable'):
            return
        base = config.get('base_batch_size')
        check_number('auto_scale_lr.base_batch_size', base, 1, integer=True)
        images = get_world_size() * self.dataloader.batch_size
        runner.logger.info(
            f'An optimizer step sees {images * counts} images, {images} in each of `accumulative_counts` {counts} '
            f'iterations; `auto_scale_lr.base_batch_size` {base} is that of a step, {base / counts:g} of an iteration.'
        )
        runner.auto_scale_lr = dict(config, base_batch_size=base / counts)

    @property
    def sampler(self) -> ResumableSampler:
        """The wrapped sampler."""
        return self.dataloader.sampler

    def _set_seed(self, seed: int) -> None:
        self.seed = seed
        self.sampler.sample_seed = seed

    # ------------------------------------------------------------------ running

    def run(self) -> Any:
        """Train, from where the checkpoint was written on."""
        if self._new_lr is not None:
            self._remake_schedules(self._new_lr)
        start = self._iter - self._epoch * len(self.dataloader)
        if not 0 <= start <= len(self.dataloader):
            self.runner.logger.warning(
                f'Iteration {self._iter} does not lie in epoch {self._epoch} of {len(self.dataloader)} iterations, as '
                'in a checkpoint of another dataset or batch size: the run goes on at the start of the epoch.'
            )
            start = 0
        self._to_skip = start
        known = self.bad_files.read() if is_main_process() else []
        self._bad_size, self._bad_count = self.bad_files.size(), len(known)
        if known:
            self.runner.logger.warning(f'{len(known)} bad files are known from before, see {self.bad_files.path}')
        return super().run()

    def run_epoch(self) -> None:
        """Iterate one epoch, or what is left of it."""
        self.runner.call_hook('before_train_epoch')
        self.runner.model.train()
        start, self._to_skip = self._to_skip or 0, 0
        self.sampler.set_epoch(self._epoch)
        self.sampler.skip = start * self.dataloader.batch_size
        for idx, data_batch in enumerate(self.dataloader, start):
            self.run_iter(idx, data_batch)
        self.sampler.skip = 0
        self._watch_bad_files()
        self.runner.call_hook('after_train_epoch')
        self._epoch += 1

    def run_iter(self, idx: int, data_batch: Sequence[dict]) -> None:
        """Iterate one batch, with generators seeded by where the run is.

        Args:
            idx: Index of the batch in the epoch.
            data_batch: From the data loader.
        """
        self._watch_bad_files()
        self.seed_iteration()
        super().run_iter(idx, data_batch)

    def seed_iteration(self) -> None:
        """Seed all generators for the iteration that comes next."""
        rank = get_rank() if self.runner._randomness_cfg.get('diff_rank_seed', False) else 0
        seed_all(derive_seed(self.seed, 'iteration', rank, self._iter))

    def _watch_bad_files(self) -> None:
        """Log files that were newly found bad, by whatever process; stop if they are too many."""
        if not is_main_process():
            return
        size = self.bad_files.size()
        if size == self._bad_size:
            return
        entries = self.bad_files.read()
        for entry in entries[self._bad_count :]:
            self.runner.logger.warning(f'Bad file {entry["path"]!r}: {entry["reason"]}. It is replaced from now on.')
        self._bad_size, self._bad_count = size, len(entries)
        total = len(self.dataloader.dataset)
        if len(entries) > self.max_bad_share * total:
            raise BadDataError(
                f'{len(entries)} of {total} images are bad, more than `train_cfg.bad_files.max_share` '
                f'{self.max_bad_share} allows. Mend or remove them (tools/check_dataset.py finds all of them), delete '
                f'{self.bad_files.path}, and resume:\n{listing(entries)}'
            )

    # ------------------------------------------------------------------ position

    def position(self) -> dict[str, int]:
        """What a checkpoint says of the data, beside epoch and iteration."""
        return dict(
            version=1,
            seed=int(self.seed),
            sampler_seed=int(getattr(self.sampler.sampler, 'seed', None) or 0),
            world_size=get_world_size(),
            batch_size=self.dataloader.batch_size,
            accumulative_counts=self._accumulation(),
            epoch_length=len(self.dataloader),
            num_samples=len(self.dataloader.dataset),
        )

    def restore(self, checkpoint: dict) -> None:
        """Take over the seeds of a checkpoint, and make its epoch and iteration fit this run.

        Args:
            checkpoint: As loaded; ``meta`` is changed if epochs have another length now.
        """
        log = self.runner.logger
        old, new = checkpoint.get(STATE_KEY), self.position()
        if old is None:
            log.warning(
                'The checkpoint was not written by mmpl.ExactEpochLoop: the weights, the optimizer and the schedules '
                'go on, the order of the images and their augmentations are those of the seed in the config.'
            )
            return
        self._set_seed(old['seed'])
        if hasattr(self.sampler.sampler, 'seed'):
            self.sampler.sampler.seed = old['sampler_seed']
        old = dict(accumulative_counts=new['accumulative_counts']) | old  # which early versions did not write
        changed = [
            f'{key} {old[key]} -> {new[key]}'
            for key in ('world_size', 'batch_size', 'accumulative_counts', 'num_samples')
            if old[key] != new[key]
        ]
        if not changed:
            return
        meta = checkpoint['meta']
        done = meta['iter'] - meta['epoch'] * old['epoch_length']
        length = len(self.dataloader)
        images = new['batch_size'] * new['world_size']
        factor = images / (old['batch_size'] * old['world_size'])
        if done == old['epoch_length']:
            start = length
        elif old['num_samples'] != new['num_samples']:
            start = 0
        else:
            start = min(length, int(done / factor))
        counts = new['accumulative_counts']
        if meta['epoch'] * length + start < self.max_iters:
            start = max(0, start - (meta['epoch'] * length + start) % counts)  # where gradients start to accumulate
        iteration = meta['epoch'] * length + start
        scaled = bool((getattr(self.runner, 'auto_scale_lr', None) or {}).get('enable', False))
        lr_factor = factor * counts / old['accumulative_counts'] if scaled else 1.0
        same_iterations = iteration == meta['iter'] and length == old['epoch_length']
        if not same_iterations or lr_factor != 1:
            self._new_lr = lr_factor
        notes = []
        if (old['world_size'], old['batch_size']) != (new['world_size'], new['batch_size']):
            notes.append('which images share a process, the masks and the dropout of an image, and the order of sums')
        if not same_iterations:
            notes.append('the images of a batch, and the number of steps: the schedules are made anew for it')
        if old['accumulative_counts'] != counts:
            notes.append('the images of an optimizer step')
        if old['num_samples'] != new['num_samples']:
            notes.append('the images, and their order: the epoch starts anew')
        log.warning(
            f'Resumed with {", ".join(changed)}. The weights, the teachers and the optimizer are the same, and so are '
            f'the augmentations of an image in an epoch; only statistically the same are: {"; ".join(notes)}. '
            f'`auto_scale_lr` multiplies the learning rate by {lr_factor:g}. The run goes on at epoch {meta["epoch"]}, '
            f'iteration {start} of {length}.'
        )
        meta['iter'] = iteration

    def _remake_schedules(self, factor: float) -> None:
        """Build the schedules for the new number of steps and bring them to where the run is.

        Args:
            factor: Of the learning rate, as ``auto_scale_lr`` has it: the new number of images in an optimizer step
                over the old one.
        """
        runner = self.runner
        cfg = runner.cfg.get('param_scheduler')
        if cfg is None or runner.param_schedulers is None:
            return
        wrapper = runner.optim_wrapper
        for inner in wrapper.values() if isinstance(wrapper, OptimWrapperDict) else [wrapper]:
            for group in inner.optimizer.param_groups:
                if 'initial_lr' in group:
                    group['initial_lr'] *= factor
                for key in [key for key in group if key.startswith('initial_')]:
                    group[key[len('initial_') :]] = group[key]
        runner.param_schedulers = runner.build_param_scheduler(copy.deepcopy(cfg))
        schedulers = runner.param_schedulers
        flat = [s for part in schedulers.values() for s in part] if isinstance(schedulers, dict) else schedulers
        for iteration in range(1, self._iter + 1):
            ends_epoch = iteration % len(self.dataloader) == 0 and iteration // len(self.dataloader) <= self._epoch
            for scheduler in flat:
                if not scheduler.by_epoch or ends_epoch:
                    scheduler.step()


class _PositionHook(Hook):
    """Puts the loop's position into checkpoints and takes it out again."""

    priority = 'VERY_HIGH'

    def __init__(self, loop: ExactEpochLoop) -> None:
        self.loop = loop

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Add the position."""
        checkpoint[STATE_KEY] = self.loop.position()

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Take the position over if the run is resumed, rather than started from the checkpoint's weights."""
        if not runner._resume:
            return
        if join_saved_groups(checkpoint, runner.optim_wrapper, unwrapped(runner.model)):
            runner.logger.info('The checkpoint has a parameter group for each tensor; they are joined.')
        self.loop.restore(checkpoint)
