"""The simple feature pyramid: sizes, receptive fields, numbers by hand, and what it rejects."""

import pytest
import torch
import torch.nn.functional as F

from mmpl.models.necks.simple_fpn import SimpleFPN


def test_strides_of_vitdet() -> None:
    """Strides 4, 8, 16, 32 and 64 of a stride-16 map, also of a non-square image."""
    outs = SimpleFPN(32, 8, num_outs=5)((torch.randn(2, 32, 16, 24),))
    assert [tuple(o.shape) for o in outs] == [
        (2, 8, 64, 96),
        (2, 8, 32, 48),
        (2, 8, 16, 24),
        (2, 8, 8, 12),
        (2, 8, 4, 6),
    ]
    assert torch.equal(outs[4], outs[3][:, :, ::2, ::2])


def test_patch_four() -> None:
    """A stride-4 map of a small image: the same strides without any upsampling."""
    outs = SimpleFPN(16, 8, scale_factors=(1, 0.5, 0.25, 0.125))((torch.randn(1, 16, 8, 8),))
    assert [o.shape[-1] for o in outs] == [8, 4, 2, 1]


def test_level_by_hand() -> None:
    """The stride-4 and stride-32 levels, step by step with functional calls."""
    torch.manual_seed(0)
    neck = SimpleFPN(16, 8)
    x = torch.randn(2, 16, 6, 6)

    def ln(t, module):
        return F.layer_norm(t.permute(0, 2, 3, 1), t.shape[1:2], module.weight, module.bias, 1e-6).permute(0, 3, 1, 2)

    up = neck.levels[0]
    y = F.conv_transpose2d(x, up[0].weight, up[0].bias, stride=2)
    y = F.gelu(ln(y, up[1]))
    y = F.conv_transpose2d(y, up[3].weight, up[3].bias, stride=2)
    y = ln(F.conv2d(y, up[4].weight), up[5])
    y = ln(F.conv2d(y, up[6].weight, padding=1), up[7])
    outs = neck((x,))
    torch.testing.assert_close(outs[0], y)
    down = neck.levels[3]
    y = F.max_pool2d(x, 2)
    y = ln(F.conv2d(ln(F.conv2d(y, down[1].weight), down[2]), down[3].weight, padding=1), down[4])
    torch.testing.assert_close(outs[3], y)
    assert [m.in_channels for m in neck.levels[0] if hasattr(m, 'in_channels')] == [16, 8, 4, 8]


def test_every_parameter_learns() -> None:
    """No level is cut off from the loss."""
    neck = SimpleFPN(16, 8, num_outs=5)
    sum(o.square().sum() for o in neck((torch.randn(1, 16, 4, 4),))).backward()
    assert all(p.grad is not None for p in neck.parameters())


@pytest.mark.parametrize(
    ('kwargs', 'message'),
    [
        ({'scale_factors': (4, 3)}, r'\[3\] not powers of two'),
        ({'scale_factors': (1, 2)}, 'must fall'),
        ({'in_channels': 18}, 'in_channels=18 cannot be divided by the scale factor 4'),
        ({'num_outs': 3}, 'num_outs=3 is less than the 4 scale_factors'),
    ],
)
def test_bad_arguments(kwargs, message) -> None:
    """Errors come when the neck is built and name field and value."""
    with pytest.raises(ValueError, match=message):
        SimpleFPN(**{'in_channels': 16, 'out_channels': 8, **kwargs})


def test_bad_inputs() -> None:
    """More than one map, or a map that a level would reduce to nothing."""
    neck = SimpleFPN(16, 8)
    with pytest.raises(ValueError, match='takes one feature map, got 2'):
        neck((torch.zeros(1, 16, 4, 4),) * 2)
    with pytest.raises(ValueError, match='1 x 4 map is too small for scale 0.5'):
        neck((torch.zeros(1, 16, 1, 4),))
