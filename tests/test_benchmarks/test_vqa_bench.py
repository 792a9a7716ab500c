"""The benchmark of visual question answering: what it runs, refuses and writes."""

import dataclasses
import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from mmpretrain.structures import DataSample
from PIL import Image

import transfer
import vqa
from bench.arguments import CONFIGS
from bench.predictions import draw_predictions
from mmpl.utils.user_errors import UserError
from vqa import BLIND, VQABench, parse_args

# Stands in for a run: writes what a run writes.
FAKE = """
import json, sys
from pathlib import Path
from PIL import Image
(task, encoder, seed), work_dir = sys.argv[1].split(', '), Path(sys.argv[2])
seed = int(seed.removeprefix('seed '))
other = {'question only': 20, 'random init': 50}.get(encoder, 70) + seed
folder = work_dir / 'pictures'
folder.mkdir(parents=True, exist_ok=True)
Image.new('RGB', (8, 8), (200, 0, 0)).save(folder / '0.png')
metrics = {'vqa/accuracy_other': other, 'vqa/accuracy_yes_no': 80, 'vqa/accuracy': 75}
entry = dict(image='0.png', caption='is it red?\\nno', correct=other > 60)
(work_dir / 'results.json').write_text(json.dumps(dict(metrics=metrics, pictures=[entry])))
"""


@pytest.fixture
def checkpoint(tmp_path):
    path = tmp_path / 'encoder.pth'
    torch.save({'state_dict': {'backbone.cls_token': torch.ones(1, 1, 4)}}, path)
    return str(path)


@pytest.mark.parametrize('name', ['mae', 'pl_mae', 'msa'])
def test_pretraining_configs_make_the_encoder_that_the_tasks_take(name):
    pretraining = Config.fromfile(CONFIGS / 'benchmarks' / 'vqa' / f'{name}.py')
    init_default_scope('mmpretrain')
    with torch.device('meta'):
        encoder = MODELS.build(pretraining.model).backbone
    for task in vqa.TASKS.values():
        cfg = Config.fromfile(CONFIGS / 'downstream' / task.config)
        backbone = {key: value for key, value in cfg.model.backbone.items() if key != 'init_cfg'}
        with torch.device('meta'):
            wanted = MODELS.build(backbone).state_dict()
        assert {key: value.shape for key, value in encoder.state_dict().items()} == {
            key: value.shape for key, value in wanted.items()
        }
        for field in ('mean', 'std', 'bgr_to_rgb'):
            assert cfg.model.data_preprocessor[field] == pretraining.model.data_preprocessor[field]
    assert pretraining.train_dataloader.dataset.get('split', 'train') == 'train'


def test_plan_has_the_controls_and_every_encoder(tmp_path, checkpoint):
    argv = ['--encoder', 'MAE', checkpoint, '--encoder', 'PL-MAE', checkpoint, checkpoint, '--seeds', '0', '1']
    bench = VQABench(parse_args([*argv, '--work-dir', str(tmp_path), '--tasks', 'finetune', 'frozen']))
    runs = bench.plan()
    assert len(runs) == 2 * 2 * 4 == len({run.work_dir for run in runs}) == len({run.key for run in runs})
    starts = {run.encoder: bench.start(run) for run in runs}
    assert starts[BLIND] == ['model.backbone.init_cfg=None', 'model.blind=True']
    assert starts['random init'] == [f'model.backbone.init_cfg.checkpoint={bench.random[-1]}']
    assert starts['MAE'] == [f'model.backbone.init_cfg.checkpoint={checkpoint}']
    assert all(Path(bench.config(run.task)).is_file() for run in runs)
    identities = {run.encoder: bench.identity(run) for run in runs[:4] if run.encoder != 'random init'}
    assert identities[BLIND]['encoder'] is None and identities['MAE'] == identities['PL-MAE']


@pytest.mark.parametrize(
    'options, message',
    [
        (['--encoder', 'random init', '{}'], "--encoder must begin with a name .* got 'random init'"),
        (['--encoder', 'question_only', '{}'], "--encoder must begin with a name .* got 'question_only'"),
        (['--encoder', 'a', '{}', '--encoder', 'a', '{}'], "--encoder must begin with a name .* got 'a'"),
        (['--encoder', 'a'], '--encoder a must have one checkpoint, or one for each of the 3 seeds, but got 0'),
        (['--encoder', 'a', '{}', '{}'], 'one for each of the 3 seeds, but got 2'),
        (['--encoder', 'a', 'nowhere.pth'], 'nowhere.pth does not exist'),
        (['--seeds', '1', '1'], r'--seeds must be different from each other, but got \[1, 1\]'),
    ],
)
def test_refuses(tmp_path, checkpoint, options, message):
    argv = [option.format(checkpoint) for option in options]
    with pytest.raises((ValueError, FileNotFoundError, UserError), match=message):
        VQABench(parse_args([*argv, '--work-dir', str(tmp_path)]))


def test_table_and_picture(tmp_path, checkpoint, monkeypatch, capsys):
    real = transfer.run_jobs

    def run_jobs(jobs, at_once, on_end):
        commands = [[sys.executable, '-c', FAKE, job.key, str(job.log.parent)] for job in jobs]
        real([dataclasses.replace(j, command=c) for j, c in zip(jobs, commands, strict=True)], at_once, on_end)

    monkeypatch.setattr(transfer, 'run_jobs', run_jobs)
    out = tmp_path / 'out'
    vqa.main(['--encoder', 'MAE', checkpoint, '--seeds', '1', '3', '--work-dir', str(out), '--jobs', '2'])
    table = (out / 'vqa.md').read_text()
    assert table in capsys.readouterr().out
    rows = [[cell.strip() for cell in line.split('|')[1:-1]] for line in table.splitlines()]
    headings = ['frozen: other answers (%)', 'frozen: yes/no (%)', 'frozen: all (%)']
    assert rows[0] == ['encoder', *headings, 'seeds']
    # 20, 50 and 70, plus seeds 1 and 3: mean 2 more, sample standard deviation sqrt(2)
    assert rows[2] == ['question only', '22.0 ± 1.4', '80.0 ± 0.0', '75.0 ± 0.0', '2']
    assert [row[1] for row in rows[3:]] == ['52.0 ± 1.4', '72.0 ± 1.4']
    assert 'MAE,frozen_other,72.0000,1.4142,2,71.0000 73.0000' in (out / 'vqa.csv').read_text().splitlines()
    assert json.loads((out / 'results.json').read_text())['rows'][0]['frozen_other'] == [21, 23]
    with Image.open(out / 'vqa.png') as file:
        pixels = np.asarray(file.convert('RGB')).reshape(-1, 3).astype(int)
    assert (np.abs(pixels - [200, 0, 0]).max(1) < 12).mean() > 0.02
    weights = [torch.load(out / f'random_init/seed_{seed}.pth')['state_dict'] for seed in (1, 3)]
    places = [w['backbone.pos_embed'] for w in weights]  # those of pre-training, not drawn at random
    assert torch.equal(*places) and places[0].std() > 0.4
    assert not torch.equal(*(w['backbone.layers.0.attn.qkv.weight'] for w in weights))
    green, red = ((np.abs(pixels - colour).max(1) < 30).any() for colour in ([0, 158, 115], [213, 94, 0]))
    assert green and red  # one row right, two wrong


def test_questions_are_drawn_with_their_answers(tmp_path):
    Image.new('RGB', (8, 8)).save(tmp_path / 'image.png')
    sample = DataSample()
    known = dict(
        img_path=str(tmp_path / 'image.png'), question='is there not a black shape in the image?', answers=['no'] * 10
    )
    for name, value in dict(known, pred_answer='no').items():
        sample.set_field(value, name, field_type='metainfo')
    (entry,) = draw_predictions([sample], {}, tmp_path / 'out')
    assert entry['correct'] and re.sub(r'\s+', ' ', entry['caption']) == f'{known["question"]} → no'
    assert max(map(len, entry['caption'].splitlines())) <= 15
    with Image.open(tmp_path / 'out' / entry['image']) as file:
        assert file.size == (288, 288)
    sample.set_field('yes', 'pred_answer', field_type='metainfo')
    assert not draw_predictions([sample], {}, tmp_path / 'out')[0]['correct']
