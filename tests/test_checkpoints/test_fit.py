"""check_state_dict says exactly what does not fit."""

import pytest
import torch
from torch import nn

from mmpl.checkpoints.fit import CheckpointMismatchError, check_state_dict, select_prefix, state_dict_prefixes


@pytest.fixture
def module() -> nn.Module:
    return nn.Sequential(nn.Linear(2, 3), nn.LayerNorm(3))


def under(prefix: str, tensors: dict) -> dict:
    return {prefix + key: value for key, value in tensors.items()}


def test_fits(module: nn.Module) -> None:
    want = module.state_dict()
    got = check_state_dict(module, under('backbone.', want) | {'head.weight': torch.zeros(1)}, 'backbone.')
    assert list(got) == list(want) and all(got[key] is want[key] for key in want)
    assert list(check_state_dict(module, under('backbone.', want), 'backbone')) == list(want)
    assert list(check_state_dict(module, want)) == list(want)


def test_every_misfit_is_listed(module: nn.Module) -> None:
    tensors = dict(module.state_dict())
    del tensors['0.bias']
    tensors['extra.weight'] = torch.zeros(1)
    tensors['1.weight'] = torch.zeros(4)
    with pytest.raises(CheckpointMismatchError) as error:
        check_state_dict(module, tensors)
    text = str(error.value)
    assert 'missing from the checkpoint (1):\n    0.bias' in text
    assert 'unexpected in the checkpoint (1):\n    extra.weight' in text
    assert '1.weight: (4,) in the checkpoint, (3,) in the module' in text
    assert list(check_state_dict(module, tensors, ignore=('0.bias', 'extra.*', '1.weight'))) == ['0.weight', '1.bias']


def test_prefix_that_does_not_occur(module: nn.Module) -> None:
    tensors = under('teacher.backbone.', module.state_dict())
    assert state_dict_prefixes(tensors) == ['teacher.', 'teacher.backbone.']
    with pytest.raises(CheckpointMismatchError, match=r"'backbone\.' does not occur.*'teacher\.backbone\.'"):
        select_prefix(tensors, 'backbone.')
    # A prefix is whole parts, not letters.
    with pytest.raises(CheckpointMismatchError):
        select_prefix({'backbone2.weight': torch.zeros(1)}, 'backbone')


def test_no_prefix_given_where_one_is_needed(module: nn.Module) -> None:
    with pytest.raises(CheckpointMismatchError, match='Not one key fits. Prefixes in the checkpoint: backbone'):
        check_state_dict(module, under('backbone.', module.state_dict()))


def test_only_the_length_of_a_resizable_key_is_free() -> None:
    want = {'pos_embed': torch.zeros(1, 17, 8)}
    longer = {'pos_embed': torch.zeros(1, 65, 8)}
    assert check_state_dict(want, longer, resizable=('pos_embed',))['pos_embed'] is longer['pos_embed']
    with pytest.raises(CheckpointMismatchError, match='pos_embed'):
        check_state_dict(want, longer)
    with pytest.raises(CheckpointMismatchError, match='pos_embed'):
        check_state_dict(want, {'pos_embed': torch.zeros(1, 17, 9)}, resizable=('pos_embed',))
