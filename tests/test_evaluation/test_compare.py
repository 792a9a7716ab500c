"""The comparison of methods: its plan, the length of its runs, its tables, and that it goes on where it stopped."""

import csv
import json
import runpy
import shutil
import statistics
import sys
from pathlib import Path

import pytest
from mmengine.config import Config

from mmpl.evaluation import compare
from mmpl.evaluation.compare import Bench, Run

ROOT = Path(__file__).resolve().parents[2]
METHOD = """
model = dict(data_preprocessor=dict(mean=[0], std=[1]), masking=dict(num_masks={masks}))
train_dataloader = dict(batch_size={batch}, dataset=dict())
train_cfg = dict(type='IterBasedTrainLoop', max_iters=600)
param_scheduler = [dict(type='LinearLR', begin=0, end=60), dict(type='CosineAnnealingLR', begin=60, end=600)]
"""


@pytest.fixture
def bench(tmp_path) -> Bench:
    (tmp_path / 'slow.py').write_text(METHOD.format(masks=2, batch=64))
    (tmp_path / 'quick.py').write_text(METHOD.format(masks=1, batch=128))
    config = Config(
        dict(
            images=12_800,
            seeds=[0, 1, 2],
            reference='slow',
            curve_points=2,
            curve=dict(),
            data=dict(main=dict(label='Main'), other=dict(label='Other', budgets=['images'])),
            methods=dict(
                random=dict(label='random init', config=None),
                slow=dict(label='Slow', config=str(tmp_path / 'slow.py')),
                quick=dict(label='Quick', config=str(tmp_path / 'quick.py'), data=['main']),
            ),
        )
    )
    return Bench(config, tmp_path / 'runs', tmp_path / 'work')


def put(bench: Bench, run: Run, **kwargs) -> dict:
    """Write a result as a run would."""
    result = dict(
        method=run.method, data=run.data, budget=run.budget, seed=run.seed, label=run.method, iterations=1, images=10,
        fingerprint=bench.fingerprint(run),
        views=20, seconds=1.0, curve=[dict(iteration=0, seconds=0.0, knn=1.0), dict(iteration=1, seconds=1.0, knn=2.0)],
        health={}, knn=1.0, linear=2.0, finetune=3.0, peak_memory_mib=5)  # fmt: skip
    result.update(kwargs)
    bench.results.mkdir(exist_ok=True)
    bench.path(run).write_text(json.dumps(result))
    return result


def test_plan_has_each_run_once_and_equal_time_last(bench):
    keys = [run.key for run in bench.plan()]
    assert len(keys) == len(set(keys)) == 3 * 3 + 2 * 3 + 1 * 3  # main: 3 methods; other: 2; equal time: quick only
    assert keys[-3:] == [f'main-wall-quick-{seed}' for seed in range(3)]
    assert not [key for key in keys if key.startswith(('other-wall', 'main-wall-slow', 'main-wall-random'))]
    bench.config.methods.quick.budgets = ['images']
    assert [run.key for run in bench.plan()] == keys[:-3]


def test_iterations_of_equal_images_and_of_equal_time(bench):
    assert bench.iterations(Run('slow', 'main', 'images', 0)) == 12_800 // 64
    assert bench.iterations(Run('quick', 'main', 'images', 0)) == 12_800 // 128
    assert bench.iterations(Run('random', 'main', 'images', 0)) == 0
    bench.config.methods.slow.images = 6_400  # of its own
    assert bench.iterations(Run('slow', 'main', 'images', 0)) == 6_400 // 64
    del bench.config.methods.slow['images']
    with pytest.raises(RuntimeError, match='main-wall-quick-0: its time follows from a run of quick'):
        bench.iterations(Run('quick', 'main', 'wall', 0))
    for seed, (slow, quick) in enumerate([(60.0, 20.0), (66.0, 22.0), (600.0, 21.0)]):
        put(bench, Run('slow', 'main', 'images', seed), seconds=slow)
        put(bench, Run('quick', 'main', 'images', seed), seconds=quick)
    assert bench.iterations(Run('quick', 'main', 'wall', 0)) == round(100 * 66 / 21)  # medians


def test_schedules_stretch_with_the_run(bench):
    cfg = Config.fromfile(bench.config.methods.slow.config)
    compare.stretch(cfg, 1500)
    assert cfg.train_cfg.max_iters == 1500
    assert [(s.begin, s.end) for s in cfg.param_scheduler] == [(0, 150), (150, 1500)]
    compare.stretch(cfg, 3)  # too short for a warm-up
    assert [(s.begin, s.end) for s in cfg.param_scheduler] == [(0, 3)]


def test_tables_show_mean_and_spread_and_the_reference_in_both(bench, tmp_path):
    values = dict(slow=[10.0, 20.0, 60.0], quick=[1.0, 1.5, 2.0])
    for name, accuracies in values.items():
        for seed, value in enumerate(accuracies):
            health = dict(cls_usage=0.5, cls_entropy_marginal=0.75, data_usage=1.0) if name == 'slow' else {}
            put(bench, Run(name, 'main', 'images', seed), knn=value, health=health, label=name)
    put(bench, Run('quick', 'main', 'wall', 0), knn=42.0)
    table = compare.write_all(bench, tmp_path / 'out')
    images, wall = table.split('### Main: equal time')
    row = next(line for line in images.splitlines() if line.startswith('| slow'))
    assert f'{statistics.mean(values["slow"]):.1f} ± {statistics.stdev(values["slow"]):.1f}' in row
    assert '0.50, 1.00' in row and '0.75, –' in row and row.endswith('| 3 |')
    assert '| slow | 30.0' in wall and '| quick | 42.0 |' in wall and wall.count('| quick') == 1
    lines = list(csv.DictReader((tmp_path / 'out' / 'results.csv').read_text().splitlines()))
    assert [line['knn'] for line in lines if line['method'] == 'slow'] == ['10.0', '20.0', '60.0']
    assert (tmp_path / 'out' / 'curves.png').stat().st_size > 1000


def test_a_bench_goes_on_where_it_stopped(bench, tmp_path):
    """The command writes a result, but for one run, which fails."""
    wanted = [run for run in bench.plan() if run.data == 'main' and run.budget == 'images']
    fingerprints = {run.key: bench.fingerprint(run) for run in wanted}
    program = (
        'import sys, json, pathlib; key = sys.argv[-1]; '
        f'out = pathlib.Path({str(tmp_path / "runs")!r}); out.mkdir(exist_ok=True); '
        'open(str(out) + ".started", "a").write(key + "\\n"); '
        '"slow-1" in key and sys.exit(3); '
        f'(out / (key + ".json")).write_text(json.dumps(dict(fingerprint={fingerprints}[key])))'
    )
    command = [sys.executable, '-c', program]
    done = put(bench, wanted[0])
    first = dict(compare.schedule(bench, wanted, command, jobs=2))
    assert {run.key: code for run, code in first.items() if code} == {'main-images-slow-1': 3}
    assert set(first) == set(wanted[1:]) and bench.load(wanted[0]) == done
    again = dict(compare.schedule(bench, wanted, command, jobs=2))
    assert [run.key for run in again] == ['main-images-slow-1']
    started = (tmp_path / 'runs.started').read_text().split()
    assert sorted(started) == sorted([run.key for run in wanted[1:]] + ['main-images-slow-1'])


def test_a_result_of_other_configs_does_not_count(bench, tmp_path):
    runs = [Run('slow', 'main', 'images', 0), Run('quick', 'main', 'images', 0), Run('slow', 'other', 'images', 0)]
    for run in runs:
        put(bench, run)
    assert all(bench.load(run) for run in runs)
    (tmp_path / 'slower.py').write_text(METHOD.format(masks=4, batch=64))
    bench.config.methods.slow.config = str(tmp_path / 'slower.py')
    assert [bool(bench.load(run)) for run in runs] == [False, True, False]
    bench.config.data.main.mean = 1.0
    assert bench.load(runs[1]) is None


def test_a_result_of_equal_time_depends_on_the_reference_and_on_no_label(bench, tmp_path):
    runs = [Run('quick', 'main', 'wall', 0), Run('quick', 'main', 'images', 0)]
    for run in runs:
        put(bench, run)
    bench.config.data.main.label = 'another'
    assert all(bench.load(run) for run in runs)
    (tmp_path / 'slower.py').write_text(METHOD.format(masks=4, batch=64))
    bench.config.methods.slow.config = str(tmp_path / 'slower.py')
    assert [bool(bench.load(run)) for run in runs] == [False, True]


@pytest.mark.parametrize(
    'change, message',
    [
        (dict(reference='x'), "`reference` must be one of .*slow.*, but got 'x'"),
        (dict(methods=dict(quick=dict(data=['y']))), r"`methods.quick.data` must be among .*, but got \['y'\]"),
        (dict(methods=dict(quick=dict(budgets=['z']))), r"`methods.quick.budgets` must be among .*, but got \['z'\]"),
    ],
)
def test_rejects(bench, change, message, tmp_path):
    bench.config.merge_from_dict(change)
    with pytest.raises(ValueError, match=message):
        Bench(bench.config, tmp_path, tmp_path)


@pytest.mark.parametrize(
    'name, committed', [('compare_methods', 'evidence'), ('time_to_quality', 'evidence/time_to_quality')]
)
def test_committed_tables_follow_from_committed_results(name, committed, tmp_path, monkeypatch):
    """From any folder: the results are of the configs as they are, and the tables are theirs."""
    monkeypatch.chdir(tmp_path)
    source = ROOT / 'docs' / committed
    shutil.copytree(source / 'runs', 'out/runs')
    tool = str(ROOT / 'tools/benchmarks/compare_methods.py')
    config = str(ROOT / 'configs/benchmarks' / f'{name}.py')
    monkeypatch.setattr(sys, 'argv', [tool, '--config', config, '--table', '--out', 'out'])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(tool, run_name='__main__')
    assert ended.value.code == 0
    for file in ('table.md', 'results.csv'):
        assert Path('out', file).read_bytes() == (source / file).read_bytes()
    rows = list(csv.DictReader((source / 'results.csv').read_text().splitlines()))
    assert len(rows) >= 15


@pytest.mark.slow
@pytest.mark.parametrize('method', ['random', 'mae', 'simmim', 'pl_mae', 'folds', 'msa'])
def test_a_run_of_each_kind(method, tmp_path, monkeypatch):
    """The real configs, on the small build."""
    monkeypatch.chdir(tmp_path)
    config = Config.fromfile(ROOT / 'configs/benchmarks/compare_methods.py')
    config.images, config.curve_points = 512, 2
    for data in config.data.values():
        data.dataset.update(size='test', data_root=str(tmp_path / 'data'))
    bench = Bench(config, tmp_path / 'runs', tmp_path / 'work')
    run = Run(method, 'surfaces', 'images', 0)
    result = bench.execute(run)
    assert result == bench.load(run)
    assert result['images'] == (0 if method == 'random' else 512)
    assert len(result['curve']) == (0 if method == 'random' else 3)
    lowest = 0 if method == 'simmim' else 100 / 16  # chance; four iterations do not bring every method above it
    assert all(lowest < result[metric] <= 100 for metric in ('linear', 'finetune'))
    assert (result['seconds'] > 0) == (method != 'random')
