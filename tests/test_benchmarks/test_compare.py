"""The comparison of methods: its plan, the length of its runs, its tables, and that it goes on where it stopped."""

import csv
import json
import runpy
import shutil
import statistics
import sys
from argparse import Namespace
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope

import compare_methods
from compare_methods import Bench, Run
from mmpl.utils.figures import Chart, Figure

ROOT = Path(__file__).resolve().parents[2]
METHOD = """
model = dict(data_preprocessor=dict(mean=[0], std=[1]), masking=dict(num_masks={masks}))
train_dataloader = dict(batch_size={batch}, dataset=dict())
train_cfg = dict(type='IterBasedTrainLoop', max_iters=600)
param_scheduler = [dict(type='LinearLR', begin=0, end=60), dict(type='CosineAnnealingLR', begin=60, end=600)]
"""


def figures_of(*parts: str) -> dict[str, Figure]:
    columns = dict(usage='prototypes in use', entropy_marginal='entropy of the mean label', entropy_mean='')
    chart = Chart('labels', 'what they do')
    return {
        f'{part}_{name}': Figure(name, chart, column=column, part=part)
        for name, column in columns.items()
        for part in parts
    }


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


def result_of(bench: Bench, run: Run, **kwargs) -> dict:
    result = dict(
        method=run.method, data=run.data, budget=run.budget, seed=run.seed, label=run.method, iterations=1, images=10,
        fingerprint=bench.fingerprint(run),
        views=20, seconds=1.0, curve=[dict(iteration=0, seconds=0.0, knn=1.0), dict(iteration=1, seconds=1.0, knn=2.0)],
        health={}, knn=1.0, linear=2.0, finetune=3.0, machine=dict(cpu='one'))  # fmt: skip
    return result | kwargs


def put(bench: Bench, run: Run, **kwargs) -> dict:
    """Write a result as a run would."""
    result = result_of(bench, run, **kwargs)
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
    with pytest.raises(RuntimeError, match='main-wall-quick-0: its time follows from the run of quick .* is missing'):
        bench.iterations(Run('quick', 'main', 'wall', 0))
    for seed, (slow, quick) in enumerate([(60.0, 20.0), (66.0, 22.0), (600.0, 21.0)]):
        put(bench, Run('slow', 'main', 'images', seed), seconds=slow)
        put(bench, Run('quick', 'main', 'images', seed), seconds=quick)
    found = [bench.iterations(Run('quick', 'main', 'wall', seed)) for seed in range(3)]
    assert found == [300, 300, round(100 * 600 / 21)]  # of the seed's own pair, whatever else is there
    for machine in (dict(), dict(cpu='other')):
        put(bench, Run('quick', 'main', 'images', 0), seconds=20.0, machine=machine)
        with pytest.raises(RuntimeError, match='quick and slow were run on (one that was not noted|other) and one'):
            bench.iterations(Run('quick', 'main', 'wall', 0))


def test_schedules_stretch_with_the_run(bench):
    cfg = Config.fromfile(bench.config.methods.slow.config)
    compare_methods.stretch(cfg, 1500)
    assert cfg.train_cfg.max_iters == 1500
    assert [(s.begin, s.end) for s in cfg.param_scheduler] == [(0, 150), (150, 1500)]
    compare_methods.stretch(cfg, 3)  # too short for a warm-up
    assert [(s.begin, s.end) for s in cfg.param_scheduler] == [(0, 3)]


def test_tables_show_mean_and_spread_and_the_reference_in_both(bench, tmp_path, monkeypatch):
    """What a method declares with a column is shown, part by part; other figures are in the CSV only."""
    monkeypatch.setattr(compare_methods, '_figures_of', lambda file: figures_of('cls', 'data'))
    values = dict(slow=[10.0, 20.0, 60.0], quick=[1.0, 1.5, 2.0])
    for name, accuracies in values.items():
        for seed, value in enumerate(accuracies):
            health = dict(cls_usage=0.5, cls_entropy_marginal=0.75, data_usage=1.0, cls_entropy_mean=0.25)
            health = health if name == 'slow' else {}
            put(bench, Run(name, 'main', 'images', seed), knn=value, health=health, label=name)
    put(bench, Run('quick', 'main', 'wall', 0), knn=42.0, iterations=100)
    table = compare_methods.write_all(bench, tmp_path / 'out')
    images, wall = table.split('### Main: equal time')
    assert '| prototypes in use (cls, data) | entropy of the mean label (cls, data) | seeds |' in images
    row = next(line for line in images.splitlines() if line.startswith('| slow'))
    assert f'{statistics.mean(values["slow"]):.1f} ± {statistics.stdev(values["slow"]):.1f}' in row
    assert '0.50, 1.00' in row and '0.75, –' in row and row.endswith('| 3 |')
    assert '| slow | 30.0' in wall and '| quick | 42.0 |' in wall and wall.count('| quick') == 1
    lines = list(csv.DictReader((tmp_path / 'out' / 'results.csv').read_text().splitlines()))
    assert [line['knn'] for line in lines if line['method'] == 'slow'] == ['10.0', '20.0', '60.0']
    assert [line['cls_entropy_mean'] for line in lines if line['seed'] == '1'] == ['0.25', '']
    assert (tmp_path / 'out' / 'curves.png').stat().st_size > 1000


def test_a_bench_goes_on_where_it_stopped(bench, tmp_path, capsys):
    """The command writes a result, but for one run, which fails."""
    wanted = [run for run in bench.plan() if run.data == 'main' and run.budget == 'images']
    (tmp_path / 'results.json').write_text(json.dumps({run.key: result_of(bench, run) for run in wanted}))
    program = (
        'import sys, json, pathlib; key = sys.argv[-1]; '
        f'folder = pathlib.Path({str(tmp_path)!r}); '
        '(folder / "started").open("a").write(key + "\\n"); '
        '"slow-1" in key and sys.exit("no memory"); '
        'result = json.loads((folder / "results.json").read_text())[key]; '
        '(folder / "runs" / (key + ".json")).write_text(json.dumps(result))'
    )
    command, args = [sys.executable, '-c', program], Namespace(jobs=2, out=tmp_path / 'out')
    done = put(bench, wanted[0], knn=77.0)
    assert compare_methods.run_all(bench, wanted, command, args) == 1
    assert bench.load(wanted[0]) == done
    assert [run.key for run in wanted if bench.load(run) is None] == ['main-images-slow-1']
    assert 'no memory' in (bench.folder(Run('slow', 'main', 'images', 1)) / 'log.txt').read_text()
    assert compare_methods.run_all(bench, wanted, command, args) == 1
    started = (tmp_path / 'started').read_text().split()
    assert sorted(started) == sorted([run.key for run in wanted[1:]] + ['main-images-slow-1'])
    out = capsys.readouterr().out
    assert '9 runs, 1 of them done already, 2 at once' in out and '9 runs, 8 of them done already' in out
    assert 'main-images-slow-1 FAILED (1): see ' in out and 'main-images-quick-0: knn 1.0  linear 2.0' in out


def test_a_result_of_other_configs_does_not_count(bench, tmp_path):
    """That of equal time depends on the reference, too, and none on a label."""
    changed, other, elsewhere = (Run(*key, 0) for key in (
        ('slow', 'main', 'images'), ('quick', 'main', 'images'), ('slow', 'other', 'images')))  # fmt: skip
    equal_time = Run('quick', 'main', 'wall', 0)
    runs = [changed, other, elsewhere, equal_time]
    for run in runs:
        put(bench, run, iterations=100)
    bench.config.data.main.label = 'another'
    assert all(bench.load(run) for run in runs)
    (tmp_path / 'slower.py').write_text(METHOD.format(masks=4, batch=64))
    bench.config.methods.slow.config = str(tmp_path / 'slower.py')
    assert [bool(bench.load(run)) for run in runs] == [False, True, False, False]
    bench.config.data.main.mean = 1.0
    assert bench.load(other) is None


def test_a_result_of_equal_time_goes_with_the_times_that_it_follows_from(bench):
    quick, slow, equal_time = (
        Run(*key, 0) for key in (('quick', 'main', 'images'), ('slow', 'main', 'images'), ('quick', 'main', 'wall'))
    )
    put(bench, equal_time, iterations=300)
    assert bench.load(equal_time) is None, 'there is nothing that its length follows from'
    put(bench, quick, seconds=20.0)
    put(bench, slow, seconds=60.0)
    assert bench.load(equal_time)
    put(bench, slow, seconds=90.0)
    assert bench.load(equal_time) is None
    put(bench, slow, seconds=60.0, machine=dict(cpu='other'))
    assert bench.load(equal_time) is None
    put(bench, slow, seconds=90.0, machine={})
    assert bench.load(equal_time) is None
    put(bench, quick, seconds=20.0, machine={})
    assert bench.load(equal_time), 'whether they had one processor is not known of older results'


def test_where_the_images_lie_does_not_change_a_result(bench):
    before = bench.fingerprint(Run('quick', 'main', 'images', 0))
    bench.config.data.main.folders = dict(train='elsewhere')
    assert bench.fingerprint(Run('quick', 'main', 'images', 0)) == before
    bench.config.data.main.digest = 'of other images'
    assert bench.fingerprint(Run('quick', 'main', 'images', 0)) != before


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


BENCHES = sorted((ROOT / 'configs/benchmarks').glob('compare_*.py'))


@pytest.mark.parametrize('config', BENCHES, ids=lambda path: path.stem)
def test_every_comparison_has_a_plan(config, tmp_path):
    """Each data set of it is met by PL-MAE and by what it is compared with."""
    cfg = Config.fromfile(config)
    plan = Bench(cfg, tmp_path, tmp_path).plan()
    assert {(run.data, run.method) for run in plan} >= {(data, name) for data in cfg.data for name in ('mae', 'pl_mae')}
    assert {run.seed for run in plan} == set(cfg.seeds)


@pytest.mark.parametrize(
    'name, committed', [('compare_methods', 'evidence'), ('compare_reporting', 'evidence/reporting')]
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
    assert len(rows) >= 9


def test_a_method_that_needs_a_file_is_left_out_without_it(bench, tmp_path):
    file = tmp_path / 'weights.pth'
    bench.config.methods.quick.needs = str(file)
    without = Bench(bench.config, tmp_path, tmp_path)
    assert without.lacking == {'quick': str(file)} and not [run for run in without.plan() if run.method == 'quick']
    file.touch()
    assert Bench(bench.config, tmp_path, tmp_path).plan() == bench.plan()


@pytest.mark.slow
def test_cae_of_mmpretrain_runs_where_its_tokenizer_is(tmp_path, monkeypatch):
    """With random weights in the place of DALL-E's: one step, all probes, fine-tuning."""
    monkeypatch.chdir(tmp_path)
    init_default_scope('mmpretrain')
    (tmp_path / 'data').mkdir()
    torch.save(MODELS.build(dict(type='DALL-E')).state_dict(), 'data/dalle_encoder.pth')
    config = Config.fromfile(ROOT / 'configs/benchmarks/compare_methods.py')
    config.images, config.curve_points = 128, 1
    for data in config.data.values():
        data.dataset.update(size='test', data_root=str(tmp_path / 'embedded'))
    bench = Bench(config, tmp_path / 'runs', tmp_path / 'work')
    run = Run('cae_mmpretrain', 'surfaces', 'images', 0)
    assert run in bench.plan()
    result = bench.execute(run)
    assert result['iterations'] == 1 and result['finetune'] > 0 and result['patch_linear'] > 0


@pytest.mark.slow
@pytest.mark.parametrize('method', ['random', 'simmim', 'green_mim', 'pl_mae', 'msa'])
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
