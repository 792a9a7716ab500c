"""The transfer benchmark: what it refuses, what it repeats, its table and its picture."""

import json
import os
import runpy
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from PIL import Image

from mmpl.checkpoints.fit import CheckpointMismatchError
from mmpl.evaluation import transfer as bench
from mmpl.evaluation import transfer_run
from mmpl.evaluation.evaluate import build_model

ROOT = Path(__file__).resolve().parents[2]
PRETRAIN = ROOT / 'configs' / 'pl_mae_demo.py'
SURFACES = ROOT / 'configs' / 'pl_mae_surfaces.py'
DOWNSTREAM = ROOT / 'configs' / 'downstream'

# Stands in for a run: writes what a run writes, slowly or with a failure if told so.
FAKE = """
import json, sys, time
from pathlib import Path
from PIL import Image
config, checkpoint, seed, work_dir = sys.argv[1], sys.argv[2], int(sys.argv[4]), Path(sys.argv[6])
if seed == 7:
    print('the disk is full'); sys.exit(3)
if seed == 8:
    time.sleep(60)
better = 10.0 * ('random_init' not in checkpoint)
folder = work_dir / 'pictures'
folder.mkdir(parents=True, exist_ok=True)
Image.new('RGB', (8, 8), (int(20 * better), 0, 0)).save(folder / '0.png')
entry = dict(image='0.png', truth='0.png', prediction='0.png')
metrics = {'mIoU': 50 + better + seed}
if 'detection' in config:
    metrics = {'coco/bbox_mAP': 0.2 + better / 100 + seed / 100, 'coco/segm_mAP': 0.1}
if 'classification' in config:
    metrics, entry = {'accuracy/top1': 80 + better}, dict(image='0.png', caption='3  0.90', correct=False)
(work_dir / 'results.json').write_text(json.dumps(dict(metrics=metrics, pictures=[entry])))
"""


@pytest.fixture
def checkpoint(tmp_path) -> Path:
    path = tmp_path / 'encoder.pth'
    bench.write_random_encoder(PRETRAIN, 5, path)
    return path


@pytest.fixture
def fake(monkeypatch):
    real = bench._Processes.command

    def command(self, run):
        return [sys.executable, '-c', FAKE, *real(self, run)[3:]]

    monkeypatch.setattr(bench._Processes, 'command', command)


def go(checkpoint: Path, out: Path, **kwargs) -> str:
    checkpoints = checkpoint if isinstance(checkpoint, list) else [checkpoint]
    return bench.transfer(checkpoints, config_dir=DOWNSTREAM, out=out, **kwargs)


def test_random_encoder_is_the_one_that_pretraining_starts_from(tmp_path, checkpoint):
    want = build_model(Config.fromfile(PRETRAIN), seed=5).backbone.state_dict()
    got = torch.load(checkpoint, weights_only=True)['state_dict']
    assert set(got) == {f'backbone.{key}' for key in want}
    assert all(torch.equal(got[f'backbone.{key}'], value) for key, value in want.items())
    bench.write_random_encoder(PRETRAIN, 6, tmp_path / 'other.pth')
    assert bench.encoder_digest(tmp_path / 'other.pth') != bench.encoder_digest(checkpoint)


def test_digest_is_of_the_encoder_alone(tmp_path, checkpoint):
    state = torch.load(checkpoint, weights_only=True)['state_dict']
    torch.save({'state_dict': {**state, 'head.weight': torch.ones(3)}, 'meta': {'epoch': 3}}, tmp_path / 'more.pth')
    assert bench.encoder_digest(tmp_path / 'more.pth') == bench.encoder_digest(checkpoint)
    state['backbone.cls_token'] = state['backbone.cls_token'] + 1e-6
    torch.save({'state_dict': state}, tmp_path / 'moved.pth')
    assert bench.encoder_digest(tmp_path / 'moved.pth') != bench.encoder_digest(checkpoint)


def test_refuses(tmp_path, checkpoint):
    with pytest.raises(FileNotFoundError, match='nowhere.pth does not exist'):
        go(tmp_path / 'nowhere.pth', tmp_path)
    torch.save({'state_dict': {'encoder.weight': torch.ones(2)}}, tmp_path / 'foreign.pth')
    with pytest.raises(CheckpointMismatchError, match="foreign.pth: checkpoint has no encoder 'student'"):
        go(tmp_path / 'foreign.pth', tmp_path)
    with pytest.raises(ValueError, match='one for each of the 3 seeds, but got 2'):
        go([checkpoint, checkpoint], tmp_path)
    with pytest.raises(ValueError, match=r'`seeds` must be different .* \[1, 1\]'):
        go(checkpoint, tmp_path, seeds=(1, 1))
    with pytest.raises(ValueError, match="`tasks` must be one of .*'depth'"):
        go(checkpoint, tmp_path, tasks=('depth',))
    for name in ('random init', 'random_init', 'a/b', ''):
        with pytest.raises(ValueError, match='`name` must be a word'):
            go(checkpoint, tmp_path, name=name)
    with pytest.raises(ValueError, match=r"`data` must be one of .*'digits', 'surfaces'.*'plain'"):
        go(checkpoint, tmp_path, data='plain')
    with pytest.raises(ValueError, match=r'`jobs` must be an integer in \[1'):
        go(checkpoint, tmp_path, jobs=0)


def test_table_and_picture(tmp_path, checkpoint, fake):
    table = go(checkpoint, tmp_path / 'out', seeds=(1, 3), jobs=2, name='ours', echo=lambda line: None)
    rows = [[cell.strip() for cell in line.split('|')[1:-1]] for line in table.splitlines()]
    assert rows[0][0] == 'encoder' and rows[0][-1] == 'seeds'
    # 50 + seed for seeds 1 and 3: mean 52, sample standard deviation sqrt(2)
    assert rows[2] == ['random init', '80.0 ± 0.0', '52.0 ± 1.4', '22.0 ± 1.4', '10.0 ± 0.0', '2']
    assert rows[3] == ['ours', '90.0 ± 0.0', '62.0 ± 1.4', '32.0 ± 1.4', '10.0 ± 0.0', '2']
    assert rows[4] == ['difference', '+10.0', '+10.0', '+10.0', '+0.0', '']
    assert (tmp_path / 'out' / 'transfer.md').read_text() == table + '\n'
    lines = (tmp_path / 'out' / 'transfer.csv').read_text().splitlines()
    assert 'ours,miou,62.0000,1.4142,2,61.0000 63.0000' in lines and len(lines) == 9
    with Image.open(tmp_path / 'out' / 'transfer.png') as file:
        pixels = np.asarray(file.convert('RGB')).reshape(-1, 3)
    assert (np.abs(pixels.astype(int) - [200, 0, 0]).max(1) < 12).mean() > 0.02  # predictions of ours
    assert (pixels.max(1) < 12).mean() > 0.02  # of the random encoder


def test_each_seed_its_checkpoint(tmp_path, checkpoint):
    other = tmp_path / 'other.pth'
    runs = bench.plan([checkpoint, other], [tmp_path / 'a', tmp_path / 'b'], (4, 9), list(bench.TASKS), 'x', tmp_path)
    assert len(runs) == 12 and len({run.work_dir for run in runs}) == 12
    assert {run.checkpoint for run in runs if run.encoder == 'x' and run.seed == 9} == {other}
    assert {run.checkpoint for run in runs if run.encoder == bench.RANDOM and run.seed == 4} == {tmp_path / 'a'}


@pytest.mark.parametrize('data', list(bench.PRETRAIN))
def test_data_chooses_the_configs(tmp_path, data):
    """Each task runs the config of the data, from an encoder of the shape that this config takes."""
    runs = bench.plan([tmp_path / 'a'], [tmp_path / 'b'], (0,), list(bench.TASKS), 'x', tmp_path)
    processes = bench._Processes(DOWNSTREAM, data, [], print)
    configs = {Path(processes.command(run)[3]) for run in runs}
    assert len(configs) == 3
    encoder = Config.fromfile(ROOT / 'configs' / bench.PRETRAIN[data]).model.backbone
    for config in configs:
        backbone = Config.fromfile(config).model.backbone
        assert all(backbone[field] == encoder[field] for field in ('arch', 'img_size', 'patch_size'))


def test_random_encoder_is_that_of_the_data(tmp_path, fake):
    for data, patches in (('digits', 64), ('surfaces', 16)):
        path = tmp_path / f'{data}.pth'
        bench.write_random_encoder(ROOT / 'configs' / bench.PRETRAIN[data], 5, path)
        out = tmp_path / data
        table = go(path, out, data=data, seeds=(0,), tasks=('segmentation',), echo=lambda line: None)
        assert '| difference | +10.0 |' in table
        state = torch.load(out / 'random_init' / 'seed_0.pth', weights_only=True)['state_dict']
        assert state['backbone.pos_embed'].shape == (1, patches + 1, 96)


def test_failure_names_the_log_and_ends_the_others(tmp_path, checkpoint, fake):
    start = time.monotonic()
    with pytest.raises(bench.TransferError, match='seed 7 failed with exit code 3:\nthe disk is full\n.*log.txt'):
        go(checkpoint, tmp_path, seeds=(8, 7), jobs=3, tasks=('segmentation',), echo=lambda line: None)
    assert time.monotonic() - start < 40  # seed 8 would sleep for a minute


def test_a_metric_that_was_not_measured_is_an_error():
    with pytest.raises(KeyError, match=r"no \['mIoU'\], only \['aAcc'\]"):
        bench.scores('segmentation', {'aAcc': 3.0})


def test_finished_runs_are_kept_and_others_not_mixed_in(tmp_path, checkpoint, monkeypatch):
    config = str(DOWNSTREAM / 'classification' / 'vit_finetune_embedded_10pct.py')
    monkeypatch.setattr(transfer_run, 'train', lambda argv: pytest.fail('trained again'))
    work = tmp_path / 'run'
    work.mkdir()
    transfer_run._claim(work, transfer_run._identity(config, str(checkpoint), 0, []))
    (work / 'results.json').write_text(json.dumps({'metrics': {'accuracy/top1': 1.0}, 'pictures': []}))
    assert transfer_run.run(config, str(checkpoint), 0, work)['metrics'] == {'accuracy/top1': 1.0}
    bench.write_random_encoder(PRETRAIN, 6, tmp_path / 'other.pth')
    for changed, why in (
        ((config, str(tmp_path / 'other.pth'), 0, work), 'other weights:'),
        ((config, str(checkpoint), 1, work), 'another config and another seed'),
        ((config, str(checkpoint), 0, work, 6, ['train_cfg.max_epochs=1']), 'another config:'),
    ):
        with pytest.raises(transfer_run.TransferMismatchError, match=why):
            transfer_run.run(*changed)


def test_command_line(tmp_path, checkpoint, fake, monkeypatch, capsys):
    tool = str(ROOT / 'tools' / 'benchmarks' / 'transfer.py')
    monkeypatch.setattr('signal.signal', lambda *args: None)
    monkeypatch.setattr(sys, 'argv', [tool, str(tmp_path / 'nowhere.pth')])
    with pytest.raises(SystemExit, match='error: checkpoint .*nowhere.pth does not exist'):
        runpy.run_path(tool, run_name='__main__')
    argv = [tool, str(checkpoint), '--seeds', '0', '--tasks', 'segmentation', '--work-dir', str(tmp_path / 'out')]
    monkeypatch.setattr(sys, 'argv', argv)
    runpy.run_path(tool, run_name='__main__')
    out = capsys.readouterr().out
    assert 'segmentation, PL-MAE, seed 0: miou 60.0' in out and '| PL-MAE | 60.0 | 1 |' in out


@pytest.mark.slow
def test_a_killed_run_goes_on(tmp_path, checkpoint, monkeypatch):
    """Killed after training and before its results: the second start trains nothing and tests."""
    monkeypatch.chdir(tmp_path)
    config = str(DOWNSTREAM / 'classification' / 'vit_finetune_embedded_10pct.py')
    options = [f'{part}_dataloader.dataset.size=test' for part in ('train', 'test')]
    options += ['train_cfg.max_epochs=2', 'default_hooks.checkpoint.interval=1']
    real = transfer_run.test

    def killed(argv):
        raise KeyboardInterrupt

    monkeypatch.setattr(transfer_run, 'test', killed)
    with pytest.raises(KeyboardInterrupt):
        transfer_run.run(config, str(checkpoint), 0, 'run', 2, options)
    before = os.stat('run/epoch_2.pth').st_mtime_ns
    monkeypatch.setattr(transfer_run, 'test', real)
    result = transfer_run.run(config, str(checkpoint), 0, 'run', 2, options)
    assert os.stat('run/epoch_2.pth').st_mtime_ns == before
    assert 0 <= result['metrics']['accuracy/top1'] <= 100 and len(result['pictures']) == 2


@pytest.mark.slow
def test_an_encoder_for_other_data_does_not_fit(tmp_path, checkpoint, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = str(DOWNSTREAM / 'classification' / 'vit_finetune_surfaces_10pct.py')
    options = [f'{part}_dataloader.dataset.size=test' for part in ('train', 'test')]
    with pytest.raises(CheckpointMismatchError, match=r'patch_embed.projection.weight'):
        transfer_run.run(config, str(checkpoint), 0, 'run', 0, options)


@pytest.mark.slow
@pytest.mark.dist
@pytest.mark.parametrize('data', list(bench.PRETRAIN))
def test_dense_tasks_for_real(tmp_path, data, monkeypatch):
    """Two steps of segmentation and detection, from both encoders, up to the picture."""
    checkpoint = tmp_path / 'encoder.pth'
    bench.write_random_encoder(ROOT / 'configs' / bench.PRETRAIN[data], 5, checkpoint)
    build = {'digits': 'test', 'surfaces': 'test_surfaces'}[data]
    pytest.importorskip('mmseg')
    pytest.importorskip('mmdet')
    monkeypatch.chdir(tmp_path)
    options = [f'{part}_dataloader.dataset.size=test' for part in ('train', 'test')]
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
        kwargs = dict(seeds=(0,), tasks=(task,), options=[*options, *schedule], echo=lambda line: None)
        go(checkpoint, Path(task), data=data, **kwargs)
        with Image.open(f'{task}/transfer.png') as file:
            assert min(file.size) > 300
        entry = json.loads(Path(task, task, 'PL-MAE', 'seed_0', 'results.json').read_text())['pictures'][0]
        folder = Path(task, task, 'PL-MAE', 'seed_0', 'pictures')
        image, truth = (np.asarray(Image.open(folder / entry[what]), dtype=float) for what in ('image', 'truth'))
        assert image.shape == truth.shape == (288, 288, 3)
        assert np.abs(image - truth).mean() > 3  # something was drawn
