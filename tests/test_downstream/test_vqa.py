"""Visual question answering: the configs train and test on tiny files in the official format."""

import importlib.util
import json
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmpretrain.models.backbones import VisionTransformer

from mmpl.apis.test import test as run_test
from mmpl.apis.train import train
from mmpl.registry import MODELS
from tests.vqa import write_bert, write_vqa

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / 'configs' / 'downstream' / 'vqa'
PARTS = ('model', 'train_dataloader.dataset', 'val_dataloader.dataset', 'test_dataloader.dataset')
TINY = ['model.backbone.arch=deit-tiny', 'model.dims=12', 'model.num_heads=3']


def options(scale: int) -> list[str]:
    """Of the full-size configs: two steps on small images, answers that occur once."""
    loaders = [part.partition('.')[0] for part in PARTS[1:]]
    return [
        f'model.backbone.img_size={scale}',
        *(f'{part}.vocabulary.min_count=1' for part in PARTS),
        *(f'{loader}.dataset.pipeline.1.scale=({scale},{scale})' for loader in loaders),
        *(f'{loader}.num_workers=0' for loader in loaders),
        *(f'{loader}.batch_size=2' for loader in loaders),
        'train_cfg.max_epochs=1',
        'default_hooks.logger.interval=1',
    ]


@pytest.mark.parametrize(
    'name, arch',
    [
        ('vitb_finetune_10e_vqav2', 'deit-tiny'),
        ('vitb_finetune_bert_10e_vqav2', 'deit-tiny'),
        ('vitb_frozen_10e_vqav2', 'deit-tiny'),
        pytest.param('vitb_finetune_10e_vqav2', 'base', marks=[pytest.mark.slow, pytest.mark.full]),
    ],
)
def test_full_size_configs_train_and_test(name, arch, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_vqa(tmp_path / 'data' / 'vqav2')
    state = VisionTransformer(arch=arch, img_size=48, patch_size=16, out_type='raw').state_dict()
    torch.save({'state_dict': {f'backbone.{key}': value for key, value in state.items()}}, 'encoder.pth')
    config = str(FOLDER / f'{name}.py')
    more = ['model.backbone.init_cfg.checkpoint=encoder.pth', *options(32)] + (TINY if arch != 'base' else [])
    if 'bert' in name:
        write_bert(tmp_path / 'bert')
        more += ['model.bert=bert', *(f'{part}.vocabulary.tokenizer=bert' for part in PARTS)]
    elif arch != 'base':
        more.append('model.text_layers=1')
    model = train([config, '--work-dir', 'work', '--cfg-options', *more])
    lines = [json.loads(line) for line in next(Path('work').rglob('scalars.json')).read_text().splitlines()]
    assert len([line for line in lines if 'loss' in line]) == 2
    (validated,) = (line for line in lines if 'vqa/accuracy' in line)
    frozen = 'frozen' in name
    trained = torch.equal(model.backbone.layers[0].attn.qkv.weight.cpu(), state['layers.0.attn.qkv.weight'])
    assert trained == frozen
    metrics = run_test([config, 'work/epoch_1.pth', '--work-dir', 'work', '--cfg-options', *more])
    assert metrics == pytest.approx({key: validated[key] for key in metrics})
    assert set(metrics) == {f'vqa/accuracy{end}' for end in ('', '_yes_no', '_number', '_other')}


def test_rates_with_bert(tmp_path, monkeypatch):
    """BERT learns as slowly as the encoder, the layer behind it as the cross-modal ones."""
    monkeypatch.chdir(tmp_path)
    write_vqa(tmp_path / 'data' / 'vqav2')
    cfg = Config.fromfile(FOLDER / 'vitb_finetune_bert_10e_vqav2.py')
    assert cfg.model.bert == cfg.bert
    assert all(
        loader.dataset.vocabulary == cfg.model.vocabulary for loader in (cfg.train_dataloader, cfg.val_dataloader)
    )
    cfg.model.bert = cfg.model.vocabulary.tokenizer = str(write_bert(tmp_path / 'bert'))
    cfg.model.vocabulary.min_count = 1
    cfg.model.update(dims=12, num_heads=3, fusion_layers=1)
    cfg.model.backbone.update(arch='deit-tiny', img_size=32)
    model = MODELS.build(cfg.model)
    wrapper = build_optim_wrapper(model, cfg.optim_wrapper)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    factors = {'backbone': 1, 'head': 50, 'fusion': 5, 'question.bert': 1, 'question.project': 5}
    for group in wrapper.optimizer.param_groups:
        for parameter in group['params']:
            (factor,) = (f for start, f in factors.items() if names[id(parameter)].startswith(start + '.'))
            assert group['lr'] == pytest.approx(5e-6 * factor)
            if factor == 1:  # as METER: no decay of norms and biases
                assert group['weight_decay'] == (0.01 if parameter.ndim > 1 else 0)


def test_full_size_model_and_its_rates(tmp_path, monkeypatch):
    """METER's factors: the head 50 times, the cross-modal layers 5 times the encoder's rate."""
    monkeypatch.chdir(tmp_path)
    write_vqa(tmp_path / 'data' / 'vqav2')
    cfg = Config.fromfile(FOLDER / 'vitb_finetune_10e_vqav2.py')
    cfg.model.vocabulary.min_count = 1
    with torch.device('meta'):
        model = MODELS.build(cfg.model)
    wrapper = build_optim_wrapper(model, cfg.optim_wrapper)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    factors = {'backbone': 1, 'head': 50, 'fusion': 5, 'question': 50}
    for group in wrapper.optimizer.param_groups:
        for parameter in group['params']:
            assert group['lr'] == pytest.approx(5e-6 * factors[names[id(parameter)].partition('.')[0]])
    count = sum(p.numel() for p in model.parameters()) / 1e6
    assert 220 < count < 260  # millions: 86 of the encoder, 43 of the text, 113 of the fusion, 2 of the head
    assert len(model.fusion.layers) == 6 and cfg.train_dataloader.batch_size * 8 == 512


@pytest.mark.slow
def test_easy_vqa_from_first_use(tmp_path, monkeypatch):
    """The small config makes its files, trains and tests; blind it does so without the encoder's weights."""
    if importlib.util.find_spec('easy_vqa') is None:
        pytest.skip('easy-vqa is not installed')
    monkeypatch.chdir(tmp_path)
    config = str(FOLDER / 'vit_frozen_easy_vqa.py')
    few = [f'{part}_dataloader.dataset.indices=192' for part in ('train', 'val', 'test')]
    more = ['--cfg-options', 'model.backbone.init_cfg=None', 'model.blind=True', 'train_cfg.max_epochs=1', *few]
    model = train([config, '--work-dir', 'work', *more])
    assert model.vocabulary.num_answers == 13
    metrics = run_test([config, 'work/epoch_1.pth', '--work-dir', 'work', *more])
    assert set(metrics) == {'vqa/accuracy', 'vqa/accuracy_yes_no', 'vqa/accuracy_other'}
