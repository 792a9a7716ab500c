#!/usr/bin/env python
"""Classification, segmentation and detection on the embedded data, from checkpoints and from random initialisation.

Writes a table (transfer.md, transfer.csv) and a picture with predictions (transfer.png) into the work directory, and
prints the table. Random initialisation is the encoder of the pre-training config before its first step, loaded the same
way; all else is equal. Every run (a task, an encoder to start from, a seed) is a process with one thread. Runs that
finished are not repeated, one that was killed goes on::

    bash tools/benchmarks/transfer.sh --encoder PL-MAE work_dirs/demo/pl_mae_demo/seed_*/epoch_3.pth
    bash tools/benchmarks/transfer.sh --data surfaces \
        --encoder MAE work_dirs/demo/mae_surfaces/seed_*/epoch_6.pth \
        --encoder PL-MAE work_dirs/demo/pl_mae_surfaces/seed_*/epoch_6.pth
"""

import argparse
import functools
import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from filelock import FileLock
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.registry import init_default_scope
from mmengine.runner import Runner
from torch import nn

from bench.arguments import CONFIGS, add_job_arguments, at_least
from bench.jobs import Ended, Job, run_jobs
from bench.predictions import draw_predictions, draw_sheet
from bench.results import fingerprint, write_json
from bench.tables import as_csv, as_markdown, as_rows, over_seeds
from mmpl.apis.test import test
from mmpl.apis.train import parse_train_args, train, train_config
from mmpl.checkpoints.encoders import read_checkpoint
from mmpl.compat import add_trust_argument, set_load_policy, unsafe_load_allowed
from mmpl.evaluation.evaluate import build_model
from mmpl.utils.config_errors import read_config
from mmpl.utils.user_errors import UserError, user_errors

RANDOM = 'random init'  # name of the rows of the randomly initialised encoder
PRETRAIN = dict(digits='pl_mae_demo.py', surfaces='pl_mae_surfaces.py')  # data -> config that made the encoder
DOWNSTREAM = dict(digits='embedded', surfaces='surfaces')  # data -> its name in the tasks' configs


@dataclass(frozen=True)
class Task:
    """What is fine-tuned and measured.

    Attributes:
        title: Heading on the picture.
        config: Below ``configs/downstream``; ``{}`` stands for the data.
        metrics: Column -> (name of the evaluator's metric, factor that makes it percent).
        pictures: How many images predictions are drawn for.
    """

    title: str
    config: str
    metrics: Mapping[str, tuple[str, float]]
    pictures: int


TASKS = {  # the longest first, so that all cores end at the same time
    'detection': Task(
        'Detection and instance segmentation',
        'detection/mask_rcnn_vit_{}.py',
        dict(box_ap=('coco/bbox_mAP', 100.0), mask_ap=('coco/segm_mAP', 100.0)),
        4,
    ),
    'segmentation': Task(
        'Semantic segmentation',
        'segmentation/upernet_vit_{}.py',
        dict(miou=('mIoU', 1.0)),
        4,
    ),
    'classification': Task(
        'Classification, 10 % of the labels',
        'classification/vit_finetune_{}_10pct.py',
        dict(top1=('accuracy/top1', 1.0)),
        14,
    ),
}
COLUMNS = dict(
    top1='classification top-1 (%)',
    miou='segmentation mIoU (%)',
    box_ap='detection box AP (%)',
    mask_ap='detection mask AP (%)',
)


class TransferError(RuntimeError):
    """A run failed; the message holds the end of its log and names the file."""


class TransferMismatchError(UserError, RuntimeError):
    """A work directory holds a run from other weights or another config."""


@dataclass(frozen=True)
class Run:
    """One fine-tuning: a task, the name of an encoder, a seed; where the encoder is, None if random; and its folder."""

    task: str
    encoder: str
    seed: int
    checkpoint: Path | None
    work_dir: Path

    @property
    def key(self) -> str:
        """For the terminal, and for ``--run``."""
        return f'{self.task}, {self.encoder}, seed {self.seed}'


class Runs:
    """Fine-tuning runs that go on where they were stopped, and what is written of them.

    Whether checkpoints may run code is decided by this process's policy (:func:`mmpl.compat.set_load_policy`).

    Args:
        args: ``encoder``, ``tasks``, ``seeds``, ``work_dir``, ``cfg_options``, ``pretrain_config``.

    Attributes:
        NAME: Of the table and the picture.
        TASKS: All tasks by name, the longest first.
        COLUMNS: Headings of the table.
        CONTROLS: Names of what each encoder is compared with; they start from no checkpoint that is given.
        encoders: Name -> the checkpoint of each seed, None for controls; in the order of the table.
        random: The checkpoint of the encoder before its first step, of each seed; :meth:`run_all` writes them.

    Raises:
        FileNotFoundError: If a checkpoint or the config is missing.
        ValueError: If a task or a seed is named twice, or an encoder has no name of its own, or neither one checkpoint
            nor one for each seed.
    """

    NAME: str
    TASKS: Mapping[str, Task]
    COLUMNS: Mapping[str, str]
    CONTROLS: tuple[str, ...] = (RANDOM,)

    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args
        self.out = Path(args.work_dir)
        self.encoders = self._read_encoders()
        for field in ('tasks', 'seeds'):
            values = getattr(args, field)
            if len(set(values)) != len(values):
                raise ValueError(f'--{field} must be different from each other, but got {values}')
        self.tasks = [task for task in self.TASKS if task in args.tasks]
        self.options = ['--cfg-options', *args.cfg_options] if args.cfg_options else []
        self._digest = functools.cache(lambda path: read_checkpoint(path).digest())
        self._config_fingerprint = functools.cache(self._fingerprint_of_config)
        for path in [path for paths in self.encoders.values() for path in paths if path]:
            if not path.is_file():
                raise FileNotFoundError(f'checkpoint {path} does not exist')
            self._digest(path)
        self.random = [(self.out / 'random_init' / f'seed_{seed}.pth').resolve() for seed in args.seeds]
        self.encoders[RANDOM] = [*self.random]
        if not args.pretrain_config.is_file():
            raise FileNotFoundError(f'pretrain_config {args.pretrain_config} does not exist')

    def _read_encoders(self) -> dict[str, list[Path | None]]:
        seeds = len(self.args.seeds)
        encoders: dict[str, list[Path | None]] = {name: [None] * seeds for name in self.CONTROLS}
        folders = {folder_name(name) for name in encoders}  # names have no spaces there
        for name, *paths in self.args.encoder:
            if not name or '/' in name or folder_name(name) in folders:
                raise ValueError(
                    f"--encoder must begin with a name of its own, without '/', other than "
                    f'{" and ".join(map(repr, self.CONTROLS))}, but got {name!r}'
                )
            if len(paths) not in (1, seeds):
                raise ValueError(
                    f'--encoder {name} must have one checkpoint, or one for each of the {seeds} seeds, but '
                    f'got {len(paths)}'
                )
            folders.add(folder_name(name))
            encoders[name] = [Path(path).resolve() for _ in range(seeds // len(paths)) for path in paths]
        return encoders

    def plan(self) -> list[Run]:
        """All runs, in the order in which they are started."""
        return [
            Run(task, name, seed, paths[index], self.out / task / folder_name(name) / f'seed_{seed}')
            for task in self.tasks
            for index, seed in enumerate(self.args.seeds)
            for name, paths in self.encoders.items()
        ]

    def config(self, task: str) -> str:
        """The config that a task runs."""
        return str(CONFIGS / 'downstream' / self.TASKS[task].config)

    def start(self, run: Run) -> list[str]:
        """Options that let a run start from its encoder."""
        return [f'model.backbone.init_cfg.checkpoint={run.checkpoint}']

    def table(self, runs: pd.DataFrame, columns: Mapping[str, str]) -> str:
        """The Markdown table."""
        return as_markdown(over_seeds(runs, columns))

    def _fingerprint_of_config(self, task: str) -> str:
        cfg = train_config(parse_train_args([self.config(task), *self.options])).to_dict()
        return fingerprint({name: value for name, value in cfg.items() if name != 'work_dir'})

    def identity(self, run: Run) -> dict[str, Any]:
        """What a run follows from; two runs with the same identity would give the same results."""
        encoder = self._digest(run.checkpoint) if run.checkpoint else None
        return dict(encoder=encoder, config=self._config_fingerprint(run.task), seed=run.seed)

    def load(self, run: Run) -> dict[str, Any] | None:
        """A run's ``metrics``, all that the evaluator returned, and ``pictures``, if it is complete.

        Raises:
            TransferMismatchError: If its folder holds a run from another encoder, config or seed.
        """
        path = run.work_dir / 'identity.json'
        if path.is_file():
            found, identity = json.loads(path.read_text()), self.identity(run)
            names = dict(encoder='other weights', config='another config', seed='another seed')
            different = [text for field, text in names.items() if found.get(field) != identity[field]]
            if different:
                raise TransferMismatchError(
                    f'{run.work_dir} holds a run from {" and ".join(different)}: '
                    'remove it, or choose another --work-dir'
                )
        results = run.work_dir / 'results.json'
        return json.loads(results.read_text()) if results.is_file() else None

    def execute(self, run: Run) -> dict[str, Any]:
        """Fine-tune, test and draw; a run that was killed goes on, a finished one is not repeated.

        Raises:
            TransferMismatchError: As :meth:`load`.
            mmpl.checkpoints.fit.CheckpointMismatchError: If the checkpoint does not fit the config's backbone.
        """
        run.work_dir.mkdir(parents=True, exist_ok=True)
        with FileLock(str(run.work_dir / '.lock')):  # a second process waits here, and then finds the results
            if (content := self.load(run)) is not None:
                return content
            write_json(run.work_dir / 'identity.json', self.identity(run))
            config, task = self.config(run.task), self.TASKS[run.task]
            start = [*self.start(run), f'randomness.seed={run.seed}']
            common = ['--work-dir', str(run.work_dir), *(['--trust'] if unsafe_load_allowed() else [])]
            common += ['--cfg-options', *start, *self.options[1:]]
            model = train([config, '--resume', '--no-validate', *common])
            trained = (run.work_dir / 'last_checkpoint').read_text().strip()
            metrics = test([config, trained, *common])
            cfg = train_config(parse_train_args([config, *common]))
            content = dict(
                metrics={key: float(value) for key, value in metrics.items()},
                pictures=draw(cfg, model, run.work_dir / 'pictures', task.pictures),
            )
            write_json(run.work_dir / 'results.json', content)
        return content

    def write_all(self) -> str:
        """Write ``<NAME>.csv``, ``<NAME>.md``, ``results.json`` and ``<NAME>.png``; return the table.

        The picture shows the predictions of the first seed.
        """
        measured: dict[tuple[str, int], dict[str, Any]] = {}
        blocks: dict[str, dict[str, Any]] = {self.TASKS[task].title: {} for task in self.tasks}
        for run in self.plan():
            content = self.load(run)
            assert content is not None  # all runs have ended well
            row = measured.setdefault((run.encoder, run.seed), dict(name=run.encoder))
            row |= {column: round(value, 4) for column, value in self.scores(run.task, content).items()}
            if run.seed == self.args.seeds[0]:
                blocks[self.TASKS[run.task].title][run.encoder] = (run.work_dir / 'pictures', content['pictures'])
        runs = pd.DataFrame(measured.values())
        columns = {column: heading for column, heading in self.COLUMNS.items() if column in runs}
        text = self.table(runs, columns)
        (self.out / f'{self.NAME}.md').write_text(text + '\n')
        (self.out / f'{self.NAME}.csv').write_text(as_csv(runs, columns))
        write_json(self.out / 'results.json', as_rows(runs))
        draw_sheet(blocks, self.out / f'{self.NAME}.png')
        return text

    def scores(self, task: str, content: Mapping[str, Any]) -> dict[str, float]:
        """A task's columns of what :meth:`load` gave."""
        return scores(task, content['metrics'], self.TASKS)

    def report(self, ended: Ended) -> None:
        """A line for the user.

        Raises:
            TransferError: If the run failed.
        """
        if ended.result is None:
            raise TransferError(ended.failure)
        measured = self.scores(ended.job.key.partition(',')[0], ended.result)
        shown = ', '.join(f'{column} {value:.1f}' for column, value in measured.items())
        print(f'{ended.job.key}: {shown} ({ended.seconds:.0f} s)', flush=True)

    def run_all(self, command: Sequence[str]) -> None:
        """Make all runs, each in a process of its own, and write what they gave.

        Args:
            command: The command line, which with ``--run KEY`` makes one of them.
        """
        start = time.monotonic()
        jobs = [
            Job(run.key, [*command, '--run', run.key], run.work_dir / 'log.txt', partial(self.load, run))
            for run in self.plan()
        ]
        print(f'{len(jobs)} runs, {self.args.jobs} at once; logs in {self.out}', flush=True)
        for seed, path in zip(self.args.seeds, self.random, strict=True):
            write_random_encoder(self.args.pretrain_config, seed, path)
        try:
            run_jobs(jobs, self.args.jobs, self.report)
        except TransferError as error:  # several lines: the end of a log
            sys.exit(f'error: {error}')
        minutes, seconds = divmod(round(time.monotonic() - start), 60)
        print(f'\n{self.write_all()}\n\ndone in {minutes} min {seconds} s: {self.out}/{self.NAME}.{{md,csv,png}}')


class Bench(Runs):
    """What is fine-tuned, from what, and where to; ``args`` are those of :func:`parse_args`."""

    NAME, TASKS, COLUMNS = 'transfer', TASKS, COLUMNS

    def config(self, task: str) -> str:
        """The config that a task runs."""
        return str(CONFIGS / 'downstream' / TASKS[task].config.format(DOWNSTREAM[self.args.data]))

    def table(self, runs: pd.DataFrame, columns: Mapping[str, str]) -> str:
        """The Markdown table, with what the last encoder gains over each other."""
        return with_gains(runs, columns)


def folder_name(encoder: str) -> str:
    """Folder of the runs from an encoder: its name without spaces."""
    return encoder.replace(' ', '_')


def write_random_encoder(config: str | os.PathLike, seed: int, path: Path) -> None:
    """Write a checkpoint of a pre-training config's encoder as it is before the first step."""
    path.parent.mkdir(parents=True, exist_ok=True)
    backbone = build_model(read_config(config), seed=seed).get_submodule('backbone')
    unfinished = path.with_suffix('.tmp')
    torch.save({'state_dict': {f'backbone.{k}': v.cpu() for k, v in backbone.state_dict().items()}}, unfinished)
    unfinished.replace(path)


def draw(cfg: Config, model: nn.Module, folder: Path, count: int) -> list[dict[str, Any]]:
    """Draw what the model predicts for ``count`` images, evenly spaced over the test set."""
    init_default_scope(cfg.default_scope)
    loader_cfg = cfg.test_dataloader.copy()
    loader_cfg.batch_size = 1
    total = len(Runner.build_dataloader(loader_cfg).dataset)
    count = min(count, total)
    loader_cfg.dataset = dict(loader_cfg.dataset, indices=[i * total // count for i in range(count)])
    loader = Runner.build_dataloader(loader_cfg)
    model = model.to(get_device()).eval()
    with torch.no_grad():
        samples = [sample for batch in loader for sample in model.test_step(batch)]
    return draw_predictions(samples, loader.dataset.metainfo, folder)


def scores(task: str, metrics: Mapping[str, float], tasks: Mapping[str, Task] = TASKS) -> dict[str, float]:
    """A task's columns from what its evaluator returned, in percent.

    Raises:
        KeyError: If the evaluator did not return a metric; the message lists those that it did.
    """
    missing = [key for key, _ in tasks[task].metrics.values() if key not in metrics]
    if missing:
        raise KeyError(f'{task}: the evaluator returned no {missing}, only {sorted(metrics)}')
    return {column: metrics[key] * factor for column, (key, factor) in tasks[task].metrics.items()}


def with_gains(runs: pd.DataFrame, columns: Mapping[str, str]) -> str:
    """The Markdown table; below it, how far the mean of the last encoder is from that of each other."""
    table = over_seeds(runs, columns)
    means = runs.groupby('name', sort=False)[list(columns)].mean()
    last = means.iloc[-1]
    for name, mean in means.iloc[:-1].iterrows():
        table.loc[len(table)] = [f'{last.name} − {name}', *(f'{gain:+.1f}' for gain in last - mean), '']
    return as_markdown(table)


def add_run_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options that :class:`Runs` reads, but for ``--tasks``, ``--work-dir`` and ``--pretrain-config``."""
    parser.add_argument(
        '--encoder',
        nargs='+',
        action='append',
        default=[],
        metavar=('NAME', 'CHECKPOINT'),
        help='name for the table and one checkpoint, or one for each seed; may be given several times',
    )
    parser.add_argument('--seeds', type=at_least(0), nargs='+', default=[0, 1, 2], help='of all but the encoder')
    parser.add_argument('--cfg-options', nargs='+', default=[], help="override fields of every run's config: key=value")
    add_job_arguments(parser)
    add_trust_argument(parser)


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--tasks', nargs='+', choices=list(TASKS), default=list(TASKS))
    parser.add_argument(
        '--data', choices=list(PRETRAIN), default='digits', help='scenes and crops of digits or of photographs'
    )
    parser.add_argument(
        '--work-dir', help='folder of all results (default: work_dirs/transfer, or work_dirs/transfer_surfaces)'
    )
    parser.add_argument(
        '--pretrain-config',
        type=Path,
        help='a config that made checkpoints, for random initialisation (default: configs/pl_mae_demo.py, or '
        'configs/pl_mae_surfaces.py)',
    )
    add_run_arguments(parser)
    args = parser.parse_args(argv)
    args.work_dir = args.work_dir or 'work_dirs/transfer' + ('' if args.data == 'digits' else f'_{args.data}')
    args.pretrain_config = args.pretrain_config or CONFIGS / PRETRAIN[args.data]
    return args


@user_errors()
def main(argv: list[str] | None = None) -> None:
    """Run the tool."""
    args = parse_args(argv)
    set_load_policy(args.trust)
    bench = Bench(args)
    if args.run:
        bench.execute({run.key: run for run in bench.plan()}[args.run])
        return
    bench.run_all([sys.executable, __file__, *(sys.argv[1:] if argv is None else argv)])


if __name__ == '__main__':
    main()
