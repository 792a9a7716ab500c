"""mmpl.StrictPretrained loads everything, or nothing."""

from pathlib import Path

import pytest
import torch
from mmengine.registry import MODELS
from torch import nn

import mmpl.models  # noqa: F401
from mmpl.checkpoints.fit import CheckpointMismatchError
from mmpl.compat import UntrustedCheckpointError, set_load_policy

ARCH = dict(embed_dims=16, num_layers=2, num_heads=2, feedforward_channels=32)


def vit(img_size: int = 16, **init_cfg) -> nn.Module:
    import mmpretrain.models  # noqa: F401

    cfg = dict(type='mmpretrain.VisionTransformer', arch=ARCH, img_size=img_size, patch_size=4, out_type='raw')
    if init_cfg:
        cfg['init_cfg'] = dict(type='mmpl.StrictPretrained', **init_cfg)
    return MODELS.build(cfg)


@pytest.fixture(scope='module')
def source() -> nn.Module:
    """ViT whose every parameter is random, biases and norms included, so that any redrawing shows."""
    torch.manual_seed(1)
    model = vit()
    for parameter in model.parameters():
        nn.init.normal_(parameter)
    return model


@pytest.fixture
def checkpoint(source: nn.Module, tmp_path: Path) -> Path:
    path = tmp_path / 'source.pth'
    tensors = {'backbone.' + key: value for key, value in source.state_dict().items()}
    torch.save({'meta': {}, 'state_dict': tensors | {'head.weight': torch.zeros(1)}}, path)
    return path


@pytest.mark.smoke
def test_nothing_is_drawn_again_after_loading(source: nn.Module, checkpoint: Path) -> None:
    """mmengine would draw the FFNs again, mmpretrain's ViT its position embedding."""
    model = vit(checkpoint=str(checkpoint), prefix='backbone.')
    model.init_weights()
    for key, value in source.state_dict().items():
        assert torch.equal(model.state_dict()[key], value), key


def test_inside_a_bigger_model(source: nn.Module, checkpoint: Path) -> None:
    cfg = dict(
        type='mmpretrain.ImageClassifier',
        backbone=dict(
            type='mmpretrain.VisionTransformer',
            arch=ARCH,
            img_size=16,
            patch_size=4,
            init_cfg=dict(type='mmpl.StrictPretrained', checkpoint=str(checkpoint), prefix='backbone.'),
        ),
        head=dict(type='mmpretrain.VisionTransformerClsHead', num_classes=3, in_channels=16),
    )
    model = MODELS.build(cfg)
    model.init_weights()
    for key, value in source.state_dict().items():
        assert torch.equal(model.backbone.state_dict()[key], value), key


def test_position_embedding_is_interpolated(source: nn.Module, checkpoint: Path) -> None:
    model = vit(img_size=32, checkpoint=str(checkpoint), prefix='backbone.')
    model.init_weights()
    assert torch.equal(model.pos_embed[:, 0], source.pos_embed[:, 0])
    grid = source.pos_embed[:, 1:].reshape(1, 4, 4, 16).permute(0, 3, 1, 2)
    expected = nn.functional.interpolate(grid, size=(8, 8), mode='bicubic', align_corners=False)
    torch.testing.assert_close(model.pos_embed[:, 1:], expected.flatten(2).transpose(1, 2))
    with pytest.raises(CheckpointMismatchError, match='pos_embed'):
        vit(img_size=32, checkpoint=str(checkpoint), prefix='backbone.', resizable=()).init_weights()


def test_refuses_what_does_not_fit(checkpoint: Path) -> None:
    with pytest.raises(CheckpointMismatchError, match="source.pth: prefix='student.' does not occur.*'backbone.'"):
        vit(checkpoint=str(checkpoint), prefix='student.').init_weights()
    content = torch.load(checkpoint, weights_only=True)
    del content['state_dict']['backbone.layers.1.ln1.weight']
    torch.save(content, checkpoint)
    with pytest.raises(CheckpointMismatchError, match=r'missing from the checkpoint \(1\):\n    layers.1.ln1.weight'):
        vit(checkpoint=str(checkpoint), prefix='backbone.').init_weights()
    model = vit(checkpoint=str(checkpoint), prefix='backbone.', ignore=['layers.1.ln1.weight'])
    model.init_weights()
    assert torch.equal(model.layers[1].ln1.weight, torch.ones(16))


def test_must_be_last(checkpoint: Path) -> None:
    strict = dict(type='mmpl.StrictPretrained', checkpoint=str(checkpoint), prefix='backbone.')
    model = vit()
    model.init_cfg = [strict, dict(type='TruncNormal', layer='Linear', std=0.02)]
    with pytest.raises(ValueError, match='last entry'):
        model.init_weights()
    with pytest.raises(TypeError, match='`ignore` must be a sequence'):
        vit(checkpoint=str(checkpoint), ignore='head').init_weights()


@pytest.mark.parametrize('process', [None, False, True])
@pytest.mark.parametrize('trust', [None, False, True])
def test_runs_code_only_if_trusted(tmp_path: Path, process: bool | None, trust: bool | None) -> None:
    """`trust` decides for this checkpoint; without it what the process was told, and of itself nobody is trusted."""
    import os

    class Payload:
        def __reduce__(self):
            return os.system, (f'touch {tmp_path / "canary"}',)

    torch.save({'state_dict': {}, 'payload': Payload()}, tmp_path / 'bad.pth')
    if process is not None:
        set_load_policy(process)
    trusted = process is True if trust is None else trust
    with pytest.raises(CheckpointMismatchError if trusted else UntrustedCheckpointError):
        vit(checkpoint=str(tmp_path / 'bad.pth'), trust=trust).init_weights()
    assert (tmp_path / 'canary').exists() == trusted
