"""Every method on the same data with the same budget: the work behind ``tools/benchmarks/compare_methods.py``.

A *run* is one method on one data set with one budget and one seed. Its result is one JSON file, written when the run is
complete; what has such a file is not run again, so that an interrupted bench goes on where it stopped, also on another
machine; a result of other configs than those of today does not count. Two budgets: ``images`` (every method sees as
many images) and ``wall`` (every method trains for as long as the reference method does in its ``images`` run; how many
iterations that is follows from the times measured there).
"""

import copy
import csv
import functools
import hashlib
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.hooks import Hook

from mmpl.utils.config_errors import read_config

BUDGETS = ('images', 'wall')
METRICS = dict(knn='kNN', linear='linear', finetune='fine-tuned, 10 % of labels')


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
        config (Config): ``data`` (name to fields of the embedded data set and its ``mean`` and ``std``), ``methods``
            (name to ``label``, ``config``, and where they differ ``finetune`` and ``data``), ``reference``, ``seeds``,
            ``images``, ``curve_points``, ``curve`` and ``probe`` (options of
            :class:`mmpl.evaluation.FeatureProbe`). Files are named absolutely, as by
            ``'{{ fileDirname }}/methods/a.py'``, or relative to the current folder.
        results (Path): Folder of the result files.
        work_dir (Path): Folder of checkpoints and logs.

    Raises:
        ValueError: If the reference is no method, or a method names a data set that is not there.
    """

    def __init__(self, config: Config, results: Path, work_dir: Path) -> None:
        self.config = config
        self.results = results
        self.work_dir = work_dir
        if config.reference not in config.methods:
            raise ValueError(f'`reference` must be one of {sorted(config.methods)}, but got {config.reference!r}')
        for name, method in config.methods.items():
            for field, known in (('data', config.data), ('budgets', BUDGETS)):
                unknown = sorted(set(method.get(field, [])) - set(known))
                if unknown:
                    raise ValueError(f'`methods.{name}.{field}` must be among {sorted(known)}, but got {unknown}')

    def plan(self) -> list[Run]:
        """All runs: those of equal images first, for the times of the others follow from them."""
        runs = []
        for budget in BUDGETS:
            for data, fields in self.config.data.items():
                if budget not in fields.get('budgets', BUDGETS):
                    continue
                for seed in self.config.seeds:
                    for name, method in self.config.methods.items():
                        if data not in method.get('data', list(self.config.data)):
                            continue
                        if budget not in method.get('budgets', BUDGETS):
                            continue
                        if budget == 'wall' and (method.get('config') is None or name == self.config.reference):
                            continue  # nothing is trained, or the run of equal images is the run of equal time
                        runs.append(Run(name, data, budget, seed))
        return runs

    def path(self, run: Run) -> Path:
        """Where its result is."""
        return self.results / f'{run.key}.json'

    def load(self, run: Run) -> dict | None:
        """Its result, if it is complete and of the configs as they are now."""
        try:
            result = json.loads(self.path(run).read_text(encoding='utf-8'))
        except FileNotFoundError:
            return None
        return result if result.get('fingerprint') == self.fingerprint(run) else None

    def fingerprint(self, run: Run) -> str:
        """A number that changes with whatever the run's configs say; a result of other configs is none."""
        config, method = self.config, self.config.methods[run.method]
        reference = config.methods[config.reference].config
        files = [method.config or reference, method.get('finetune', config.get('finetune'))]
        if run.budget == 'wall':
            files.append(reference)  # its length follows from the reference's time
        data = {name: value for name, value in config.data[run.data].items() if name not in ('label', 'budgets')}
        asked = [method.get('images', config.get('images'))]
        asked += [config.get(field) for field in ('probe', 'curve', 'curve_points', 'threads')]
        contents = [_read_config(file) for file in files if file] + [data, method.get('pool'), asked]
        return hashlib.sha256(json.dumps(contents, sort_keys=True, default=str).encode()).hexdigest()[:12]

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
            found = [self.load(Run(name, run.data, 'images', seed)) for seed in self.config.seeds]
            times[name] = [result['seconds'] for result in found if result is not None]
            if not times[name]:
                raise RuntimeError(
                    f'{run.key}: its time follows from a run of {name} with equal images, which is missing'
                )
        ratio = statistics.median(times[self.config.reference]) / statistics.median(times[run.method])
        return max(1, round(of_images * ratio))

    # ------------------------------------------------------------------ one run

    def execute(self, run: Run) -> dict:
        """Train, measure, and write the result."""
        import torch
        from mmengine.runner import Runner

        from mmpl.compat import forbid_unsafe_load

        forbid_unsafe_load()
        torch.set_num_threads(self.config.get('threads', 1))
        method, iterations = self.config.methods[run.method], self.iterations(run)
        base = Config.fromfile(method.config or self.config.methods[self.config.reference].config)
        cfg = self._training_config(base, run, max(1, iterations))
        runner = Runner.from_cfg(cfg)
        clock = Clock(self._probe(run, 'val', linear=False, **self.config.curve), self.config.curve_points)
        runner.register_hook(clock)
        if iterations:
            runner.train()
        else:
            runner.model.init_weights()
        model = runner.model
        checkpoint = self.work_dir / run.key / 'encoder.pth'
        torch.save(dict(state_dict=model.state_dict()), checkpoint)
        result: dict[str, Any] = dict(
            **asdict(run),
            label=method.label,
            fingerprint=self.fingerprint(run),
            iterations=iterations,
            images=iterations * batch_size(base),
            views=iterations * batch_size(base) * _num_masks(base),
            seconds=round(clock.seconds, 2),
            curve=clock.curve,
            health=_health(runner),
            **self._accuracies(run, model),
            finetune=self._finetune(run, method.get('finetune', self.config.finetune), checkpoint),
            peak_memory_mib=round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
            machine=dict(torch=torch.__version__, cpus=os.cpu_count(), threads=torch.get_num_threads()),
        )
        self.results.mkdir(parents=True, exist_ok=True)
        partial = self.path(run).with_suffix('.tmp')
        partial.write_text(json.dumps(result, indent=1, sort_keys=True) + '\n', encoding='utf-8')
        partial.replace(self.path(run))
        return result

    def _training_config(self, base: Config, run: Run, iterations: int) -> Config:
        cfg = copy.deepcopy(base)
        data = self.config.data[run.data]
        cfg.work_dir = str(self.work_dir / run.key)
        cfg.randomness = dict(seed=run.seed)
        cfg.resume = False
        cfg.model.data_preprocessor.mean, cfg.model.data_preprocessor.std = [data.mean] * 3, [data.std] * 3
        cfg.train_dataloader.dataset.update(data.dataset)
        stretch(cfg, iterations)
        return cfg

    def _probe(self, run: Run, split: str, linear: bool, **options: Any):
        from mmpl.evaluation.probe import FeatureProbe

        fields = dict(self.config.data[run.data].dataset)
        loaders = [
            dict(
                batch_size=250,
                num_workers=0,
                dataset=dict(
                    type='mmpl.EmbeddedClassification',
                    split=part,
                    pipeline=[dict(type='LoadImageFromFile'), dict(type='PackInputs')],
                    **fields,
                ),
            )
            for part in ('train', split)
        ]
        pool = self.config.methods[run.method].get('pool', ['avg', 'cls'])
        return FeatureProbe(loaders[0], loaders[1], pool=pool, linear=linear, **self.config.probe, **options)

    def _accuracies(self, run: Run, model) -> dict[str, Any]:
        """KNN and linear accuracy on test, of the pooling that is the better one on val."""
        scores = {}
        for split in ('val', 'test'):
            probe = self._probe(run, split, linear=True)
            probe.build(model)
            scores[split] = probe.run(model)
        accuracies: dict[str, Any] = dict(scores=scores)
        for metric in ('knn', 'linear'):
            pools = [key for key in scores['val'] if key.startswith(f'{metric}_top1_')] or [f'{metric}_top1']
            accuracies[metric] = scores['test'][max(pools, key=lambda key: scores['val'][key])]
        return accuracies

    def _finetune(self, run: Run, config: str, checkpoint: Path) -> float:
        """Top-1 accuracy on test of the whole encoder trained with a tenth of the labels."""
        from mmengine.runner import Runner

        cfg = Config.fromfile(config)
        data = self.config.data[run.data]
        cfg.work_dir = str(self.work_dir / run.key / 'finetune')
        cfg.randomness = dict(seed=run.seed)
        cfg.data_preprocessor.update(mean=[data.mean] * 3, std=[data.std] * 3, num_classes=data.num_classes)
        cfg.model.head.num_classes = data.num_classes
        cfg.model.backbone.init_cfg.checkpoint = str(checkpoint)
        for loader in (cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader):
            loader.dataset.update(data.dataset)
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
        self._look(runner, 0)
        self._start = time.process_time()

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None) -> None:
        """Stop the watch for a look at the features, a few times in a run."""
        done, total = runner.iter + 1, runner.max_iters
        if done * self.points // total > (done - 1) * self.points // total:
            self.seconds += time.process_time() - self._start
            self._look(runner, done)
            self._start = time.process_time()

    def _look(self, runner, iteration: int) -> None:
        from mmpl.utils.seeds import preserve_rng_state

        with preserve_rng_state():
            knn = self.probe.run(runner.model)['knn_top1']
        self.curve.append(dict(iteration=iteration, seconds=round(self.seconds, 2), knn=round(knn, 2)))


@functools.cache
def _read_config(file: str) -> dict:
    return read_config(file).to_dict()


def batch_size(cfg: Config) -> int:
    """Images of one iteration."""
    return cfg.train_dataloader.batch_size


def _num_masks(cfg: Config) -> int:
    return cfg.model.get('masking', {}).get('num_masks', 1)


def stretch(cfg: Config, iterations: int) -> None:
    """Let a run that counts iterations take that many, its schedules in proportion.

    Args:
        cfg (Config): Of an iteration-based run; changed in place.
        iterations (int): How many.
    """
    ratio = iterations / cfg.train_cfg.max_iters
    cfg.train_cfg.max_iters = iterations
    for scheduler in cfg.param_scheduler:
        for field in ('begin', 'end', 'T_max'):
            if field in scheduler:
                scheduler[field] = round(scheduler[field] * ratio)
    cfg.param_scheduler = [s for s in cfg.param_scheduler if s.get('end', 1) > s.get('begin', 0)]


def _health(runner) -> dict[str, float]:
    """The last figures that the teacher hook logged."""
    wanted = ('usage', 'entropy_marginal', 'entropy_mean', 'agreement', 'spread')
    scalars = runner.message_hub.log_scalars
    return {
        key.removeprefix('train/'): round(float(scalars[key].current()), 4)
        for key in scalars
        if key.startswith('train/') and key.endswith(wanted)
    }


# ---------------------------------------------------------------------- many runs


def schedule(bench: Bench, runs: Sequence[Run], command: Sequence[str], jobs: int) -> Iterator[tuple[Run, int]]:
    """Run what has no result yet, some processes at once; those of equal time after all of equal images.

    Args:
        bench (Bench): The comparison.
        runs (Sequence[Run]): What is wanted.
        command (Sequence[str]): Start of the command of one run; its key is appended.
        jobs (int): Processes at once.

    Yields:
        tuple[Run, int]: A run that ended, and its exit code.
    """
    bench.work_dir.mkdir(parents=True, exist_ok=True)
    environment = dict(os.environ, OMP_NUM_THREADS=str(bench.config.get('threads', 1)), PYTHONWARNINGS='ignore')
    for budget in BUDGETS:
        waiting = [run for run in runs if run.budget == budget and bench.load(run) is None]
        active: list[tuple[Run, subprocess.Popen]] = []
        try:
            while waiting or active:
                while waiting and len(active) < jobs:
                    run = waiting.pop(0)
                    (bench.work_dir / run.key).mkdir(parents=True, exist_ok=True)
                    with open(bench.work_dir / run.key / 'log.txt', 'w', encoding='utf-8') as log:
                        process = subprocess.Popen(
                            [*command, run.key], stdout=log, stderr=subprocess.STDOUT, env=environment
                        )
                    active.append((run, process))
                time.sleep(0.2)
                for run, process in [pair for pair in active if pair[1].poll() is not None]:
                    active.remove((run, process))
                    yield run, process.returncode
        finally:
            for _, process in active:
                process.terminate()


# ---------------------------------------------------------------------- results


def collect(bench: Bench) -> list[dict]:
    """The results that are there, in the order of the plan."""
    return [result for run in bench.plan() if (result := bench.load(run)) is not None]


def group(bench: Bench, results: Sequence[Mapping]) -> dict[tuple[str, str], dict[str, list[Mapping]]]:
    """Results by data set and budget, then by method; the reference has the same runs in both."""
    groups: dict[tuple[str, str], dict[str, list[Mapping]]] = {}
    for data, fields in bench.config.data.items():
        for budget in fields.get('budgets', BUDGETS):
            for name in bench.config.methods:
                same = name == bench.config.reference or bench.config.methods[name].get('config') is None
                source = 'images' if same else budget
                found = [r for r in results if (r['data'], r['budget'], r['method']) == (data, source, name)]
                if found:
                    groups.setdefault((data, budget), {})[name] = found
    return groups


def write_csv(results: Sequence[Mapping], path: Path) -> None:
    """One line a run."""
    columns = ['data', 'budget', 'method', 'seed', 'iterations', 'images', 'views', 'seconds', 'peak_memory_mib']
    columns += list(METRICS)
    health = sorted({key for result in results for key in result['health']})
    with open(path, 'w', newline='', encoding='utf-8') as file:
        writer = csv.writer(file)
        writer.writerow(columns + health)
        for result in results:
            writer.writerow([result[key] for key in columns] + [result['health'].get(key, '') for key in health])


def as_markdown(bench: Bench, results: Sequence[Mapping]) -> str:
    """A table for each data set and budget, mean ± standard deviation (of the sample) over the seeds."""
    parts = []
    for (data, budget), methods in group(bench, results).items():
        parts.append(
            f'### {bench.config.data[data].label}: {"equal images seen" if budget == "images" else "equal time"}\n'
        )
        parts.append(
            '| method | kNN (%) | linear (%) | fine-tuned, 10 % of labels (%) | images | masked views | time (s) '
            '| memory (MiB) | prototypes in use (class, data) | entropy of the mean label (class, data) | seeds |'
        )
        parts.append('|' + ' --- |' * 11)
        for found in methods.values():
            cells = [found[0]['label']]
            cells += [_mean(found, metric) for metric in METRICS]
            cells += [f'{statistics.mean(r["images"] for r in found):,.0f}']
            cells += [f'{statistics.mean(r["views"] for r in found):,.0f}']
            cells += [_mean(found, 'seconds', 0), _mean(found, 'peak_memory_mib', 0)]
            for figure in ('usage', 'entropy_marginal'):
                values = [
                    [r['health'][f'{head}_{figure}'] for r in found if f'{head}_{figure}' in r['health']]
                    for head in ('cls', 'data')
                ]
                cells.append(', '.join(f'{statistics.mean(v):.2f}' if v else '–' for v in values))
            parts.append(f'| {" | ".join(cells)} | {len(found)} |')
        parts.append('')
    return '\n'.join(parts)


def _mean(found: Sequence[Mapping], key: str, digits: int = 1) -> str:
    values = [result[key] for result in found]
    spread = f' ± {statistics.stdev(values):.{digits}f}' if len(values) > 1 else ''
    return f'{statistics.mean(values):.{digits}f}{spread}'


def plot(bench: Bench, results: Sequence[Mapping], path: Path) -> None:
    """KNN accuracy over training time, one line a method, one panel a data set; mean and spread over the seeds."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    groups = group(bench, results)
    panels = {}
    for data in bench.config.data:
        # the budget of which more methods are there; of both, that of equal time
        budgets = sorted((len(groups[data, b]), BUDGETS.index(b)) for b in BUDGETS if (data, b) in groups)
        if budgets:
            panels[data] = groups[data, BUDGETS[budgets[-1][1]]]
    if not panels:
        return
    figure = Figure(figsize=(6.4 * len(panels), 4.6), layout='constrained')
    FigureCanvasAgg(figure)
    names = list(bench.config.methods)
    for axes, (data, methods) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True):
        for name, found in methods.items():
            runs = [result['curve'] for result in found if len(result['curve']) > 1]
            if not runs:
                continue
            points = range(min(map(len, runs)))
            seconds = [statistics.mean(run[i]['seconds'] for run in runs) for i in points]
            knn = [statistics.mean(run[i]['knn'] for run in runs) for i in points]
            spread = [statistics.stdev(run[i]['knn'] for run in runs) if len(runs) > 1 else 0.0 for i in points]
            number = names.index(name)
            style = dict(color=f'C{number % 10}', linestyle=('-', '--', ':')[number // 10 % 3])
            axes.plot(seconds, knn, label=found[0]['label'], marker='o', markersize=3, **style)
            low, high = [k - s for k, s in zip(knn, spread)], [k + s for k, s in zip(knn, spread)]  # noqa: B905
            axes.fill_between(seconds, low, high, color=style['color'], alpha=0.12, linewidth=0)
        axes.set(
            title=bench.config.data[data].label, xlabel='training time (s of one core)', ylabel='kNN top-1, val (%)'
        )
        axes.grid(alpha=0.3)
        axes.set_axisbelow(True)
    lines = {label: line for ax in figure.axes for line, label in zip(*ax.get_legend_handles_labels(), strict=True)}
    if lines:
        axes.legend(lines.values(), lines, fontsize=8, loc='center left', bbox_to_anchor=(1.01, 0.5), frameon=False)
    figure.savefig(path, dpi=110)


def write_all(bench: Bench, folder: Path) -> str:
    """Write ``results.csv``, ``table.md`` and ``curves.png``; return the table."""
    results = collect(bench)
    folder.mkdir(parents=True, exist_ok=True)
    if not results:
        return ''
    table = as_markdown(bench, results)
    write_csv(results, folder / 'results.csv')
    (folder / 'table.md').write_text(table + '\n', encoding='utf-8')
    plot(bench, results, folder / 'curves.png')
    return table


def python() -> str:
    """The interpreter that runs this."""
    return sys.executable
