"""The class-count hook in real runs: sound configs pass, faults end them before the first step."""

import copy
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from mmengine.config import Config
from mmengine.runner import BaseLoop, Runner
from torch import nn

from mmpl.engine.hooks import ClassCountHook

FOLDER = Path(__file__).resolve().parents[2] / 'configs' / 'downstream'
CONFIGS = dict(
    mmpretrain='classification/vit_finetune_embedded.py',
    mmseg='segmentation/upernet_vit_embedded.py',
    mmdet='detection/mask_rcnn_vit_embedded.py',
)


def _config(project: str, root: Path, **changes: Any) -> Config:
    """A small sibling, on its smallest data, without weights."""
    pytest.importorskip(project)
    cfg = Config.fromfile(str(FOLDER / CONFIGS[project]))
    cfg.model.backbone.init_cfg = None
    for split in ('train', 'val', 'test'):
        cfg[f'{split}_dataloader'].dataset.update(size='test', data_root=str(root))
    if project == 'mmdet':
        for split in ('val', 'test'):
            cfg[f'{split}_evaluator'].ann_file = f'{root}/test/coco/annotations/instances_val.json'
    cfg.work_dir = str(root / 'work')
    cfg.merge_from_dict(changes)
    return cfg


@pytest.fixture(scope='module')
def root(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp('embedded')


def _refused(cfg: Config) -> str:
    """The message that ends a run before its first step."""
    runner = Runner.from_cfg(cfg)
    steps = []
    runner.model.train_step = lambda *_, **__: steps.append(1)
    with pytest.raises(ValueError, match='`') as caught:
        runner.train()
    assert not steps and caught.traceback[-1].path.name == 'findings.py'
    return str(caught.value)


class _Stop(Exception):
    pass


@pytest.mark.parametrize('project', CONFIGS)
def test_sound_configs_pass_without_a_word(project, root, monkeypatch) -> None:
    """And the check leaves random numbers, modes and weights as they were."""
    cfg = _config(project, root)
    runner = Runner.from_cfg(cfg)
    before = copy.deepcopy(runner.model.state_dict())
    said: list[str] = []
    monkeypatch.setattr(runner.logger, 'warning', lambda text, *_: said.append(text))
    check = ClassCountHook.before_run
    done = []

    def checked(self: ClassCountHook, runner: Runner) -> None:
        state, modes = torch.get_rng_state(), [module.training for module in runner.model.modules()]
        check(self, runner)
        assert torch.equal(torch.get_rng_state(), state)
        assert [module.training for module in runner.model.modules()] == modes
        done.append(True)
        raise _Stop

    monkeypatch.setattr(ClassCountHook, 'before_run', checked)
    with pytest.raises(_Stop):
        runner.train()
    assert done and not [text for text in said if 'ClassCountHook' in text]
    assert all(torch.equal(value, before[key]) for key, value in runner.model.state_dict().items())


def test_every_downstream_config_has_the_hook() -> None:
    """Also those that inherit; questions have no classes."""
    for path in (path for path in FOLDER.rglob('*.py') if path.parent.name != 'vqa'):
        if path.parent.name != 'detection' or pytest.importorskip('mmdet'):
            hooks = [hook.type for hook in Config.fromfile(str(path)).custom_hooks]
            assert hooks.count('mmpl.ClassCountHook') == 1, path


FAULTS = dict(
    heads=(
        'mmseg',
        {'model.decode_head.num_classes': 9},
        r'`model.decode_head.num_classes`=9 \(UPerHead\)',
    ),
    ignored=('mmseg', {'val_evaluator.ignore_index': 0}, r'`val_evaluator.ignore_index`=0: what is ignored'),
    filling=('mmseg', {'model.data_preprocessor.seg_pad_val': 0}, r'`model.data_preprocessor.seg_pad_val`=0'),
    weights=(
        'mmseg',
        {'model.auxiliary_head.loss_decode.class_weight': [0.5, 1.0]},
        r'`model.auxiliary_head.loss_decode.class_weight` has 2 weights for 11 classes: \[0.5, 1.0\]',
    ),
    best=('mmpretrain', {'val_evaluator.topk': (1, 20)}, r'`val_evaluator.topk`=\(1, 20\) \(Accuracy\), .* 10 classes'),
    mixing=('mmpretrain', {'model.data_preprocessor': dict(num_classes=7)}, r'`model.data_preprocessor.num_classes`=7'),
    few=('mmpretrain', {'model.head.num_classes': 7}, r'`model.head.num_classes`=7 \(.*Head\), but .* has 10 classes'),
    patches=(
        'mmdet',
        {'model.backbone.patch_size': 8},
        r'`model.rpn_head.anchor_generator.strides`=\(4, 8, 16\), but .*\(patches of 8 x 8 pixels\) .* the strides '
        r'\(8, 16, 32\)\. .*`model.neck.scale_factors` to \(2.0, 1.0, 0.5\)',
    ),
    rois=(
        'mmdet',
        {'model.roi_head.mask_roi_extractor.featmap_strides': [8, 16, 32]},
        r'^`model.roi_head.mask_roi_extractor.featmap_strides`=\(8, 16, 32\), .* have the strides \(4, 8, 16\)',
    ),
)


@pytest.mark.parametrize('name', FAULTS)
def test_faults_of_a_config_end_the_run_before_its_first_step(name, root) -> None:
    """Of heads, evaluators, what fills borders, and of strides."""
    project, changes, pattern = FAULTS[name]
    message = _refused(_config(project, root, **changes))
    assert re.search(pattern, message, re.DOTALL), message


class _Loop(BaseLoop):
    def run(self) -> None: ...


def _runner(head_classes: int, data_classes: int, wrapped: bool = False, split: str = 'train') -> SimpleNamespace:
    """What the hook asks of a runner, of one loop."""
    model = nn.Module()
    for name, count in (('decode_head', head_classes), ('rpn_head', 1)):
        head = nn.Identity()
        head.num_classes = count
        model.add_module(name, head)
    dataset = SimpleNamespace(metainfo={'classes': [f'c{i}' for i in range(data_classes)]})
    loader = SimpleNamespace(dataset=SimpleNamespace(dataset=dataset) if wrapped else dataset)
    loop = _Loop.__new__(_Loop)
    loop.dataloader = loader
    return SimpleNamespace(model=model, **{f'_{split}_loop': loop}, _resume=False)


@pytest.mark.parametrize('split', ['train', 'val', 'test'])
@pytest.mark.parametrize('wrapped', [False, True])
def test_number_of_classes(split, wrapped) -> None:
    """The message names the head and both numbers; equal numbers and mmdet's class-agnostic RPN pass."""
    ClassCountHook().before_run(_runner(3, 3, wrapped, split))
    with pytest.raises(ValueError, match=rf'decode_head.num_classes`=4 \(Identity\), but `{split}_.* 3 classes'):
        ClassCountHook().before_run(_runner(4, 3, wrapped, split))


def test_data_without_classes() -> None:
    """Unlabelled data say nothing about classes."""
    runner = _runner(4, 3)
    runner._train_loop.dataloader.dataset.metainfo = {}
    ClassCountHook().before_run(runner)


def test_classes_of_a_checkpoint() -> None:
    """What is tested or resumed must have learnt these classes, in this order; weights to start from need not."""
    checkpoint = dict(meta=dict(dataset_meta=dict(classes=('c1', 'c0'))))
    ClassCountHook().after_load_checkpoint(_runner(2, 2), checkpoint)
    ClassCountHook().after_load_checkpoint(_runner(2, 2, split='test'), dict(meta=dict()))
    resumed = _runner(2, 2)
    resumed._resume = True
    for runner in (resumed, _runner(2, 2, split='test')):
        with pytest.raises(ValueError, match="the checkpoint has the 2 classes .* number 0 is 'c1' and 'c0'"):
            ClassCountHook().after_load_checkpoint(runner, checkpoint)


def test_options_are_checked() -> None:
    """By name and bounds."""
    with pytest.raises(ValueError, match='`looked_at` must be an integer'):
        ClassCountHook(looked_at=0)
    with pytest.raises(ValueError, match='`tolerated` must be a number'):
        ClassCountHook(tolerated=2)
