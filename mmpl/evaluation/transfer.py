"""Transfer of a pre-trained encoder to classification, segmentation and detection, against random initialisation.

Every run (a task, an encoder to start from, a seed) is a process of its own with one thread; see
:mod:`mmpl.evaluation.transfer_run`. Finished runs are kept: a benchmark that was stopped goes on where it was.
"""

import dataclasses
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

import torch

from mmpl.compat import unsafe_load_allowed
from mmpl.utils.config_errors import read_config
from mmpl.utils.fields import check_choice, check_number

from .evaluate import build_model
from .summary import as_csv, as_markdown, write_summary
from .transfer_run import RESULTS, encoder_digest

RANDOM = 'random init'
"""How the rows of the randomly initialised encoder are called."""


PRETRAIN = {'digits': 'pl_mae_demo.py', 'surfaces': 'pl_mae_surfaces.py'}
"""Data of a benchmark -> pre-training config below ``configs`` whose encoder its tasks' configs take."""


@dataclasses.dataclass(frozen=True)
class Task:
    """What is fine-tuned and measured.

    Attributes:
        title: Heading on the picture.
        configs: Key of :data:`PRETRAIN` -> config below ``configs/downstream``.
        metrics: Column -> (name of the evaluator's metric, factor that makes it percent).
        pictures: How many images predictions are drawn for.
    """

    title: str
    configs: Mapping[str, str]
    metrics: Mapping[str, tuple[str, float]]
    pictures: int


TASKS: dict[str, Task] = {  # the longest first, so that both cores end at the same time
    'detection': Task(
        'Detection and instance segmentation',
        {'digits': 'detection/mask_rcnn_vit_embedded.py', 'surfaces': 'detection/mask_rcnn_vit_surfaces.py'},
        {'box_ap': ('coco/bbox_mAP', 100.0), 'mask_ap': ('coco/segm_mAP', 100.0)},
        4,
    ),
    'segmentation': Task(
        'Semantic segmentation',
        {'digits': 'segmentation/upernet_vit_embedded.py', 'surfaces': 'segmentation/upernet_vit_surfaces.py'},
        {'miou': ('mIoU', 1.0)},
        4,
    ),
    'classification': Task(
        'Classification, 10 % of the labels',
        {
            'digits': 'classification/vit_finetune_embedded_10pct.py',
            'surfaces': 'classification/vit_finetune_surfaces_10pct.py',
        },
        {'top1': ('accuracy/top1', 1.0)},
        14,
    ),
}
COLUMNS = {
    'top1': 'classification top-1 (%)',
    'miou': 'segmentation mIoU (%)',
    'box_ap': 'detection box AP (%)',
    'mask_ap': 'detection mask AP (%)',
}


class TransferError(RuntimeError):
    """A run failed; the message holds the end of its log and names the file."""


@dataclasses.dataclass(frozen=True)
class Run:
    """One fine-tuning.

    Attributes:
        task: Key of :data:`TASKS`.
        encoder: Name of the row.
        seed: Its seed.
        checkpoint: Where the encoder is.
        work_dir: Folder of logs, checkpoints, pictures and results.
    """

    task: str
    encoder: str
    seed: int
    checkpoint: Path
    work_dir: Path

    @property
    def title(self) -> str:
        """For the terminal."""
        return f'{self.task}, {self.encoder}, seed {self.seed}'


def write_random_encoder(config: str | os.PathLike, seed: int, path: str | os.PathLike) -> None:
    """Write a checkpoint of a pre-training config's encoder as it is before the first step.

    Args:
        config: Pre-training config.
        seed: Seed of the initialisation.
        path: The file.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    backbone = build_model(read_config(config), seed=seed).get_submodule('backbone')
    partial = path.with_suffix('.tmp')
    torch.save({'state_dict': {f'backbone.{k}': v.cpu() for k, v in backbone.state_dict().items()}}, partial)
    partial.replace(path)


def _folder(encoder: str) -> str:
    return encoder.replace(' ', '_')


def _check(checkpoints: Sequence[Path], seeds: Sequence[int], tasks: Sequence[str], jobs: int, name: str) -> None:
    for task in tasks:
        check_choice('tasks', task, TASKS)
    for seed in seeds:
        check_number('seeds', seed, 0, integer=True)
    check_number('jobs', jobs, 1, integer=True)
    for field, values in (('tasks', tasks), ('seeds', seeds)):
        if not values or len(set(values)) != len(values):
            raise ValueError(f'`{field}` must be different from each other and at least one, but got {list(values)}')
    # Folders have no spaces: 'random_init' would share that of the random encoder.
    if _folder(name) == _folder(RANDOM) or '/' in name or not name:
        raise ValueError(f"`name` must be a word for the table other than {RANDOM!r} and without '/', but got {name!r}")
    if len(checkpoints) not in (1, len(seeds)):
        raise ValueError(
            f'`checkpoints` must be one, or one for each of the {len(seeds)} seeds, but got {len(checkpoints)}'
        )
    for path in checkpoints:
        if not path.is_file():
            raise FileNotFoundError(f'checkpoint {path} does not exist')
        encoder_digest(path)


def plan(
    checkpoints: Sequence[Path],
    random: Sequence[Path],
    seeds: Sequence[int],
    tasks: Sequence[str],
    name: str,
    out: Path,
) -> list[Run]:
    """List the runs, in the order in which they are started.

    Args:
        checkpoints: One checkpoint, or one for each seed.
        random: Checkpoint of the random encoder for each seed.
        seeds: Seeds.
        tasks: Keys of :data:`TASKS`.
        name: What the pre-trained encoder is called.
        out: Folder of everything.

    Returns:
        All combinations.
    """
    if len(checkpoints) == 1:
        checkpoints = list(checkpoints) * len(seeds)
    return [
        Run(task, encoder, seed, paths[index], out / task / _folder(encoder) / f'seed_{seed}')
        for task in TASKS
        if task in tasks
        for index, seed in enumerate(seeds)
        for encoder, paths in ((RANDOM, random), (name, checkpoints))
    ]


class _Processes:
    """Starts runs, and ends all of them when one fails or the benchmark is stopped."""

    def __init__(self, config_dir: Path, data: str, options: Sequence[str], echo: Callable[[str], None]) -> None:
        self.config_dir, self.data, self.options, self.echo = config_dir, data, list(options), echo
        self._running: set[subprocess.Popen] = set()
        self._lock = threading.Lock()
        self._stopped = False

    def command(self, run: Run) -> list[str]:
        """The command line of a run."""
        task = TASKS[run.task]
        config = self.config_dir / task.configs[self.data]
        command = [sys.executable, '-m', 'mmpl.evaluation.transfer_run', str(config)]
        command += [str(run.checkpoint), '--seed', str(run.seed), '--work-dir', str(run.work_dir)]
        command += ['--pictures', str(task.pictures)]
        command += ['--trust'] if unsafe_load_allowed() else []
        return command + (['--cfg-options', *self.options] if self.options else [])

    def __call__(self, run: Run) -> dict[str, Any]:
        """Run one and return its results.

        Raises:
            TransferError: If it fails.
        """
        run.work_dir.mkdir(parents=True, exist_ok=True)
        log = run.work_dir / 'log.txt'
        start = time.monotonic()
        root = Path(__file__).resolve().parents[2]
        path = os.pathsep.join(filter(None, [str(root), os.environ.get('PYTHONPATH', '')]))
        env = dict(os.environ, OMP_NUM_THREADS='1', MKL_NUM_THREADS='1', PYTHONPATH=path)
        with log.open('a') as file, self._lock:
            if self._stopped:
                raise TransferError('stopped')
            process = subprocess.Popen(self.command(run), stdout=file, stderr=subprocess.STDOUT, env=env)
            self._running.add(process)
        code = process.wait()
        with self._lock:
            self._running.discard(process)
        if code:
            end = '\n'.join(log.read_text(errors='replace').splitlines()[-15:])
            raise TransferError(f'{run.title} failed with exit code {code}:\n{end}\nThe whole log is in {log}')
        content = json.loads((run.work_dir / RESULTS).read_text())
        shown = ', '.join(f'{k} {v:.1f}' for k, v in scores(run.task, content['metrics']).items())
        self.echo(f'{run.title}: {shown} ({time.monotonic() - start:.0f} s)')
        return content

    def stop(self) -> None:
        """End what runs; nothing is started any more."""
        with self._lock:
            self._stopped = True
            for process in self._running:
                process.terminate()


def scores(task: str, metrics: Mapping[str, float]) -> dict[str, float]:
    """A task's columns from what its evaluator returned, in percent.

    Args:
        task: Key of :data:`TASKS`.
        metrics: The evaluator's metrics by name.

    Returns:
        Column -> value.

    Raises:
        KeyError: If the evaluator did not return a metric; the message lists those that it did.
    """
    missing = [key for key, _ in TASKS[task].metrics.values() if key not in metrics]
    if missing:
        raise KeyError(f'{task}: the evaluator returned no {missing}, only {sorted(metrics)}')
    return {column: metrics[key] * factor for column, (key, factor) in TASKS[task].metrics.items()}


def with_gain(rows: Sequence[Mapping], columns: Mapping[str, str]) -> str:
    """The Markdown table, with the difference of the means of the last and the first row below."""
    means = [{c: sum(row[c]) / len(row[c]) for c in columns} for row in (rows[0], rows[-1])]
    cells = [f'{means[1][c] - means[0][c]:+.1f}' for c in columns]
    return f'{as_markdown(rows, columns)}\n| difference | {" | ".join(cells)} | |'


def transfer(
    checkpoints: Sequence[str | os.PathLike],
    *,
    config_dir: str | os.PathLike,
    pretrain_config: str | os.PathLike | None = None,
    data: str = 'digits',
    out: str | os.PathLike = 'work_dirs/transfer',
    seeds: Sequence[int] = (0, 1, 2),
    tasks: Sequence[str] = tuple(TASKS),
    name: str = 'PL-MAE',
    jobs: int = 1,
    options: Sequence[str] = (),
    echo: Callable[[str], None] = print,
) -> str:
    """Fine-tune on the embedded data from checkpoints and from random initialisation; write a table and a picture.

    Random initialisation is the encoder of ``pretrain_config`` before its first step, loaded the same way; all else is
    equal between the two. ``out`` gets ``transfer.csv``, ``transfer.md``, ``results.json`` and ``transfer.png``, whose
    predictions are those of the first seed. Whether checkpoints may run code is decided by this process's policy
    (:func:`mmpl.compat.set_load_policy`), for the runs as well.

    Args:
        checkpoints: One pre-training checkpoint, or one for each seed.
        config_dir: ``configs/downstream``.
        pretrain_config: The config that made the checkpoints; by default that of :data:`PRETRAIN`, next to
            ``config_dir``.
        data: What is fine-tuned on, key of :data:`PRETRAIN`: scenes and crops of handwritten digits or of photographs.
        out: Folder of everything.
        seeds: Seeds of the heads, of the order of the images and of the random encoder.
        tasks: Keys of :data:`TASKS`.
        name: What the pre-trained encoder is called.
        jobs: How many runs at once, one thread each.
        options: Overrides of every run's config, ``key=value``.
        echo: Called with each line for the user.

    Returns:
        The table in Markdown.

    Raises:
        FileNotFoundError: If a checkpoint or a config is missing.
        ValueError: If an argument is out of range.
        TransferError: If a run fails.
    """
    from mmpl.visualization.predictions import draw_sheet

    check_choice('data', data, PRETRAIN)
    out, config_dir = Path(out), Path(config_dir)
    pretrain_config = config_dir.parent / PRETRAIN[data] if pretrain_config is None else pretrain_config
    paths = [Path(path).resolve() for path in checkpoints]
    _check(paths, seeds, tasks, jobs, name)
    if not Path(pretrain_config).is_file():
        raise FileNotFoundError(f'pretrain_config {pretrain_config} does not exist')
    random = [(out / 'random_init' / f'seed_{seed}.pth').resolve() for seed in seeds]
    for seed, path in zip(seeds, random, strict=True):
        write_random_encoder(pretrain_config, seed, path)
    runs = plan(paths, random, seeds, tasks, name, out)
    processes = _Processes(config_dir, data, options, echo)
    echo(f'{len(runs)} runs, {jobs} at once; logs in {out}')
    with ThreadPoolExecutor(jobs) as pool:
        futures = [pool.submit(processes, run) for run in runs]
        try:
            done, _ = wait(futures, return_when=FIRST_EXCEPTION)
            failed = [error for future in done if (error := future.exception())]
            if failed:
                raise failed[0]
        finally:
            for future in futures:
                future.cancel()
            processes.stop()
    contents = dict(zip(runs, (future.result() for future in futures), strict=True))

    columns = {c: COLUMNS[c] for c in COLUMNS if any(c in TASKS[task].metrics for task in tasks)}
    rows: list[dict[str, Any]] = []
    for encoder in (RANDOM, name):
        row: dict[str, Any] = {'name': encoder}
        for run, content in contents.items():
            if run.encoder == encoder:
                for column, value in scores(run.task, content['metrics']).items():
                    row.setdefault(column, []).append(round(value, 4))
        rows.append(row)
    table = with_gain(rows, columns)
    (out / 'transfer.md').write_text(table + '\n')
    (out / 'transfer.csv').write_text(as_csv(rows, columns))
    write_summary(rows, out)
    blocks: dict[str, dict[str, Any]] = {TASKS[task].title: {} for task in TASKS if task in tasks}
    for run, content in contents.items():
        if run.seed == seeds[0]:
            blocks[TASKS[run.task].title][run.encoder] = (run.work_dir / 'pictures', content['pictures'])
    draw_sheet(blocks, out / 'transfer.png')
    return table
