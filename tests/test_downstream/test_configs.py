"""The downstream configs: they build, their optimizers group, and the full-size ones run on real folder formats."""

import json
import logging
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.optim import OptimWrapper, build_optim_wrapper
from mmengine.registry import DATASETS, MODELS, init_default_scope
from mmengine.runner import Runner

from mmpl.apis.train import parse_train_args, train_config
from mmpl.datasets.agreement import check_data, sides_of

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / 'configs' / 'downstream'
ALL = sorted(str(p.relative_to(FOLDER)) for p in FOLDER.rglob('*.py'))
SMALL = [name for name in ALL if 'embedded' in name or 'surfaces' in name]
FULL = [name for name in ALL if name not in SMALL and not name.startswith('vqa/')]  # these: test_vqa.py
PROJECTS = {'classification': 'mmpretrain', 'segmentation': 'mmseg', 'detection': 'mmdet', 'vqa': 'mmpretrain'}


def _load(name: str) -> Config:
    pytest.importorskip(PROJECTS[name.split('/')[0]])
    cfg = Config.fromfile(str(FOLDER / name))
    init_default_scope(cfg.default_scope)
    if cfg.model.get('data_preprocessor') is None:
        cfg.model.data_preprocessor = cfg.data_preprocessor
    return cfg


@pytest.mark.parametrize('name', ALL)
def test_header_and_scope(name) -> None:
    """Each states command, cost and reference, and runs in the scope of the project that its folder names."""
    text = (FOLDER / name).read_text()
    header = '\n'.join(line for line in text.splitlines() if line.startswith('#'))
    assert 'Cost:' in header or 'cost' in header
    assert 'reference' in header.lower() or 'sibling' in header
    assert 'tools/train.py' in header or 'vitb_finetune_100e_in1k.py' in header
    for path in re.findall(r'configs/\S+\.py', header):
        assert (ROOT / path).is_file(), path
    cfg = _load(name)
    assert cfg.default_scope == PROJECTS[name.split('/')[0]]
    assert cfg.model.backbone.init_cfg.type == 'mmpl.StrictPretrained'
    assert 'mmpl' in cfg.custom_imports.imports


@pytest.mark.parametrize('name', SMALL)
def test_small_siblings_build(name) -> None:
    """A sibling's model and optimizer build; every trained parameter is in a group; heads have the data's classes."""
    cfg = _load(name)
    cfg.model.backbone.init_cfg = None
    torch.manual_seed(0)
    model = MODELS.build(cfg.model)
    model.init_weights()
    # Several processes on the CPU: SyncBN would refuse to run.
    assert not [n for n, m in model.named_modules() if isinstance(m, torch.nn.SyncBatchNorm)]
    wrapper = build_optim_wrapper(model, cfg.optim_wrapper)
    trained = [p for g in wrapper.optimizer.param_groups for p in g['params']]
    assert {id(p) for p in trained} >= {id(p) for p in model.parameters() if p.requires_grad}
    dataset_classes = (16 if 'surfaces' in name else 10) + (cfg.default_scope == 'mmseg')
    counts = {
        m.num_classes
        for n, m in model.named_modules()
        if isinstance(getattr(m, 'num_classes', None), int) and not n.endswith('rpn_head')
    }
    assert counts == {dataset_classes}


def _documented_processes(name: str) -> int:
    """How many processes the command in a config's header starts, or the command of the config that it refers to."""
    header = '\n'.join(line for line in (FOLDER / name).read_text().splitlines() if line.startswith('#'))
    if 'tools/train.py' not in header:
        (other,) = re.findall(r'as in (\w+\.py)', header)
        return _documented_processes(str(Path(name).parent / other))
    return int(np.prod([int(n) for n in re.findall(r'--n(?:nodes|proc_per_node)=(\d+)', header)]))


@pytest.mark.parametrize('name', ALL)
def test_auto_scale_lr_changes_nothing_at_the_documented_batch(name) -> None:
    """With the processes that the header starts, --auto-scale-lr leaves the rate as it is; with twice as many, 2 x."""
    _load(name)
    cfg = train_config(parse_train_args([str(FOLDER / name), '--auto-scale-lr']))
    rate = cfg.optim_wrapper.optimizer.lr
    for factor in (1, 2):
        wrapper = OptimWrapper(torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=rate))
        runner = SimpleNamespace(
            world_size=factor * _documented_processes(name),
            _train_dataloader=cfg.train_dataloader,
            param_schedulers=cfg.param_scheduler,
            logger=logging.getLogger(__name__),
        )
        Runner.scale_lr(runner, wrapper, cfg.auto_scale_lr)
        assert wrapper.optimizer.param_groups[0]['lr'] == pytest.approx(factor * rate, rel=1e-9)


def test_surfaces_siblings_take_the_encoder_that_their_pretraining_config_makes() -> None:
    """Shape of the encoder, pixels and data; `val` and `test` are of the same photographs as `train`."""
    pretraining = Config.fromfile(str(ROOT / 'configs' / 'pl_mae_surfaces.py'))
    names = [name for name in SMALL if 'surfaces' in name]
    assert len(names) == 3
    for name in names:
        cfg = _load(name)
        for field in ('arch', 'img_size', 'patch_size'):
            assert cfg.model.backbone[field] == pretraining.model.backbone[field], (name, field)
        for field in ('mean', 'std'):
            assert cfg.model.data_preprocessor[field] == pretraining.data_preprocessor[field], (name, field)
        for part in ('train', 'val', 'test'):
            assert cfg[f'{part}_dataloader'].dataset.variant == pretraining.train_dataloader.dataset.variant, name
        if cfg.default_scope == 'mmdet':
            assert cfg.val_evaluator.ann_file == cfg.test_evaluator.ann_file
            assert 'demo_surfaces/' in cfg.test_evaluator.ann_file


def _images(folder: Path, count: int, size: tuple[int, int], suffix: str = '.jpg') -> list[Path]:
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f'{i:012d}{suffix}' for i in range(count)]
    for path in paths:
        cv2.imwrite(str(path), cv2.resize(rng.integers(0, 255, (8, 10, 3), dtype=np.uint8), size[::-1]))
    return paths


def make_ade20k(root: Path) -> None:
    """Four images in ADE20K's folders, with its 150 classes and 0 for 'other'."""
    rng = np.random.default_rng(0)
    for split in ('training', 'validation'):
        (root / 'annotations' / split).mkdir(parents=True)
        for path in _images(root / 'images' / split, 4, (512, 640)):
            mask = cv2.resize(
                rng.integers(0, 151, (8, 10), dtype=np.uint8), (640, 512), interpolation=cv2.INTER_NEAREST
            )
            cv2.imwrite(str(root / 'annotations' / split / f'{path.stem}.png'), mask)


def make_coco(root: Path) -> None:
    """Four images in COCO's folders, with its 80 categories and polygon masks."""
    from mmdet.datasets import CocoDataset

    ids = [i for i in range(1, 91) if i not in (12, 26, 29, 30, 45, 66, 68, 69, 71, 83)]
    categories = [{'id': i, 'name': n} for i, n in zip(ids, CocoDataset.METAINFO['classes'], strict=True)]
    (root / 'annotations').mkdir(parents=True)
    for split in ('train2017', 'val2017'):
        images, annotations = [], []
        for i, path in enumerate(_images(root / split, 4, (480, 640))):
            images.append({'id': i, 'file_name': path.name, 'height': 480, 'width': 640})
            for j in range(3):
                x, y, w, h = 60 + 170 * j, 80 + 40 * i, 140, 160
                annotations.append({
                    'id': 10 * i + j, 'image_id': i, 'category_id': ids[7 * j + i], 'bbox': [x, y, w, h],
                    'area': w * h, 'iscrowd': 0, 'segmentation': [[x, y, x + w, y, x + w, y + h, x, y + h]],
                })  # fmt: skip
        content = {'images': images, 'annotations': annotations, 'categories': categories}
        (root / 'annotations' / f'instances_{split}.json').write_text(json.dumps(content))


def make_imagenet(root: Path) -> None:
    """Four images of two classes in ImageNet's folders, with the list of its thousand."""
    for split in ('train', 'val'):
        for wnid in ('n01440764', 'n01443537'):
            _images(root / split / wnid, 2, (256, 300), '.JPEG')
        (root / 'meta').mkdir(exist_ok=True)
        lines = [f'{p.parent.name}/{p.name} {i // 2}' for i, p in enumerate(sorted((root / split).rglob('*.JPEG')))]
        (root / 'meta' / f'{split}.txt').write_text('\n'.join(lines))
        for percent in ('1', '10'):
            (root / 'meta' / f'train_{percent}percent.txt').write_text('\n'.join(lines))


def make_data(name: str, folder: Path) -> None:
    """Four images in the folders that a full-size config names."""
    {
        'classification': lambda: make_imagenet(folder / 'data/imagenet'),
        'segmentation': lambda: make_ade20k(folder / 'data/ade/ADEChallengeData2016'),
        'detection': lambda: make_coco(folder / 'data/coco'),
    }[name.split('/')[0]]()


def pretrained(name: str, path: Path) -> str:
    """A checkpoint with the keys that PL-MAE's student has, ViT-B/16 at 224; or GreenMIM's, Swin-B."""
    from mmpretrain.models.backbones import VisionTransformer

    from mmpl.models import MaskedSwin

    state = (MaskedSwin() if 'swinb' in name else VisionTransformer(arch='base', out_type='raw')).state_dict()
    torch.save({'state_dict': {f'backbone.{k}': v for k, v in state.items()}}, path)
    return str(path)


@pytest.mark.parametrize('percent', ['1', '10'])
def test_simclr_lists_become_annotations(percent, tmp_path, monkeypatch) -> None:
    """The command in the header makes, of bare file names, a list that mmpretrain's data set reads."""
    name = f'classification/vitb_finetune_in1k_{percent}pct.py'
    cfg = _load(name)
    monkeypatch.chdir(tmp_path)
    root = tmp_path / 'data' / 'imagenet'
    (root / 'meta').mkdir(parents=True)
    for wnid in ('n01443537', 'n01440764', 'n15075141'):
        _images(root / 'train' / wnid, 1, (8, 8), f'_{wnid}.JPEG')[0].rename(root / 'train' / wnid / f'{wnid}_7.JPEG')
    (root / f'{percent}percent.txt').write_text('n15075141_7.JPEG\nn01440764_7.JPEG\n')
    (command,) = re.findall(r'^# +(ls train .*)$', (FOLDER / name).read_text(), re.MULTILINE)
    subprocess.run(['bash', '-c', command], cwd=root, check=True)
    dataset = DATASETS.build({**cfg.train_dataloader.dataset, 'pipeline': []})
    found = [dataset.get_data_info(i) for i in range(len(dataset))]
    assert [(Path(info['img_path']).name, info['gt_label']) for info in found] == [
        ('n15075141_7.JPEG', 2),
        ('n01440764_7.JPEG', 0),
    ]
    assert all(Path(info['img_path']).is_file() for info in found)


@pytest.mark.parametrize('name', [n for n in FULL if 'ema' not in n])
def test_real_folder_formats_pass_the_check(name, tmp_path, monkeypatch) -> None:
    """The check finds no error in them, only the many classes that four images have not."""
    monkeypatch.chdir(tmp_path)
    cfg = _load(name)
    make_data(name, tmp_path)
    datasets = {split: DATASETS.build(cfg[f'{split}_dataloader'].dataset) for split in ('train', 'val')}
    found = check_data([side for split, data in datasets.items() for side in sides_of(f'{split}_dataloader', data)])
    assert not found.errors
    assert len(found.warnings) == 2 and all('classes have no' in w or 'no pixel of' in w for w in found.warnings)


@pytest.mark.slow
@pytest.mark.full
@pytest.mark.parametrize('name', [n for n in FULL if 'ema' not in n])
def test_full_size_on_real_folder_formats(name, tmp_path, monkeypatch) -> None:
    """Two iterations at full size on four images in the folder format of the real data set."""
    monkeypatch.chdir(tmp_path)
    cfg = _load(name)
    make_data(name, tmp_path)
    cfg.model.backbone.init_cfg.checkpoint = pretrained(name, tmp_path / 'pretrained.pth')
    cfg.work_dir = str(tmp_path / 'work')
    loader = cfg.train_dataloader
    loader.update(batch_size=1 if cfg.default_scope == 'mmdet' else 2, num_workers=0, persistent_workers=False)
    cfg.train_cfg = {'type': 'IterBasedTrainLoop', 'max_iters': 2, 'val_interval': 10}
    for part in ('val', 'test'):
        for suffix in ('dataloader', 'cfg', 'evaluator'):
            cfg[f'{part}_{suffix}'] = None
    cfg.param_scheduler = []
    cfg.default_hooks.checkpoint = None
    cfg.default_hooks.logger = {'type': 'LoggerHook', 'interval': 1, 'log_metric_by_epoch': False}
    cfg.log_processor = {'type': 'LogProcessor', 'by_epoch': False}
    runner = Runner.from_cfg(cfg)
    runner.train()
    losses = [
        json.loads(line)['loss'] for line in next(Path(cfg.work_dir).rglob('scalars.json')).read_text().splitlines()
    ]
    assert len(losses) == 2 and np.isfinite(losses).all()


# What an installed mmpl does when the interpreter starts; the tests also run from a checkout that is only on the path.
START = (
    'import runpy, site, sys; site.addsitedir(sys.argv[1]); del sys.argv[:2]; '
    'runpy.run_path(sys.argv[0], run_name="__main__")'
)


OWN_TOOLS = [
    ('mmseg', 'segmentation/upernet_vit_embedded.py', 'mIoU'),
    ('mmdet', 'detection/mask_rcnn_vit_embedded.py', 'coco/segm_mAP'),
]


def small_run(project: str) -> list[str]:
    """Options for a run of a few steps on the small build of the embedded data."""
    options = [f'{part}_dataloader.dataset.size=test' for part in ('train', 'val', 'test')]
    if project == 'mmseg':
        return [*options, 'train_cfg.max_iters=2', 'train_cfg.val_interval=2', 'default_hooks.checkpoint.interval=2']
    ann = 'data/mmpl_embedded/test/coco/annotations/instances_val.json'
    options += ['train_cfg.max_epochs=1', 'train_cfg.val_interval=1', 'default_hooks.checkpoint.interval=1']
    return options + [f'{part}_evaluator.ann_file={ann}' for part in ('val', 'test')]


@pytest.mark.slow
@pytest.mark.parametrize(('project', 'name', 'metric'), OWN_TOOLS)
def test_under_their_own_train_and_test_py(project, name, metric, tmp_path) -> None:
    """mmseg's and mmdet's own tools train the small siblings and evaluate them, with no compiled operator."""
    module = pytest.importorskip(project)
    tools = Path(module.__file__).parent / '.mim' / 'tools'
    if not tools.is_dir():
        pytest.skip(f'{project} was installed without its tools')
    work = tmp_path / 'work'
    options = [
        '--work-dir',
        str(work),
        '--cfg-options',
        'model.backbone.init_cfg=None',
        *small_run(project),
    ]
    text = (ROOT / 'setup.py').read_text().split("PTH_TEXT = '")[1].split('\\n')[0]
    (tmp_path / 'site').mkdir()
    (tmp_path / 'site' / 'mmpl_mmcv_ext.pth').write_text(text)
    start = [sys.executable, '-c', START, str(tmp_path / 'site')]
    env_free = {'cwd': tmp_path, 'capture_output': True, 'text': True}
    config = str(FOLDER / name)
    train = subprocess.run([sys.executable, str(tools / 'train.py'), config, *options], **env_free)
    assert train.returncode == 0, train.stderr[-3000:]
    assert metric in train.stdout + train.stderr
    checkpoint = (work / 'last_checkpoint').read_text().strip()
    test = subprocess.run([*start, str(tools / 'test.py'), config, checkpoint, *options], **env_free)
    assert test.returncode == 0, test.stderr[-3000:]
    assert metric in test.stdout + test.stderr


@pytest.mark.slow
@pytest.mark.dist
def test_segmentation_with_two_processes(tmp_path) -> None:
    """Two processes on the CPU train UperNet: norms and gradients work with them."""
    pytest.importorskip('mmseg')
    script = [ROOT / 'tools' / 'dist_train.sh', FOLDER / 'segmentation/upernet_vit_embedded.py', '2']
    options = ['--work-dir', 'work', '--cfg-options', 'model.backbone.init_cfg=None']
    env = {**os.environ, 'CUDA_VISIBLE_DEVICES': '-1', 'OMP_NUM_THREADS': '1', 'PYTHON': sys.executable}
    command = [*script, *options, *small_run('mmseg')]
    train = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
    assert train.returncode == 0, train.stderr[-3000:]
    assert 'mIoU' in train.stdout + train.stderr and (tmp_path / 'work' / 'iter_2.pth').is_file()


@pytest.mark.slow
@pytest.mark.parametrize(('project', 'name', 'metric'), OWN_TOOLS)
def test_under_our_train_py(project, name, metric, tmp_path) -> None:
    """Our tools/train.py trains and evaluates the small siblings from a checkpoint of the demo's model."""
    pytest.importorskip(project)
    from mmpl.evaluation.evaluate import build_model

    demo = build_model(Config.fromfile(str(ROOT / 'configs' / 'pl_mae_demo.py')))
    torch.save({'state_dict': demo.state_dict()}, tmp_path / 'demo.pth')
    work = tmp_path / 'work'
    start = [sys.executable, str(ROOT / 'tools' / 'train.py'), str(FOLDER / name), '--work-dir', str(work)]
    options = [f'model.backbone.init_cfg.checkpoint={tmp_path / "demo.pth"}', *small_run(project)]
    env = {**os.environ, 'PYTHONPATH': f'{ROOT}{os.pathsep}{os.environ.get("PYTHONPATH", "")}'}
    train = subprocess.run(
        [*start, '--cfg-options', *options], cwd=tmp_path, env=env, capture_output=True, text=True, check=False
    )
    assert train.returncode == 0, train.stderr[-3000:]
    logged = next(work.rglob('scalars.json')).read_text().splitlines()
    values = [json.loads(line) for line in logged]
    measured = [line[metric] for line in values if metric in line]
    assert len(measured) == 1 and 0 <= measured[0] <= 100
    log = ''.join(path.read_text() for path in work.rglob('*.log'))
    assert f'StrictPretrained: load from {tmp_path}' in log
