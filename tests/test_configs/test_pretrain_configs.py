"""The pre-training configs: they build at full size, and the main one trains under mmpretrain's own train.py."""

import json
import os
import subprocess
import sys
from pathlib import Path

import mmpretrain
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmpretrain.registry import MODELS
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = sorted([*ROOT.glob('configs/*.py'), *ROOT.glob('configs/ablations/*.py')])
EXPECTED = {  # what each config is for: (teachers, fields of the model)
    'pl_mae_vitb': ('lr', {}),
    'pl_mae_vitb_800e': ('lr', {}),
    'pl_mae_vitb_1600e': ('lr', {}),
    'pl_mae_vitb_folder': ('lr', {}),
    'pl_mae_vitb_fast': ('lr', dict(label_teacher_size=112)),
    'pl_mae_vits': ('lr', {}),
    'pl_mae_vitl': ('lr', {}),
    'pl_mae_demo': ('lr', {}),
    'pl_mae_vitb_single_teacher': ('l', {}),
    'pl_mae_vitb_no_class_labels': ('lr', {}),
    'pl_mae_vitb_no_data_labels': ('lr', {}),
    'pl_mae_vitb_pixel': ('', {}),
    'pl_mae_vitb_pixel_labels': ('l', {}),
    'pl_mae_vitb_folds': ('lr', dict(teacher_input='folds', data_tokens='masked')),
    'pl_mae_vitb_sinkhorn': ('lr', {}),
    'pl_mae_vitb_discrete': ('lr', {}),
}


@pytest.mark.parametrize('path', CONFIGS, ids=lambda path: path.stem)
def test_builds_at_full_size(path):
    cfg = Config.fromfile(path)
    with torch.device('meta'):
        model = MODELS.build(cfg.model)
    teachers, fields = EXPECTED[path.stem]
    assert (model.label_teacher is not None) == ('l' in teachers)
    assert (model.recon_teacher is not None) == ('r' in teachers)
    for name, value in fields.items():
        assert getattr(model, name) == value
    assert [h['type'] for h in cfg.custom_hooks].count('mmpl.DualTeacherHook') == 1
    warmup, cosine = cfg.param_scheduler
    assert warmup['end'] == cosine['begin']
    assert cosine['end'] == cfg.train_cfg.max_epochs
    assert len(path.read_text().splitlines()) <= 70


def test_what_the_variants_change():
    models = {path.stem: Config.fromfile(path).model for path in CONFIGS}
    assert models['pl_mae_vitb_sinkhorn'].label_head.assignment == 'sinkhorn'
    assert models['pl_mae_vitb_discrete'].head.target == 'discrete'
    assert models['pl_mae_vitb_pixel'].head.target == 'pixel'
    assert models['pl_mae_vitb_no_class_labels'].loss_weights == dict(recon=1.0, label_cls=0, label_data=1.0)
    assert models['pl_mae_vitb_no_data_labels'].loss_weights == dict(recon=1.0, label_cls=1.0, label_data=0)
    assert Config.fromfile(ROOT / 'configs/pl_mae_vitb_1600e.py').train_cfg.max_epochs == 1600
    fast = Config.fromfile(ROOT / 'configs/pl_mae_vitb_fast.py')
    plain = Config.fromfile(ROOT / 'configs/pl_mae_vitb.py')
    assert fast.model.masking == dict(plain.model.masking, num_masks=8, predict_ratio=0.5)
    assert fast.train_dataloader.dataset.pipeline[0].type == 'mmpl.LoadRandomResizedCrop'
    views = [cfg.auto_scale_lr.base_batch_size * cfg.model.masking.num_masks for cfg in (fast, plain)]
    assert views[0] == views[1], 'the learning rate follows the masked views'


@pytest.mark.slow
def test_vitb_takes_a_step():
    torch.manual_seed(0)
    cfg = Config.fromfile(ROOT / 'configs/pl_mae_vitb.py')
    model = MODELS.build(cfg.model)
    model.init_weights()
    model.attach_updater('the test')
    model.train()
    losses = model(torch.randn(2, 3, 224, 224), mode='loss')
    assert set(losses) == {'loss_recon', 'loss_label_cls', 'loss_label_data'}
    assert all(torch.isfinite(loss) for loss in losses.values())
    sum(losses.values()).backward()
    for name, parameter in model.named_parameters():
        if 'teacher' in name or name.endswith('pos_embed'):
            assert parameter.grad is None, name
        else:
            assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


@pytest.fixture
def imagenet(tmp_path) -> Path:
    """Two classes in ImageNet's folder format, JPEGs of 500 x 375 pixels."""
    rng = np.random.default_rng(0)
    for split in ('train', 'val'):
        for wnid in ('n01440764', 'n01443537'):
            folder = tmp_path / 'imagenet' / split / wnid
            folder.mkdir(parents=True)
            for number in range(4):
                pixels = rng.integers(0, 255, (12, 16, 3), dtype=np.uint8)
                Image.fromarray(pixels).resize((500, 375)).save(folder / f'{wnid}_{number}.JPEG')
    return tmp_path / 'imagenet'


@pytest.mark.slow
@pytest.mark.smoke
def test_vitb_config_under_mmpretrains_own_train_py(imagenet, tmp_path):
    """Real config, real folder format; only depth, batch and length are cut."""
    data = {
        f'{loader}.dataset.{field}': value
        for loader in ('train_dataloader', 'custom_hooks.1.train_dataloader', 'custom_hooks.1.val_dataloader')
        for field, value in (('data_root', imagenet), ('metainfo.classes', '[fish_a,fish_b]'))
    }
    options = data | {
        'model.backbone.arch': 'deit-t',
        'model.neck.depth': 1,
        'train_dataloader.batch_size': 4,
        'train_dataloader.num_workers': 0,
        'train_dataloader.persistent_workers': False,
        'train_cfg.max_epochs': 2,
        'param_scheduler.0.end': 1,
        'param_scheduler.1.begin': 1,
        'param_scheduler.1.end': 2,
        'default_hooks.logger.interval': 1,
        'custom_hooks.1.k': 2,
        'custom_hooks.1.max_train_images': 8,
        'custom_hooks.1.train_dataloader.num_workers': 0,
        'custom_hooks.1.val_dataloader.num_workers': 0,
    }
    script = Path(mmpretrain.__file__).parent / '.mim' / 'tools' / 'train.py'
    done = subprocess.run(
        [sys.executable, script, ROOT / 'configs/pl_mae_vitb.py', '--work-dir', tmp_path / 'work', '--cfg-options']
        + [f'{name}={value}' for name, value in options.items()],
        cwd=tmp_path,
        env=dict(os.environ, PYTHONPATH=str(ROOT), CUDA_VISIBLE_DEVICES='-1'),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-5000:]
    (log,) = (tmp_path / 'work').glob('*/vis_data/scalars.json')
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    steps = [line for line in lines if 'loss' in line]
    assert len(steps) == 4
    assert all(np.isfinite(step['loss']) for step in steps)
    assert {'loss_recon', 'loss_label_cls', 'loss_label_data', 'momentum_label', 'momentum_recon'} <= set(steps[0])
    assert any('probe/knn_top1' in line for line in lines)
    assert (tmp_path / 'work' / 'epoch_2.pth').is_file()
