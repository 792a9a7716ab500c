"""The pre-training configs: they build at full size, and the main one trains under mmpretrain's own train.py."""

import json
import os
import subprocess
import sys
from pathlib import Path

import cv2
import mmpretrain
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.dataset import Compose, default_collate
from mmengine.registry import init_default_scope
from mmpretrain.registry import MODELS
from PIL import Image

from mmpl.apis import train as train_api
from mmpl.checkpoints.fit import CheckpointMismatchError
from mmpl.evaluation.evaluate import evaluate_features
from mmpl.export.backbone import export_backbone
from mmpl.visualization.charts import charts_of
from mmpl.visualization.report import ReportOptions, collect_report, render_report

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = sorted([*ROOT.glob('configs/*.py'), *ROOT.glob('configs/ablations/*.py')])
MSA = [path for path in CONFIGS if path.stem.startswith('msa')]
TEACHERS = dict(l='label_teacher', r='recon_teacher', a='align_teacher')
EXPECTED = {  # what each config is for: (teachers, fields of the model)
    'pl_mae_vitb': ('lr', {}),
    'pl_mae_vitb_800e': ('lr', {}),
    'pl_mae_vitb_1600e': ('lr', {}),
    'pl_mae_vitb_folder': ('lr', {}),
    'pl_mae_vitb_fast': ('l', {}),
    'pl_mae_vits': ('lr', {}),
    'pl_mae_vitl': ('lr', {}),
    'pl_mae_vith14': ('lr', {}),
    'pl_mae_demo': ('lr', {}),
    'pl_mae_surfaces': ('lr', {}),
    'pl_mae_vitb_single_teacher': ('l', {}),
    'pl_mae_vitb_no_class_labels': ('lr', {}),
    'pl_mae_vitb_no_data_labels': ('lr', {}),
    'pl_mae_vitb_pixel': ('', {}),
    'pl_mae_vitb_pixel_labels': ('l', {}),
    'pl_mae_vitb_folds': ('lr', dict(teacher_input='folds', data_tokens='masked')),
    'pl_mae_vitb_sinkhorn': ('lr', {}),
    'pl_mae_vitb_discrete': ('lr', {}),
    'msa_vitb': ('a', {}),
    'msa_demo': ('a', {}),
    'msa_vitb_cls_only': ('a', {}),
    'msa_vitb_tokens_only': ('a', {}),
    'msa_vitb_own_crop': ('a', {}),
    'green_mim_swinb': ('', {}),
}


@pytest.mark.parametrize('path', CONFIGS, ids=lambda path: path.stem)
def test_builds_at_full_size(path):
    cfg = Config.fromfile(path)
    # mmpretrain's Swin reads numbers from tensors while it is built, and those on `meta` have none
    with torch.device('cpu' if cfg.model.type == 'mmpl.GreenMIM' else 'meta'):
        model = MODELS.build(cfg.model)
    assert model.teachers or hasattr(model, 'tokenizer') or model.head.target == 'pixel'  # there is something to learn
    teachers, fields = EXPECTED.get(path.stem, (None, {}))
    if teachers is not None:
        assert list(model.teachers) == [TEACHERS[letter] for letter in teachers]
    for name, value in fields.items():
        assert getattr(model, name) == value
    assert [h['type'] for h in cfg.custom_hooks].count('mmpl.DualTeacherHook') == 1
    warmup, cosine = cfg.param_scheduler
    assert warmup['end'] == cosine['begin']
    assert cosine['end'] == cfg.train_cfg.max_epochs
    assert len(path.read_text().splitlines()) <= 70


def test_presets_of_labels_on_imagenet_follow_mc_ssl():
    """MC-SSL, iBOT and DINO clip gradients at 3 and leave prototypes as they are in the first epoch."""
    frozen = dict(type='mmpl.FrozenWarmupHook', parts=['label_heads.*.prototypes'], epochs=1)
    for path in CONFIGS:
        cfg = Config.fromfile(path)
        large = (cfg.model.get('label_head') or {}).get('num_prototypes', 0) >= 4096
        labels = any(cfg.model.loss_weights[name] for name in ('label_cls', 'label_data')) if large else False
        assert (frozen in cfg.custom_hooks) == labels, path
        if large:
            assert cfg.optim_wrapper.get('clip_grad') == (dict(max_norm=3.0) if labels else None), path


def test_what_the_variants_change():
    models = {path.stem: Config.fromfile(path).model for path in CONFIGS}
    assert models['pl_mae_vitb_sinkhorn'].label_head.assignment == 'sinkhorn'
    assert models['pl_mae_vitb_discrete'].head.target == 'discrete'
    fast = models['pl_mae_vitb_fast']
    assert (fast.masking.num_masks, fast.masking.predict_ratio, fast.neck.depth) == (8, 0.5, 2)
    assert fast.single_teacher and not models['pl_mae_vitb'].single_teacher
    assert models['pl_mae_vitb_pixel'].head.target == 'pixel'
    assert models['pl_mae_vitb_no_class_labels'].loss_weights == dict(recon=1.0, label_cls=0, label_data=1.0)
    assert models['pl_mae_vitb_no_data_labels'].loss_weights == dict(recon=1.0, label_cls=1.0, label_data=0)
    assert Config.fromfile(ROOT / 'configs/pl_mae_vitb_1600e.py').train_cfg.max_epochs == 1600
    assert models['msa_vitb_cls_only'].loss_weights == dict(recon=1.0, align_cls=1.0, align_tokens=0)
    assert models['msa_vitb_tokens_only'].loss_weights == dict(recon=1.0, align_cls=0, align_tokens=1.0)
    own_crop = {path.stem: Config.fromfile(path).train_dataloader.dataset.pipeline[1].get('own_crop') for path in MSA}
    assert [name for name, value in own_crop.items() if value] == ['msa_vitb_own_crop']
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
    check_gradients(model, losses)


def check_gradients(model, losses):
    assert all(torch.isfinite(loss) for loss in losses.values())
    sum(losses.values()).backward()
    for name, parameter in model.named_parameters():
        if 'teacher' in name or name.endswith('pos_embed'):
            assert parameter.grad is None, name
        else:
            assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


@pytest.mark.slow
@pytest.mark.parametrize('path', MSA, ids=lambda path: path.stem)
def test_msa_takes_a_step_from_its_own_pipeline(path):
    """Two images of noise through the config's transforms, preprocessor and model; ablations with a small ViT."""
    torch.manual_seed(0)
    np.random.seed(0)
    cfg = Config.fromfile(path)
    if path.parent.name == 'ablations':
        cfg.merge_from_dict({'model.backbone.arch': 'deit-t', 'model.neck.depth': 1})
    init_default_scope('mmpretrain')
    pipeline = Compose(cfg.train_dataloader.dataset.pipeline[1:])
    rng, side = np.random.default_rng(0), cfg.model.backbone.img_size
    images = [cv2.resize(rng.integers(0, 255, (12, 16, 3), dtype=np.uint8), (2 * side, side)) for _ in range(2)]
    batch = default_collate([pipeline(dict(img=image)) for image in images])
    assert all((sample.get('view_boxes') is not None) == ('own_crop' in path.stem) for sample in batch['data_samples'])
    model = MODELS.build(cfg.model)
    model.init_weights()
    model.attach_updater('the test')
    model.train()
    data = model.data_preprocessor(batch, True)
    assert [tuple(view.shape) for view in data['inputs']] == [(2, 3, side, side)] * 2
    assert not torch.equal(*data['inputs']), 'the strong view is another one'
    losses = model(**data, mode='loss')
    weights = cfg.model.loss_weights
    assert set(losses) == {f'loss_{name}' for name, weight in weights.items() if weight}
    check_gradients(model, losses)


@pytest.mark.slow
def test_msa_demo_trains_and_is_handed_over(tmp_path):
    """The demo through tools/train.py's API on little data; then what the other tools make of its checkpoint."""
    data = {
        f'{loader}.dataset.{field}': value
        for loader in ('train_dataloader', 'custom_hooks.1.train_dataloader', 'custom_hooks.1.val_dataloader')
        for field, value in (('data_root', tmp_path / 'data'), ('size', 'test'))
    }
    options = data | {
        'train_dataloader.num_workers': 0,
        'train_dataloader.persistent_workers': False,
        'train_cfg.max_epochs': 1,
        'param_scheduler.0.end': 0.5,
        'param_scheduler.1.begin': 0.5,
        'param_scheduler.1.end': 1,
        'default_hooks.logger.interval': 1,
        'custom_hooks.0.health_interval': 1,
        'custom_hooks.1.before_train': False,
        'custom_hooks.1.linear': False,
    }
    work = tmp_path / 'work'
    args = [str(ROOT / 'configs/msa_demo.py'), '--work-dir', str(work), '--cfg-options']
    train_api.train(args + [f'{name}={value}' for name, value in options.items()])
    (log,) = work.glob('*/vis_data/scalars.json')
    steps = [line for line in map(json.loads, log.read_text().splitlines()) if 'loss' in line]
    assert len(steps) > 5
    assert steps[-1]['loss_align_tokens'] < steps[0]['loss_align_tokens']
    names = {'momentum_align', 'align_cls_cosine', 'align_cls_spread', 'align_cls_agreement', 'align_tokens_spread'}
    assert names <= set(steps[0])

    checkpoint, config = work / 'epoch_1.pth', work / 'msa_demo.py'
    for target in ('student', 'align_teacher'):
        report = evaluate_features(config, str(checkpoint), target=target, k=5)
        assert report['target'] == target and all(5 < value <= 100 for value in report['results'].values())
        result = export_backbone(checkpoint, tmp_path / f'{target}.pth', source=target)
        assert result.max_difference <= 1e-5
    exported = [torch.load(tmp_path / f'{name}.pth')['state_dict'] for name in ('student', 'align_teacher')]
    assert not torch.equal(*(weights['backbone.cls_token'] for weights in exported))
    with pytest.raises(CheckpointMismatchError, match="Its encoders are: 'student', 'align_teacher'$"):
        export_backbone(checkpoint, tmp_path / 'x.pth', source='label_teacher')

    found = collect_report(work, options=ReportOptions(queries=2, maps=2, max_train_images=100))
    assert found.notes == ['Label maps: MSA learns no labels.']
    assert len(found.neighbours) == len(found.pca) == 2
    titles = [chart.title for chart in charts_of(found.scalars, found.figures)]
    assert titles[:2] == ['Loss', 'Frozen features'] and 'Alignment of student and teacher' in titles
    page, picture = render_report(found, tmp_path / 'report.html')
    assert 'MSA pre-training: msa_demo' in page.read_text() and picture.is_file()


@pytest.mark.slow
def test_swinb_takes_a_step():
    torch.manual_seed(0)
    model = MODELS.build(Config.fromfile(ROOT / 'configs/green_mim_swinb.py').model)
    model.init_weights()
    model.train()
    losses = model(torch.randn(2, 3, 224, 224), mode='loss')
    assert set(losses) == {'loss_recon'}
    check_gradients(model, losses)


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
