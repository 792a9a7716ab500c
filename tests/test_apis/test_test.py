"""tools/test.py evaluates whole checkpoints only, and refuses early what it could not write."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from PIL import Image

from mmpl.apis.test import parse_test_args
from mmpl.apis.test import test as run_test
from mmpl.checkpoints.fit import CheckpointMismatchError


@pytest.fixture
def classifier(tmp_path: Path, write_tiny_classifier: Callable[[int], Path], monkeypatch: pytest.MonkeyPatch) -> Path:
    """Config of a classifier of four images, two black and two white."""
    monkeypatch.setenv('LOCAL_RANK', '0')
    for label, value in (('black', 0), ('white', 255)):
        (tmp_path / 'images' / label).mkdir(parents=True)
        for i in range(2):
            Image.new('RGB', (16, 16), (value,) * 3).save(tmp_path / 'images' / label / f'{i}.png')
    return write_tiny_classifier(2)


def weights(config: Path) -> dict[str, torch.Tensor]:
    """Weights of a classifier that takes every image for a white one."""
    from mmpretrain.registry import MODELS

    init_default_scope('mmpretrain')
    state = dict(MODELS.build(Config.fromfile(config).model).state_dict())
    state['head.layers.head.bias'] = torch.tensor([-100.0, 100.0])
    return state


def saved(config: Path, state: dict[str, torch.Tensor], **more) -> str:
    path = config.parent / 'model.pth'
    torch.save({'state_dict': state, **more}, path)
    return str(path)


def test_what_a_checkpoint_may_hold_besides_the_model(classifier: Path) -> None:
    """Other modules, a wrapper's prefix, a position embedding for other images and a moving average are all fine."""
    state = weights(classifier)
    out = classifier.parent / 'metrics.json'
    options = ['--out', str(out), '--out-item', 'metrics']
    other = {**state, 'teacher.weight': torch.zeros(3), 'backbone.pos_embed': torch.zeros(1, 1 + 8 * 8, 16)}
    wrapped = saved(classifier, {f'module.{key}': value for key, value in other.items()})
    assert run_test([str(classifier), wrapped, *options])['accuracy/top1'] == 50.0
    assert json.loads(out.read_text())['accuracy/top1'] == 50.0

    classifier.write_text(classifier.read_text() + "custom_hooks = [dict(type='EMAHook', momentum=1e-3)]\n")
    current = {f'module.{key}': value for key, value in state.items()}
    path = saved(classifier, other, ema_state_dict={'steps': torch.tensor(1), **current})
    assert run_test([str(classifier), path])['accuracy/top1'] == 50.0


def test_a_head_that_was_not_loaded_is_not_evaluated(classifier: Path) -> None:
    state = {key: value for key, value in weights(classifier).items() if not key.startswith('head')}
    state['label_head.weight'] = torch.zeros(3)
    with pytest.raises(CheckpointMismatchError) as error:
        run_test([str(classifier), saved(classifier, state)])
    text = str(error.value)
    assert 'model.pth: checkpoint does not fit the module' in text and 'fine-tuned first' in text
    assert 'missing from the checkpoint (2):\n    head.layers.head.bias\n    head.layers.head.weight\n' in text
    assert 'label_head' not in text  # more than the model is no misfit


def test_other_classes_are_not_evaluated(classifier: Path) -> None:
    state = weights(classifier)
    state['head.layers.head.bias'] = torch.zeros(3)
    with pytest.raises(CheckpointMismatchError, match=r'head.bias: \(3,\) in the checkpoint, \(2,\) in the module'):
        run_test([str(classifier), saved(classifier, state)])


def test_endings_of_the_output_file(capsys: pytest.CaptureFixture) -> None:
    for item, name, allowed in (
        ('metrics', 'x', '.json, .yaml, .yml, .pkl, .pickle'),
        ('metrics', 'x.txt', '.json, .yaml, .yml, .pkl, .pickle'),
        ('pred', 'x.json', '.pkl, .pickle'),
    ):
        with pytest.raises(SystemExit):
            parse_test_args(['a.py', 'a.pth', '--out', name, '--out-item', item])
        assert f'end in {allowed}\n' in capsys.readouterr().err
    with pytest.raises(SystemExit):
        parse_test_args(['a.py', 'a.pth', '--out', 'x.json'])
    for name in ('x.pkl', 'x.pickle'):
        assert parse_test_args(['a.py', 'a.pth', '--out', name]).out == name
