"""Tables over seeds, from logs as mmengine writes them."""

import json
import runpy
import sys
from pathlib import Path

import pandas as pd
import pytest

from bench.tables import as_csv, as_markdown, as_rows, over_seeds
from summarise_seeds import main, probes

TOOL = Path(__file__).resolve().parents[2] / 'tools' / 'benchmarks' / 'summarise_seeds.py'


def log(folder: Path, lines: list[dict]) -> None:
    path = folder / '20260101_000000' / 'vis_data' / 'scalars.json'
    path.parent.mkdir(parents=True)
    path.write_text('\n'.join(json.dumps(line) for line in lines))


@pytest.fixture
def runs(tmp_path):
    make_runs(tmp_path / 'ours', [(60, 80), (62, 84)])
    return tmp_path / 'ours'


def make_runs(folder: Path, values: list[tuple[int, int]]) -> None:
    for seed, (before, after) in enumerate(values):
        log(
            folder / f'seed_{seed}',
            [
                {'probe/knn_top1': before - 30, 'probe/linear_top1': before, 'epoch': 0, 'iter': 0},
                {'loss': 1.0, 'epoch': 1, 'iter': 5, 'step': 5},
                {'probe/knn_top1': before - 20, 'epoch': 1, 'iter': 5},
                {'probe/knn_top1': after - 30, 'probe/linear_top1': after, 'epoch': 2, 'iter': 10},
            ],
        )
        (folder / f'seed_{seed}.log').write_text('a log beside the folders')


def test_rows_are_the_first_and_the_last_probe(runs):
    make_runs(runs.parent / 'peer', [(10, 90)])
    assert as_rows(probes({'MAE': runs.parent / 'peer', 'PL-MAE': runs}))['rows'] == [
        dict(name='random init', knn=[30, 32], linear=[60, 62]),
        dict(name='MAE', knn=[60], linear=[90]),
        dict(name='PL-MAE', knn=[50, 54], linear=[80, 84]),
    ]


def test_the_tool_writes_for_the_report_and_prints(runs, monkeypatch, capsys):
    monkeypatch.setattr(sys, 'argv', [str(TOOL), str(runs)])
    runpy.run_path(str(TOOL), run_name='__main__')
    assert '| ours | 52.0 ± 2.8 | 82.0 ± 2.8 | 2 |' in capsys.readouterr().out
    for folder in (runs, runs / 'seed_0', runs / 'seed_1'):
        assert json.loads((folder / 'results.json').read_text())['rows'][1]['linear'] == [80, 84]


def test_a_seed_that_was_stopped_is_no_result(runs):
    log(
        runs / 'seed_2',
        [
            {'probe/knn_top1': 30, 'probe/linear_top1': 60, 'epoch': 0, 'iter': 0},
            {'probe/knn_top1': 40, 'probe/linear_top1': 70, 'epoch': 1, 'iter': 5},
        ],
    )
    with pytest.raises(ValueError, match=r"last probed at different iterations, .*'seed_2': 5"):
        probes({'ours': runs})
    assert len(probes({'ours': runs}, seeds=[0, 1])) == 4
    with pytest.raises(ValueError, match='seed_7 holds 0 values'):
        probes({'ours': runs}, seeds=[0, 7])


def test_a_run_without_a_probe_before_it(tmp_path):
    lines = [{'probe/knn_top1': 40, 'probe/linear_top1': 70, 'epoch': e, 'iter': 5 * e} for e in (1, 2)]
    log(tmp_path / 'seed_0', lines)
    with pytest.raises(ValueError, match='one from before and one from after'):
        probes({'ours': tmp_path})


def test_one_seed_has_no_spread():
    frame = pd.DataFrame([dict(name='x', knn=1.0, linear=2.0)])
    assert as_markdown(over_seeds(frame, dict(knn='kNN', linear='linear'))).splitlines() == [
        '| encoder | kNN | linear | seeds |',
        '| --- | --- | --- | --- |',
        '| x | 1.0 | 2.0 | 1 |',
    ]
    assert as_csv(frame, dict(knn='kNN')).splitlines()[1] == 'x,knn,1.0000,,1,1.0000'


def test_csv_has_all_values():
    frame = pd.DataFrame([dict(name='x, y', knn=value, linear=2.0) for value in (1.0, 4.0)])
    assert as_csv(frame, dict(knn='kNN')) == (
        'encoder,metric,mean,sd,seeds,values\n"x, y",knn,2.5000,2.1213,2,1.0000 4.0000\n'
    )


def test_refuses(tmp_path):
    with pytest.raises(FileNotFoundError, match='holds no work directory `seed_'):
        probes(dict(x=tmp_path))
    log(tmp_path / 'seed_0', [{'probe/knn_top1': 1, 'probe/linear_top1': 1, 'epoch': 0, 'iter': 0}])
    with pytest.raises(ValueError, match='holds 1 values of probe/knn_top1'):
        probes(dict(x=tmp_path))
    with pytest.raises(SystemExit, match='--names must be 1 names, one for each WORK_DIR'):
        main([str(tmp_path), '--names', 'a', 'b'])
