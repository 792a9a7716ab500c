"""The transfer benchmark: what it refuses, what it repeats, its table and its picture."""

import dataclasses
import json
import os
import re
import runpy
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from PIL import Image

import transfer
from bench.jobs import Ended
from mmpl.checkpoints.encoders import read_checkpoint
from mmpl.checkpoints.fit import CheckpointMismatchError
from mmpl.evaluation.evaluate import build_model
from transfer import PRETRAIN, RANDOM, TASKS, Bench, TransferMismatchError, parse_args

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = ROOT / 'configs'
DEMO = CONFIGS / 'pl_mae_demo.py'
SMALL = [f'{part}_dataloader.dataset.size=test' for part in ('train', 'test')]

# Stands in for a run: writes what a run writes, slowly or with a failure if told so.
FAKE = """
import json, sys, time
from pathlib import Path
from PIL import Image
(task, encoder, seed), work_dir = sys.argv[1].split(', '), Path(sys.argv[2])
seed = int(seed.removeprefix('seed '))
if seed == 7:
    print('the disk is full'); sys.exit(3)
if seed == 8:
    time.sleep(60)
better = {'random init': 0.0, 'peer': 4.0}.get(encoder, 10.0)
folder = work_dir / 'pictures'
folder.mkdir(parents=True, exist_ok=True)
Image.new('RGB', (8, 8), (int(20 * better), 0, 0)).save(folder / '0.png')
entry = dict(image='0.png', truth='0.png', prediction='0.png')
metrics = {'mIoU': 50 + better + seed}
if task == 'detection':
    metrics = {'coco/bbox_mAP': 0.2 + better / 100 + seed / 100, 'coco/segm_mAP': 0.1}
if task == 'classification':
    metrics, entry = {'accuracy/top1': 80 + better}, dict(image='0.png', caption='3  0.90', correct=False)
(work_dir / 'results.json').write_text(json.dumps(dict(metrics=metrics, pictures=[entry])))
"""


@pytest.fixture
def checkpoint(tmp_path) -> Path:
    path = tmp_path / 'encoder.pth'
    transfer.write_random_encoder(DEMO, 5, path)
    return path


@pytest.fixture
def fake(monkeypatch):
    real = transfer.run_jobs

    def run_jobs(jobs, at_once, on_end):
        def faked(job):
            return [sys.executable, '-c', FAKE, job.key, str(job.log.parent)]

        real([dataclasses.replace(job, command=faked(job)) for job in jobs], at_once, on_end)

    monkeypatch.setattr(transfer, 'run_jobs', run_jobs)


def arguments(checkpoints: Path | list[Path], out: Path | str, *more: str, name: str = 'PL-MAE') -> list[str]:
    paths = checkpoints if isinstance(checkpoints, list) else [checkpoints]
    return ['--encoder', name, *map(str, paths), '--work-dir', str(out), *more]


def bench_of(checkpoints: Path | list[Path], out: Path | str, *more: str) -> Bench:
    return Bench(parse_args(arguments(checkpoints, out, *more)))


def test_random_encoder_is_the_one_that_pretraining_starts_from(tmp_path, checkpoint):
    want = build_model(Config.fromfile(DEMO), seed=5).backbone.state_dict()
    got = torch.load(checkpoint, weights_only=True)['state_dict']
    assert set(got) == {f'backbone.{key}' for key in want}
    assert all(torch.equal(got[f'backbone.{key}'], value) for key, value in want.items())
    transfer.write_random_encoder(DEMO, 6, tmp_path / 'other.pth')
    assert read_checkpoint(tmp_path / 'other.pth').digest() != read_checkpoint(checkpoint).digest()


def test_digest_is_of_the_encoder_alone(tmp_path, checkpoint):
    state = torch.load(checkpoint, weights_only=True)['state_dict']
    torch.save({'state_dict': {**state, 'head.weight': torch.ones(3)}, 'meta': {'epoch': 3}}, tmp_path / 'more.pth')
    assert read_checkpoint(tmp_path / 'more.pth').digest() == read_checkpoint(checkpoint).digest()
    state['backbone.cls_token'] = state['backbone.cls_token'] + 1e-6
    torch.save({'state_dict': state}, tmp_path / 'moved.pth')
    assert read_checkpoint(tmp_path / 'moved.pth').digest() != read_checkpoint(checkpoint).digest()


def test_refuses(tmp_path, checkpoint):
    torch.save({'state_dict': {'encoder.weight': torch.ones(2)}}, tmp_path / 'foreign.pth')
    for argv, error, message in (
        (arguments(tmp_path / 'nowhere.pth', tmp_path), FileNotFoundError, 'nowhere.pth does not exist'),
        (
            arguments(tmp_path / 'foreign.pth', tmp_path),
            CheckpointMismatchError,
            "foreign.pth: checkpoint has no encoder 'student'",
        ),
        (arguments([checkpoint] * 2, tmp_path), ValueError, 'one for each of the 3 seeds, but got 2'),
        (arguments(checkpoint, tmp_path, '--seeds', '1', '1'), ValueError, r'--seeds must be different .* \[1, 1\]'),
        (arguments(checkpoint, tmp_path, '--tasks', *['detection'] * 2), ValueError, '--tasks must be different'),
        *(
            (arguments(checkpoint, tmp_path, name=name), ValueError, '--encoder must begin with a name of its own')
            for name in ('random init', 'random_init', 'a/b', '')
        ),
        (
            [*arguments(checkpoint, tmp_path), '--encoder', 'PL-MAE', str(checkpoint)],
            ValueError,
            "a name of its own.* but got 'PL-MAE'",
        ),
    ):
        with pytest.raises(error, match=message):
            Bench(parse_args(argv))


@pytest.mark.parametrize(
    'options, message',
    [
        (['--tasks', 'depth'], "argument --tasks: invalid choice: 'depth' .*detection"),
        (['--data', 'plain'], "argument --data: invalid choice: 'plain' .*digits.*surfaces"),
        (['--jobs', '0'], 'argument --jobs: must be at least 1, but got 0'),
        (['--seeds', '-1'], 'argument --seeds: must be at least 0, but got -1'),
    ],
)
def test_refuses_options(options, message, capsys):
    with pytest.raises(SystemExit):
        parse_args(options)
    assert re.search(message, capsys.readouterr().err, re.DOTALL)


def test_table_and_picture(tmp_path, checkpoint, fake, capsys):
    out = tmp_path / 'out'
    more = ('--seeds', '1', '3', '--jobs', '2', '--encoder', 'ours', str(checkpoint))
    transfer.main(arguments(checkpoint, out, *more, name='peer'))
    table = (out / 'transfer.md').read_text()
    assert table in capsys.readouterr().out
    rows = [[cell.strip() for cell in line.split('|')[1:-1]] for line in table.splitlines()]
    assert rows[0][0] == 'encoder' and rows[0][-1] == 'seeds'
    # 50 + seed for seeds 1 and 3: mean 52, sample standard deviation sqrt(2)
    assert rows[2] == ['random init', '80.0 ± 0.0', '52.0 ± 1.4', '22.0 ± 1.4', '10.0 ± 0.0', '2']
    assert rows[3][:3] == ['peer', '84.0 ± 0.0', '56.0 ± 1.4']
    assert rows[4] == ['ours', '90.0 ± 0.0', '62.0 ± 1.4', '32.0 ± 1.4', '10.0 ± 0.0', '2']
    assert rows[5] == ['ours − random init', '+10.0', '+10.0', '+10.0', '+0.0', '']
    assert rows[6] == ['ours − peer', '+6.0', '+6.0', '+6.0', '+0.0', '']
    lines = (out / 'transfer.csv').read_text().splitlines()
    assert 'ours,miou,62.0000,1.4142,2,61.0000 63.0000' in lines and len(lines) == 13
    assert json.loads((out / 'results.json').read_text())['rows'][2]['miou'] == [61, 63]
    with Image.open(out / 'transfer.png') as file:
        pixels = np.asarray(file.convert('RGB')).reshape(-1, 3)
    assert (np.abs(pixels.astype(int) - [200, 0, 0]).max(1) < 12).mean() > 0.02  # predictions of ours
    assert (pixels.max(1) < 12).mean() > 0.02  # of the random encoder


def test_each_seed_its_checkpoint(tmp_path, checkpoint):
    other = tmp_path / 'other.pth'
    other.write_bytes(checkpoint.read_bytes())
    bench = Bench(parse_args(arguments([checkpoint, other], tmp_path, '--seeds', '4', '9', name='x')))
    runs = bench.plan()
    assert len(runs) == 12 and len({run.work_dir for run in runs}) == len({run.key for run in runs}) == 12
    assert {run.checkpoint for run in runs if run.encoder == 'x' and run.seed == 9} == {other}
    assert {run.checkpoint for run in runs if run.encoder == RANDOM and run.seed == 4} == {bench.random[0]}


@pytest.mark.parametrize('data, patches', [('digits', 64), ('surfaces', 16)])
def test_data_chooses_configs_and_encoder(tmp_path, fake, data, patches):
    """Each task runs the config of the data, from an encoder of the shape that this config takes."""
    pretrain = CONFIGS / PRETRAIN[data]
    transfer.write_random_encoder(pretrain, 5, tmp_path / 'encoder.pth')
    argv = arguments(tmp_path / 'encoder.pth', tmp_path, '--data', data, '--seeds', '0')
    bench, encoder = Bench(parse_args(argv)), Config.fromfile(pretrain).model.backbone
    configs = {bench.config(task) for task in TASKS}
    assert len(configs) == 3
    for config in configs:
        backbone = Config.fromfile(config).model.backbone
        assert all(backbone[field] == encoder[field] for field in ('arch', 'img_size', 'patch_size'))
    transfer.main([*argv, '--tasks', 'segmentation'])
    assert '| PL-MAE − random init | +10.0 |' in (tmp_path / 'transfer.md').read_text()
    state = torch.load(tmp_path / 'random_init' / 'seed_0.pth', weights_only=True)['state_dict']
    assert state['backbone.pos_embed'].shape == (1, patches + 1, 96)


def test_failure_names_the_log_and_ends_the_others(tmp_path, checkpoint, fake):
    start = time.monotonic()
    with pytest.raises(SystemExit, match='error: .*seed 7 failed with exit code 3:\nthe disk is full\n.*log.txt'):
        transfer.main(arguments(checkpoint, tmp_path, '--seeds', '8', '7', '--jobs', '3', '--tasks', 'segmentation'))
    assert time.monotonic() - start < 40  # seed 8 would sleep for a minute


def test_a_metric_that_was_not_measured_is_an_error():
    with pytest.raises(KeyError, match=r"no \['mIoU'\], only \['aAcc'\]"):
        transfer.scores('segmentation', {'aAcc': 3.0})


def test_finished_runs_are_kept_and_others_not_mixed_in(tmp_path, checkpoint, fake, capsys):
    argv = arguments(checkpoint, tmp_path, '--tasks', 'classification', '--seeds', '0')
    bench = Bench(parse_args(argv))
    run = next(run for run in bench.plan() if run.encoder != RANDOM)
    run.work_dir.mkdir(parents=True)
    (run.work_dir / 'identity.json').write_text(json.dumps(bench.identity(run)))
    content = {'metrics': {'accuracy/top1': 1.0}, 'pictures': []}
    (run.work_dir / 'results.json').write_text(json.dumps(content))
    assert bench.execute(run) == content  # nothing is trained
    transfer.main(argv)
    printed = capsys.readouterr().out
    assert 'classification, random init, seed 0: top1 80.0' in printed and f'{run.key}: ' not in printed
    assert '| PL-MAE | 1.0 | 1 |' in printed
    transfer.write_random_encoder(DEMO, 6, tmp_path / 'other.pth')
    for change, why in (
        (['--cfg-options', 'train_cfg.max_epochs=1'], 'another config:'),
        (['--seeds', '1'], 'another seed:'),
        (['other'], 'other weights:'),
        (['other', '--seeds', '1'], 'other weights and another seed:'),
    ):
        path = tmp_path / 'other.pth' if change[0] == 'other' else checkpoint
        changed = bench_of(path, tmp_path, '--tasks', 'classification', *[c for c in change if c != 'other'])
        seed = 1 if '1' in change else 0
        with pytest.raises(TransferMismatchError, match=f'classification/PL-MAE/seed_0 holds a run from {why}'):
            changed.execute(dataclasses.replace(run, checkpoint=path.resolve(), seed=seed))


def test_command_line(tmp_path, checkpoint, fake, monkeypatch, capsys):
    tool = str(ROOT / 'tools' / 'benchmarks' / 'transfer.py')
    monkeypatch.setattr(sys, 'argv', [tool, '--encoder', 'x', str(tmp_path / 'nowhere.pth')])
    with pytest.raises(SystemExit, match='error: checkpoint .*nowhere.pth does not exist'):
        runpy.run_path(tool, run_name='__main__')
    monkeypatch.setattr('bench.jobs.run_jobs', transfer.run_jobs)
    argv = arguments(checkpoint, tmp_path / 'out', '--seeds', '0', '--tasks', 'segmentation')
    monkeypatch.setattr(sys, 'argv', [tool, *argv])
    runpy.run_path(tool, run_name='__main__')
    out = capsys.readouterr().out
    assert 'segmentation, PL-MAE, seed 0: miou 60.0' in out and '| PL-MAE | 60.0 | 1 |' in out


@pytest.mark.slow
def test_a_killed_run_goes_on(tmp_path, checkpoint, monkeypatch):
    """Killed after training and before its results: the second start trains nothing and tests."""
    monkeypatch.chdir(tmp_path)
    options = [*SMALL, 'train_cfg.max_epochs=2', 'default_hooks.checkpoint.interval=1']
    bench = bench_of(checkpoint, 'out', '--tasks', 'classification', '--seeds', '0', '--cfg-options', *options)
    run = next(run for run in bench.plan() if run.encoder != RANDOM)
    real = transfer.test

    def killed(argv):
        raise KeyboardInterrupt

    monkeypatch.setattr(transfer, 'test', killed)
    with pytest.raises(KeyboardInterrupt):
        bench.execute(run)
    trained = run.work_dir / 'epoch_2.pth'
    before = os.stat(trained).st_mtime_ns
    monkeypatch.setattr(transfer, 'test', real)
    result = bench.execute(run)
    assert os.stat(trained).st_mtime_ns == before and result == bench.load(run)
    assert 0 <= result['metrics']['accuracy/top1'] <= 100 and len(result['pictures']) == 14


@pytest.mark.slow
def test_an_encoder_for_other_data_does_not_fit(tmp_path, checkpoint, monkeypatch):
    monkeypatch.chdir(tmp_path)
    bench = bench_of(checkpoint, 'out', '--data', 'surfaces', '--tasks', 'classification', '--cfg-options', *SMALL)
    with pytest.raises(CheckpointMismatchError, match=r'patch_embed.projection.weight'):
        bench.execute(next(run for run in bench.plan() if run.encoder != RANDOM))


def in_this_process(jobs, at_once, on_end):
    """Stands in for `run_jobs`: what each command does, one after the other, with nothing to import again."""
    for job in jobs:
        job.log.parent.mkdir(parents=True, exist_ok=True)
        transfer.main(job.command[2:])
        on_end(Ended(job, code=0, seconds=0.0, result=job.load()))


@pytest.mark.slow
@pytest.mark.parametrize('data', [pytest.param('digits', marks=pytest.mark.full), 'surfaces'])
def test_dense_tasks_for_real(tmp_path, data, monkeypatch):
    """Two steps of segmentation and detection, from both encoders, up to the picture."""
    monkeypatch.setattr(transfer, 'run_jobs', in_this_process)
    checkpoint = tmp_path / 'encoder.pth'
    transfer.write_random_encoder(CONFIGS / PRETRAIN[data], 5, checkpoint)
    build = {'digits': 'test', 'surfaces': 'test_surfaces'}[data]
    pytest.importorskip('mmseg')
    pytest.importorskip('mmdet')
    monkeypatch.chdir(tmp_path)
    for task, schedule in (
        ('segmentation', ['train_cfg.max_iters=2', 'default_hooks.checkpoint.interval=2']),
        (
            'detection',
            [
                'train_cfg.max_epochs=1',
                'default_hooks.checkpoint.interval=1',
                'model.test_cfg.rcnn.score_thr=0.0',  # mmdet measures nothing where nothing is predicted
                f'test_evaluator.ann_file=data/mmpl_embedded/{build}/coco/annotations/instances_val.json',
            ],
        ),
    ):
        options = ['--jobs', '1', '--seeds', '0', '--tasks', task, '--cfg-options', *SMALL, *schedule]
        transfer.main(arguments(checkpoint, task, '--data', data, *options))
        with Image.open(f'{task}/transfer.png') as file:
            assert min(file.size) > 300
        folder = Path(task, task, 'PL-MAE', 'seed_0')
        entry = json.loads((folder / 'results.json').read_text())['pictures'][0]
        image, truth = (
            np.asarray(Image.open(folder / 'pictures' / entry[what]), dtype=float) for what in ('image', 'truth')
        )
        assert image.shape == truth.shape == (288, 288, 3)
        assert np.abs(image - truth).mean() > 3  # something was drawn
