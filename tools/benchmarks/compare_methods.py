#!/usr/bin/env python
"""Every method on the same data with the same budget: kNN, linear probe, fine-tuning with a tenth of the labels.

    python tools/benchmarks/compare_methods.py                      # the default bench
    python tools/benchmarks/compare_methods.py --quick              # one seed, fewer images
    python tools/benchmarks/compare_methods.py --full               # more images, five seeds
    python tools/benchmarks/compare_methods.py --only surfaces-images-pl_mae   # some rows; a key starts with this
    python tools/benchmarks/compare_methods.py --data mine=FOLDER   # class folders of your own beside the others
    python tools/benchmarks/compare_methods.py --table              # no training: tables and plot of what is there

A *run* is one method on one data set with one budget and one seed. Its result is one JSON file in ``--out``, written
when the run is complete; what has such a file is not run again, so that an interrupted bench goes on where it stopped,
also on another machine; a result of other configs than those of today does not count. Two budgets: ``images`` (every
method sees as many images) and ``wall`` (every method trains for as long as the reference method does in its ``images``
run; how many iterations that is follows from the times measured there).
"""

import argparse
import copy
import functools
import json
import os
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from matplotlib.figure import Figure as Page
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.registry import MODELS, init_default_scope
from mmengine.runner import Runner
from torch import nn
from tqdm import tqdm

from bench.arguments import CONFIGS, add_job_arguments
from bench.jobs import Ended, Job, run_jobs
from bench.own_data import class_folders
from bench.reporting_sets import make
from bench.results import batch_size, fingerprint, num_masks, processor, write_json
from bench.tables import as_markdown, mean_sd
from mmpl.compat import set_load_policy
from mmpl.evaluation import DenseProbe, FeatureProbe
from mmpl.utils.config_errors import read_config
from mmpl.utils.dist import unwrapped
from mmpl.utils.figures import Figure
from mmpl.utils.seeds import preserve_rng_state
from mmpl.utils.user_errors import user_errors

GIVEN = 'given'  # of a method's data: the class folders of --data
BUDGETS = dict(images='equal images seen', wall='equal time')
HEALTH = 'health.'  # columns of figures of health, in a frame of results
METRICS = dict(
    knn='kNN (%)',
    linear='linear (%)',
    finetune='fine-tuned, 10 % of labels (%)',
    patch_knn='patch kNN (mIoU, %)',
    patch_linear='patch linear (mIoU, %)',
)


@dataclass(frozen=True)
class Run:
    """One training: a method on a data set with a budget and a seed."""

    method: str
    data: str
    budget: str
    seed: int

    @property
    def key(self) -> str:
        """Name of the run and of its result file."""
        return f'{self.data}-{self.budget}-{self.method}-{self.seed}'


class Bench:
    """A comparison as its config describes it.

    Args:
        config: ``data`` (name to fields of the embedded data set, its ``mean`` and ``std`` and whether patches are
            scored on its ``scenes``, or to what :func:`bench.own_data.class_folders` gives), ``methods`` (name to
            ``label``, ``config``, and where they differ ``finetune``, ``pool``, ``images``, ``data`` and ``budgets``;
            of ``data`` ``'given'`` stands for class folders; a method that ``needs`` a file which is not there is left
            out),
            ``reference``, ``seeds``, ``images``, ``curve_points``, ``curve`` and ``probe`` (options of
            :class:`mmpl.evaluation.FeatureProbe`). Files are named absolutely, as by
            ``'{{ fileDirname }}/methods/a.py'``, or relative to the current folder.
        results: Folder of the result files.
        work_dir: Folder of checkpoints and logs.
    """

    def __init__(self, config: Config, results: Path, work_dir: Path) -> None:
        self.config = config
        self.results = results
        self.work_dir = work_dir
        files = {name: method.get('needs') for name, method in config.methods.items()}
        self.lacking = {name: file for name, file in files.items() if file and not Path(file).is_file()}
        if config.reference not in config.methods:
            raise ValueError(f'`reference` must be one of {sorted(config.methods)}, but got {config.reference!r}')
        for name, method in config.methods.items():
            for field, known in (('data', [*config.data, GIVEN]), ('budgets', BUDGETS)):
                unknown = sorted(set(method.get(field, [])) - set(known))
                if unknown:
                    raise ValueError(f'`methods.{name}.{field}` must be among {sorted(known)}, but got {unknown}')

    def plan(self) -> list[Run]:
        """All runs: those of equal images first, for the times of the others follow from them."""
        return [
            Run(name, data, budget, seed)
            for budget in BUDGETS
            for data in self.config.data
            for seed in self.config.seeds
            for name in self.config.methods
            if self._is_wanted(name, data, budget)
        ]

    def _is_wanted(self, name: str, data: str, budget: str) -> bool:
        method = self.config.methods[name]
        if name in self.lacking:
            return False
        if budget not in method.get('budgets', BUDGETS) or budget not in self.config.data[data].get('budgets', BUDGETS):
            return False
        of_data = self.config.data[data]
        kind = GIVEN if 'folders' in of_data and 'reporting' not in of_data else data
        return kind in method.get('data', [kind]) and budget == self.source(name, budget)

    def source(self, name: str, budget: str) -> str:
        """Budget of the runs that a method is shown with; the reference's serve both, and so do untrained ones."""
        untrained = self.config.methods[name].get('config') is None
        return 'images' if untrained or name == self.config.reference else budget

    def path(self, run: Run) -> Path:
        """Where its result is."""
        return self.results / f'{run.key}.json'

    def folder(self, run: Run) -> Path:
        """Where its checkpoint and logs are; those of other data by the same name are elsewhere."""
        return self.work_dir / f'{run.key}-{self.fingerprint(run)}'

    def load(self, run: Run) -> dict | None:
        """Its result, if it is complete and of the configs as they are now."""
        try:
            result = json.loads(self.path(run).read_text(encoding='utf-8'))
        except FileNotFoundError:
            return None
        if result.get('fingerprint') != self.fingerprint(run):
            return None
        return result if run.budget == 'images' or self._follows(run, result) else None

    def _follows(self, run: Run, result: dict) -> bool:
        """Whether a run of equal time still has the length that follows from those of equal images."""
        found = [self.load(Run(name, run.data, 'images', run.seed)) for name in (run.method, self.config.reference)]
        if None in found:
            return False
        machines = {of_images['machine'].get('cpu') for of_images in found if of_images}
        if machines == {None}:  # older than the rule that both have one processor: nothing to compare with
            return True
        return len(machines) == 1 and result['iterations'] == self.iterations(run)

    def collect(self) -> list[dict]:
        """The results that are there, in the order of the plan."""
        return [result for run in self.plan() if (result := self.load(run)) is not None]

    def fingerprint(self, run: Run) -> str:
        """A number that changes with whatever the run's configs say; a result of other configs is none."""
        config, method = self.config, self.config.methods[run.method]
        reference = config.methods[config.reference].config
        files = [method.config or reference, method.get('finetune', config.get('finetune'))]
        if run.budget == 'wall':
            files.append(reference)  # its length follows from the reference's time
        shown = ('label', 'budgets', 'scenes', 'folders')  # what is shown and measured beside; contents have a digest
        data = {name: value for name, value in config.data[run.data].items() if name not in shown}
        asked = [method.get('images', config.get('images'))]
        asked += [config.get(field) for field in ('probe', 'curve', 'curve_points', 'threads')]
        return fingerprint([_config_as_dict(file) for file in files if file] + [data, method.get('pool'), asked])

    def iterations(self, run: Run) -> int:
        """How many iterations the run has.

        Raises:
            RuntimeError: If a run of equal images that the time budget follows from is not there.
        """
        method = self.config.methods[run.method]
        if method.get('config') is None:
            return 0
        images = method.get('images', self.config.images)
        of_images = max(1, images // batch_size(Config.fromfile(method.config)))
        if run.budget == 'images':
            return of_images
        times = {}
        for name in (run.method, self.config.reference):
            found = self.load(Run(name, run.data, 'images', run.seed))
            if found is None:
                raise RuntimeError(
                    f'{run.key}: its time follows from the run of {name} with equal images and this seed, which is '
                    'missing'
                )
            times[name] = found
        machines = [found['machine'].get('cpu') for found in times.values()]
        if None in machines or len(set(machines)) > 1:
            raise RuntimeError(
                f'{run.key}: its time follows from runs with equal images on one processor, but {" and ".join(times)} '
                f'were run on {" and ".join(cpu or "one that was not noted" for cpu in machines)}: '
                'remove their results and run both here'
            )
        ratio = times[self.config.reference]['seconds'] / times[run.method]['seconds']
        return max(1, round(of_images * ratio))

    # ------------------------------------------------------------------ one run

    def execute(self, run: Run) -> dict:
        """Train, measure, and write the result."""
        set_load_policy(trust=False)
        torch.set_num_threads(self.config.get('threads', 1))
        method, iterations = self.config.methods[run.method], self.iterations(run)
        base = Config.fromfile(method.config or self.config.methods[self.config.reference].config)
        runner = Runner.from_cfg(self._training_config(base, run, max(1, iterations)))
        clock = Clock(self._probe(run, 'val', linear=False, **self.config.curve), self.config.curve_points)
        runner.register_hook(clock)
        if iterations:
            runner.train()
        else:
            runner.model.init_weights()
        checkpoint = self.folder(run) / 'encoder.pth'
        torch.save(dict(state_dict=runner.model.state_dict()), checkpoint)
        result: dict[str, Any] = dict(
            **asdict(run),
            label=method.label,
            fingerprint=self.fingerprint(run),
            iterations=iterations,
            images=iterations * batch_size(base),
            views=iterations * batch_size(base) * num_masks(base),
            seconds=round(clock.seconds, 2),
            curve=clock.curve,
            health=_last_figures(runner),
            **self._accuracies(run, runner.model),
            finetune=self._finetune(run, method.get('finetune', self.config.finetune), checkpoint),
            machine=dict(
                torch=torch.__version__, cpus=os.cpu_count(), threads=torch.get_num_threads(), cpu=processor()
            ),
        )
        write_json(self.path(run), result)
        return result

    def _training_config(self, base: Config, run: Run, iterations: int) -> Config:
        cfg = copy.deepcopy(base)
        data = self.config.data[run.data]
        cfg.work_dir = str(self.folder(run))
        cfg.randomness = dict(seed=run.seed)
        cfg.resume = False
        cfg.model.data_preprocessor.mean, cfg.model.data_preprocessor.std = [data.mean] * 3, [data.std] * 3
        cfg.train_dataloader.dataset = self._images(run, 'train', cfg.train_dataloader.dataset)
        fit_images(cfg, data.get('side'))
        stretch(cfg, iterations)
        return cfg

    def _images(self, run: Run, split: str, base: dict) -> dict:
        """Config of the images of a split ('few': a tenth of the training images), with the fields of another one."""
        data = self.config.data[run.data]
        if 'folders' in data:
            return dict(type='CustomDataset', data_root=data.folders[split], pipeline=base['pipeline'])
        of_split = dict(split='train', fraction=0.1) if split == 'few' else dict(split=split)
        return dict(base, **data.dataset, **of_split)

    def _probe(self, run: Run, split: str, linear: bool, **options: Any):
        pipeline = [dict(type='LoadImageFromFile'), dict(type='PackInputs')]
        base = dict(type='mmpl.EmbeddedClassification', pipeline=pipeline)
        bank, scored = (
            dict(batch_size=250, num_workers=0, dataset=self._images(run, name, base)) for name in ('train', split)
        )
        pool = self.config.methods[run.method].get('pool')  # None: what the encoder has
        return FeatureProbe(bank, scored, pool=pool, linear=linear, **self.config.probe, **options)

    def _accuracies(self, run: Run, model: nn.Module) -> dict[str, Any]:
        """KNN and linear accuracy on test, of the pooling that is the better one on val."""
        scores = {split: self._probe(run, split, linear=True).run(model) for split in ('val', 'test')}
        accuracies: dict[str, Any] = dict(scores=scores)
        for metric in ('knn', 'linear'):
            pools = sorted(key for key in scores['val'] if key.startswith(f'{metric}_top1_'))  # of equal ones the mean
            accuracies[metric] = scores['test'][max(pools, key=lambda key: scores['val'][key])]
        if self.config.data[run.data].get('scenes'):
            patches = self._dense_probe(run).run(model)
            accuracies |= dict(patch_knn=patches['knn_miou'], patch_linear=patches['linear_miou'])
        return accuracies

    def _dense_probe(self, run: Run) -> DenseProbe:
        """Of the scenes of an embedded data set, which no choice is made with."""
        steps = ('LoadImageFromFile', 'mmseg.LoadAnnotations', 'mmseg.PackSegInputs')
        bank, scored = (
            dict(
                batch_size=50,
                num_workers=0,
                dataset=dict(
                    type='mmpl.EmbeddedSegDataset',
                    split=split,
                    pipeline=[dict(type=step) for step in steps],
                    **self.config.data[run.data].dataset,
                ),
            )
            for split in ('train', 'val')
        )
        known = {'k', 'temperature', 'max_iter'} & set(self.config.probe)
        return DenseProbe(bank, scored, **{name: self.config.probe[name] for name in known})

    def _finetune(self, run: Run, config: str, checkpoint: Path) -> float:
        """Top-1 accuracy on test of the whole encoder trained with a tenth of the labels."""
        cfg = Config.fromfile(config)
        data = self.config.data[run.data]
        cfg.work_dir = str(self.folder(run) / 'finetune')
        cfg.randomness = dict(seed=run.seed)
        cfg.data_preprocessor.update(mean=[data.mean] * 3, std=[data.std] * 3, num_classes=data.num_classes)
        cfg.model.head.num_classes = data.num_classes
        cfg.model.backbone.init_cfg.checkpoint = str(checkpoint)
        for split, loader in dict(few=cfg.train_dataloader, val=cfg.val_dataloader, test=cfg.test_dataloader).items():
            loader.dataset = self._images(run, split, loader.dataset)
        fit_images(cfg, data.get('side'))
        runner = Runner.from_cfg(cfg)
        runner.train()
        return round(runner.test()['accuracy/top1'], 2)


class Clock(Hook):
    """Measures the time of training, data loading included, and kNN along the way, which does not count.

    The time is the processor time of this process, which runs in one thread and loads its data itself: on an idle
    machine that is the wall-clock time, and what else runs on a busy one does not count.
    """

    priority = 'LOWEST'

    def __init__(self, probe, points: int) -> None:
        self.probe = probe
        self.points = points
        self.seconds = 0.0
        self.curve: list[dict[str, float]] = []

    def before_train(self, runner) -> None:
        """Build the probe and start."""
        self.probe.build(runner.model)
        self._add_point(runner, 0)
        self._start = time.process_time()

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None) -> None:
        """Stop the watch to probe the features, a few times in a run."""
        done, total = runner.iter + 1, runner.max_iters
        if done * self.points // total > (done - 1) * self.points // total:
            self.seconds += time.process_time() - self._start
            self._add_point(runner, done)
            self._start = time.process_time()

    def _add_point(self, runner, iteration: int) -> None:
        with preserve_rng_state():
            knn = self.probe.run(runner.model)['knn_top1']
        self.curve.append(dict(iteration=iteration, seconds=round(self.seconds, 2), knn=round(knn, 2)))


def stretch(cfg: Config, iterations: int) -> None:
    """Let a run that counts iterations take that many, its schedules in proportion; ``cfg`` is changed in place."""
    ratio = iterations / cfg.train_cfg.max_iters
    cfg.train_cfg.max_iters = iterations
    for scheduler in cfg.param_scheduler:
        for field in ('begin', 'end', 'T_max'):
            if field in scheduler:
                scheduler[field] = round(scheduler[field] * ratio)
    cfg.param_scheduler = [s for s in cfg.param_scheduler if s.get('end', 1) > s.get('begin', 0)]


def fit_images(cfg: Config, side: int | None) -> None:
    """Fit a config, in place, to square images of another side than its own: as many patches, in proportion larger."""
    own = cfg.model.backbone.img_size
    if side is None or side == own:
        return
    if 'Swin' in cfg.model.backbone.type:
        raise ValueError(f'{cfg.model.backbone.type} of the comparison is made for images of {own} pixels, not {side}')

    def fit(part: Any) -> Any:
        if isinstance(part, list):
            return [fit(item) for item in part]
        if not isinstance(part, dict):
            return part
        scaled = {'patch_size': lambda size: size * side // own}
        scaled |= dict.fromkeys(('img_size', 'scale'), lambda size: side if size == own else size)
        return {key: scaled.get(key, fit)(value) for key, value in part.items()}

    for field in ('model', 'train_dataloader', 'val_dataloader', 'test_dataloader'):
        if cfg.get(field):
            cfg[field] = fit(cfg[field].to_dict())


@functools.cache
def _config_as_dict(file: str) -> dict:
    return read_config(file).to_dict()


# ---------------------------------------------------------------------- figures of health


def declared_figures(model: nn.Module) -> dict[str, Figure]:
    """What a model declares of the figures that it logs, by the keys that they are logged under."""
    return getattr(model, 'figures', {})


@functools.cache
def _figures_of(file: str) -> dict[str, Figure]:
    """What the model of a config declares."""
    cfg = read_config(file)
    init_default_scope(cfg.get('default_scope', 'mmpretrain'))
    return declared_figures(MODELS.build(cfg.model))


def _last_figures(runner) -> dict[str, float]:
    """The last values of what the model declares."""
    scalars = runner.message_hub.log_scalars
    declared = [name for name in declared_figures(unwrapped(runner.model)) if f'train/{name}' in scalars]
    return {name: round(float(scalars[f'train/{name}'].current()), 4) for name in declared}


def health_columns(files: Iterable[str]) -> dict[str, list[str]]:
    """Heading in the table -> names of the figures below it, one a part, as the models of configs declare them."""
    parts: dict[str, dict[str, str]] = {}
    for file in files:
        for name, figure in _figures_of(file).items():
            if figure.column:
                parts.setdefault(figure.column, {})[name] = figure.part
    return {
        f'{column} ({", ".join(names.values())})' if any(names.values()) else column: list(names)
        for column, names in parts.items()
    }


# ---------------------------------------------------------------------- tables and plot


def shown(bench: Bench, runs: pd.DataFrame) -> dict[tuple[str, str], pd.DataFrame]:
    """Runs by data set and budget, in the order of the methods; the reference has the same runs in both."""
    order = {name: number for number, name in enumerate(bench.config.methods)}
    found = {}
    for data, fields in bench.config.data.items():
        for budget in fields.get('budgets', BUDGETS):
            source = runs['method'].map(partial(bench.source, budget=budget))
            rows = runs[(runs['data'] == data) & (runs['budget'] == source)]
            if len(rows):
                found[data, budget] = rows.sort_values('method', key=lambda names: names.map(order), kind='stable')
    return found


def table(bench: Bench, runs: pd.DataFrame) -> pd.DataFrame:
    """One row a method, mean ± standard deviation (of the sample) over the seeds."""
    groups = runs.groupby('method', sort=False)
    columns = {'method': groups['label'].first()}
    measured = {metric: heading for metric, heading in METRICS.items() if metric in runs and runs[metric].notna().any()}
    columns |= {heading: groups[metric].agg(mean_sd) for metric, heading in measured.items()}
    for field, heading in dict(images='images', views='masked views').items():
        columns[heading] = groups[field].mean().map('{:,.0f}'.format)
    columns['time (s)'] = groups['seconds'].agg(partial(mean_sd, digits=0))
    with_health = runs.loc[runs.filter(like=HEALTH).notna().any(axis=1), 'method'].unique()
    for heading, names in health_columns(bench.config.methods[name].config for name in with_health).items():
        means = runs.reindex(columns=[HEALTH + name for name in names]).groupby(runs['method'], sort=False).mean()
        columns[heading] = means.map(lambda value: '–' if pd.isna(value) else f'{value:.2f}').agg(', '.join, axis=1)
    columns['seeds'] = groups.size().astype(str)
    return pd.DataFrame(columns)


def overview(bench: Bench, tables: dict[tuple[str, str], pd.DataFrame], budget: str) -> pd.DataFrame:
    """Means over the seeds of kNN and linear accuracy, one row a method and one column a data set."""
    columns: dict[str, pd.Series] = {}
    for (data, of_budget), rows in tables.items():
        if of_budget == budget:
            groups = rows.groupby('method', sort=False)
            means = groups[['knn', 'linear']].mean().map('{:.1f}'.format).agg(' / '.join, axis=1)
            columns[f'{data} (seeds)'] = means + ' (' + groups.size().astype(str) + ')'
    found = pd.DataFrame(columns).reindex(
        [name for name in bench.config.methods if any(name in c for c in columns.values())]
    )
    labels = [bench.config.methods[name].label for name in found.index]
    return found.fillna('–').rename_axis('method').assign(method=labels)[['method', *columns]]


def write_csv(runs: pd.DataFrame, path: Path) -> None:
    """One line a run."""
    columns = ['data', 'budget', 'method', 'seed', 'iterations', 'images', 'views', 'seconds']
    columns += [*(metric for metric in METRICS if metric in runs), *sorted(runs.filter(like=HEALTH))]
    header = [name.removeprefix(HEALTH) for name in columns]
    runs[columns].to_csv(path, header=header, index=False, lineterminator='\r\n')  # as RFC 4180 has it


def plot(bench: Bench, tables: dict[tuple[str, str], pd.DataFrame], path: Path) -> None:
    """KNN accuracy over training time, one line a method, one panel a data set; mean and spread over the seeds.

    Methods that are compared with one budget alone, such as variants, are left out where others are there.
    """
    panels = {}
    methods = bench.config.methods
    both = [name for name in methods if set(methods[name].get('budgets', BUDGETS)) == set(BUDGETS)]
    for data in bench.config.data:
        found = [rows for budget in BUDGETS if (rows := tables.get((data, budget))) is not None]
        found = [rows[rows['method'].isin(both)] for rows in found if rows['method'].isin(both).any()] or found
        if found:  # the budget of which more methods are there; of both, that of equal time
            panels[data] = max(reversed(found), key=lambda rows: rows['method'].nunique())
    page = Page(figsize=(6.4 * len(panels), 4.6), layout='constrained')
    names = list(methods)
    for axes, (data, rows) in zip(page.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True):
        for name, found in rows.groupby('method', sort=False):
            curves = [pd.DataFrame(curve) for curve in found['curve'] if len(curve) > 1]
            if not curves:
                continue
            points = pd.concat(curves).groupby(level=0)  # the index counts the points
            means = points.mean()[: min(map(len, curves))]
            spread = points['knn'].std().fillna(0)[: len(means)]
            number = names.index(name)
            colour, line = f'C{number % 10}', ('-', '--', ':')[number // 10 % 3]
            style = dict(color=colour, linestyle=line, marker='o', markersize=3)
            axes.plot(means['seconds'], means['knn'], label=found['label'].iloc[0], **style)
            low, high = means['knn'] - spread, means['knn'] + spread
            axes.fill_between(means['seconds'], low, high, color=colour, alpha=0.12, linewidth=0)
        axes.set(title=bench.config.data[data].label, xlabel='training time (s of one core)')
        axes.set_ylabel('kNN top-1, val (%)')
        axes.grid(alpha=0.3)
        axes.set_axisbelow(True)
    lines = {label: line for ax in page.axes for line, label in zip(*ax.get_legend_handles_labels(), strict=True)}
    if lines:
        axes.legend(lines.values(), lines, fontsize=8, loc='center left', bbox_to_anchor=(1.01, 0.5), frameon=False)
    page.savefig(path, dpi=110)


def write_all(bench: Bench, folder: Path) -> str:
    """Write ``results.csv``, ``table.md`` and ``curves.png``; return the table, empty without any result."""
    results = bench.collect()
    if not results:
        return ''
    folder.mkdir(parents=True, exist_ok=True)
    runs = pd.json_normalize(results)  # figures of health become columns
    tables = shown(bench, runs)
    text = '\n'.join(
        f'### kNN / linear (%): {BUDGETS[budget]}\n\n{as_markdown(overview(bench, tables, budget))}\n'
        for budget in dict.fromkeys(budget for _, budget in tables)
    )
    text += '\n' + '\n'.join(
        f'### {bench.config.data[data].label}: {BUDGETS[budget]}\n\n{as_markdown(table(bench, rows))}\n'
        for (data, budget), rows in tables.items()
    )
    write_csv(runs, folder / 'results.csv')
    (folder / 'table.md').write_text(text + '\n', encoding='utf-8')
    plot(bench, tables, folder / 'curves.png')
    return text


# ---------------------------------------------------------------------- command line


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = CONFIGS / 'benchmarks' / 'compare_methods.py'
    form = parser.add_mutually_exclusive_group()
    form.add_argument(
        '--config', type=Path, default=default, help='the comparison; default: configs/benchmarks/compare_methods.py'
    )
    for name, meaning in dict(quick='one seed, fewer images', full='more images, five seeds').items():
        const = default.with_stem(f'compare_methods_{name}')
        form.add_argument(f'--{name}', action='store_const', dest='config', const=const, help=meaning)
    parser.add_argument(
        '--out', type=Path, help='folder of the results; default: work_dirs/compare_methods[_quick|_full]'
    )
    parser.add_argument(
        '--only', nargs='+', action='extend', metavar='KEY', help='runs whose key starts with one of these'
    )
    parser.add_argument(
        '--data',
        nargs='+',
        action='extend',
        default=[],
        metavar='NAME=FOLDER',
        help='further data: class folders, or splits (train, val, test) of such; variants of PL-MAE do without',
    )
    add_job_arguments(parser)
    parser.add_argument('--table', action='store_true', help='only write the tables and the plot')
    args = parser.parse_args(argv)
    args.out = args.out or Path('work_dirs') / args.config.stem
    return args


@user_errors()
def main(argv: list[str] | None = None) -> int:
    """Run the bench; returns the number of runs that failed."""
    args = parse_args(argv)
    config = read_config(args.config)
    add_reporting_sets(config, Path('work_dirs') / 'reporting_sets')
    add_own_data(config, args.data, args.out / 'data')
    bench = Bench(config, args.out / 'runs', Path('work_dirs') / args.config.stem)
    plan = {run.key: run for run in bench.plan()}
    for name, file in bench.lacking.items():
        print(f'{config.methods[name].label} is left out: {file} is not there', flush=True)
    if args.run:
        if args.run not in plan:
            raise ValueError(f'--run {args.run}: there is no such run; keys are {", ".join(plan)}')
        bench.execute(plan[args.run])
        return 0
    wanted = [run for key, run in plan.items() if key.startswith(tuple(args.only or ['']))]
    if not wanted:
        raise ValueError(f'--only {" ".join(args.only)}: no run has such a key; keys are {", ".join(plan)}')
    command = [sys.executable, __file__, *(sys.argv[1:] if argv is None else argv), '--run']
    failed = 0 if args.table else run_all(bench, wanted, command, args)
    text = write_all(bench, args.out)
    if text:
        print(f'{text}\nwrote {args.out}/table.md, results.csv and curves.png')
    elif not failed:
        raise FileNotFoundError(f'no result in {bench.results} is one of {args.config} as it is now')
    return failed


def add_reporting_sets(config: Config, cache: Path) -> None:
    """Make the data sets of a comparison that are ``reporting`` ones, and fill in their folders and statistics."""
    for name, fields in config.data.items():
        if 'reporting' in fields:
            fields.update(class_folders(name, make(fields.reporting, cache), fields.side, cache), label=fields.label)


def add_own_data(config: Config, given: Sequence[str], cache: Path) -> None:
    """Add ``NAME=FOLDER`` of the command line to a comparison's data, in the size of its encoders."""
    for text in given:
        name, separator, folder = text.partition('=')
        if not separator or not folder or not name.isidentifier() or name in config.data:
            raise ValueError(f'--data must be NAME=FOLDER with a new name such as mine=~/images, but got {text!r}')
        side = read_config(config.methods[config.reference].config).model.backbone.img_size
        data = config.data[name] = class_folders(name, Path(folder).expanduser(), side, cache)
        classes = sorted(path.name for path in Path(data['folders']['train']).iterdir())
        counts = {split: len(list(Path(place).rglob('*.png'))) for split, place in data['folders'].items()}
        if counts['train'] < config.probe.k:
            raise ValueError(
                f'--data {text}: kNN asks the {config.probe.k} nearest training images (`probe.k` of the comparison), '
                f'but there are {counts["train"]}'
            )
        print(
            f'{name}: {len(classes)} classes ({", ".join(classes[:8])}{", ..." if len(classes) > 8 else ""}), {counts}'
        )


def run_all(bench: Bench, wanted: Sequence[Run], command: Sequence[str], args: argparse.Namespace) -> int:
    """Train what has no result yet, with a line for each run that ends and a bar below.

    Returns:
        The number of runs that failed.
    """
    done = sum(bench.load(run) is not None for run in wanted)
    print(f'{len(wanted)} runs, {done} of them done already, {args.jobs} at once', flush=True)
    ended: list[Ended] = []
    with tqdm(total=len(wanted), initial=done, unit='run', smoothing=0) as bar:

        def on_end(run: Ended) -> None:
            ended.append(run)
            if run.result is None:
                bar.write(f'{run.job.key} FAILED ({run.code}): see {run.job.log}')
            else:
                figures = '  '.join(f'{name} {run.result[name]:.1f}' for name in METRICS if name in run.result)
                bar.write(f'{run.job.key}: {figures}  {run.result["seconds"]:.0f} s')
            bar.update()
            if len(ended) % 5 == 0:
                write_all(bench, args.out)

        for budget in BUDGETS:  # runs of equal time after all of equal images
            jobs = [
                Job(run.key, [*command, run.key], bench.folder(run) / 'log.txt', partial(bench.load, run))
                for run in wanted
                if run.budget == budget
            ]
            run_jobs(jobs, args.jobs, on_end, threads=bench.config.get('threads', 1))
    return sum(run.result is None for run in ended)


if __name__ == '__main__':
    sys.exit(min(main(), 1))
