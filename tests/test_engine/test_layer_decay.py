"""Layer-wise decay: mmpretrain's numbers as second implementation, three projects, and what it rejects."""

import pytest
import torch
from mmengine.optim import LinearLR, build_optim_wrapper
from mmengine.registry import DefaultScope
from mmpretrain.registry import MODELS as CLS_MODELS
from torch import nn

import mmpl.models  # noqa: F401
from tests.test_engine.test_strict_constructor import logged

ARCH = {'embed_dims': 16, 'num_layers': 3, 'num_heads': 2, 'feedforward_channels': 32}
DENSE = {'type': 'mmpl.DenseViT', 'arch': ARCH, 'img_size': 32, 'patch_size': 8}


@pytest.fixture(autouse=True)
def _scope():
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        yield


def _classifier(backbone: dict | None = None) -> nn.Module:
    backbone = backbone or {'type': 'VisionTransformer', 'arch': ARCH, 'img_size': 32, 'patch_size': 8}
    head = {'type': 'LinearClsHead', 'num_classes': 5, 'in_channels': 16}
    neck = {'type': 'GlobalAveragePooling'} if backbone['type'] == 'mmpl.DenseViT' else None
    return CLS_MODELS.build({'type': 'ImageClassifier', 'backbone': backbone, 'neck': neck, 'head': head})


def _settings(model: nn.Module, constructor: str = 'mmpl.LayerDecayOptimWrapperConstructor', **paramwise):
    """Learning rate and weight decay of every parameter, by name."""
    wrapper = build_optim_wrapper(
        model,
        {
            'constructor': constructor,
            'optimizer': {'type': 'AdamW', 'lr': 2e-3, 'weight_decay': 0.05},
            'paramwise_cfg': {'layer_decay_rate': 0.65, **paramwise},
        },
    )
    names = {p: n for n, p in model.named_parameters()}
    groups = wrapper.optimizer.param_groups
    assert sum(len(g['params']) for g in groups) == len({p for g in groups for p in g['params']})
    return {names[p]: (g['lr'], g['weight_decay']) for g in groups for p in g['params']}


def test_equals_mmpretrain() -> None:
    """The learning rates and decays that mmpretrain's own constructor gives, parameter by parameter."""
    model = _classifier()
    theirs = _settings(
        model,
        'mmpretrain.LearningRateDecayOptimWrapperConstructor',
        norm_decay_mult=0.0,
        bias_decay_mult=0.0,
        flat_decay_mult=0.0,
        custom_keys={'.cls_token': {'decay_mult': 0.0}, '.pos_embed': {'decay_mult': 0.0}},
    )
    ours = _settings(model)
    assert ours.keys() == theirs.keys() == dict(model.named_parameters()).keys()
    for name, values in ours.items():
        assert values == pytest.approx(theirs[name], rel=1e-12), name


def test_closed_form() -> None:
    """lr * rate ** (depth + 1 - layer), and decay for matrices only."""
    got = _settings(_classifier())
    assert got['backbone.pos_embed'] == pytest.approx((2e-3 * 0.65**4, 0.0))
    assert got['backbone.patch_embed.projection.weight'] == pytest.approx((2e-3 * 0.65**4, 0.05))
    assert got['backbone.layers.0.attn.qkv.weight'] == pytest.approx((2e-3 * 0.65**3, 0.05))
    assert got['backbone.layers.2.ln1.weight'] == pytest.approx((2e-3 * 0.65, 0.0))
    assert got['backbone.ln1.weight'] == pytest.approx((2e-3, 0.0))
    assert got['head.fc.weight'] == pytest.approx((2e-3, 0.05))
    assert got['head.fc.bias'] == pytest.approx((2e-3, 0.0))


def test_dense_vit_with_relative_positions_and_frozen_blocks() -> None:
    """Relative positions belong to their block and do not decay; frozen parameters are in no group."""
    model = _classifier({**DENSE, 'window_size': 2, 'rel_pos': True, 'frozen_stages': 1})
    got = _settings(model)
    assert got['backbone.layers.1.attn.rel_pos_h'] == pytest.approx((2e-3 * 0.65**2, 0.0))
    assert got.keys() == {n for n, p in model.named_parameters() if p.requires_grad}
    assert not any(n.startswith(('backbone.layers.0.', 'backbone.pos_embed')) for n in got)


def test_custom_keys() -> None:
    """The longest matching key wins; its factor comes on top of the layer's."""
    keys = {'layers.1': {'lr_mult': 0.5}, 'layers.1.attn': {'lr_mult': 2.0, 'decay_mult': 0.1}}
    got = _settings(_classifier(), custom_keys=keys)
    assert got['backbone.layers.1.ffn.layers.1.weight'] == pytest.approx((2e-3 * 0.65**2 * 0.5, 0.05))
    assert got['backbone.layers.1.attn.proj.bias'] == pytest.approx((2e-3 * 0.65**2 * 2, 0.005))
    assert got['backbone.layers.2.attn.proj.bias'] == pytest.approx((2e-3 * 0.65, 0.0))


def test_in_mmseg_and_mmdet() -> None:
    """The same layers in an EncoderDecoder and in a two-stage detector, where models know nothing of layers."""
    pytest.importorskip('mmseg.models')
    pytest.importorskip('mmdet.models')
    from mmdet.registry import MODELS as DET_MODELS
    from mmseg.registry import MODELS as SEG_MODELS

    want = {n: v for n, v in _settings(_classifier(DENSE)).items() if n.startswith('backbone.')}
    fcn = {'type': 'FCNHead', 'in_channels': 16, 'channels': 8, 'num_classes': 3, 'num_convs': 1}
    with DefaultScope.overwrite_default_scope('mmseg'):
        segmentor = SEG_MODELS.build({'type': 'EncoderDecoder', 'backbone': DENSE, 'decode_head': fcn})
        seg = _settings(segmentor)
    neck = {'type': 'mmpl.SimpleFPN', 'in_channels': 16, 'out_channels': 8}
    anchors = {'type': 'AnchorGenerator', 'scales': [8], 'ratios': [1.0], 'strides': [4, 8, 16, 32]}
    rpn = {'type': 'RPNHead', 'in_channels': 8, 'feat_channels': 8, 'anchor_generator': anchors}
    with DefaultScope.overwrite_default_scope('mmdet'):
        detector = DET_MODELS.build(
            {
                'type': 'RPN',
                'backbone': DENSE,
                'neck': neck,
                'rpn_head': rpn,
                'train_cfg': {'rpn': None},
                'test_cfg': {'rpn': None},
            }
        )
        det = _settings(detector)
    for got, model in ((seg, segmentor), (det, detector)):
        assert {n: v for n, v in got.items() if n.startswith('backbone.')} == want
        assert got.keys() == dict(model.named_parameters()).keys()
        assert {v[0] for n, v in got.items() if not n.startswith('backbone.')} == {2e-3}


def test_the_table_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """One table: a line per group, and every parameter counted once."""
    model = _classifier({**DENSE, 'frozen_stages': 0})
    with logged(caplog) as messages:
        _settings(model)
    starts = ('embeddings', 'block', 'final', 'rest', 'frozen')
    table = [line for message in messages for line in message.splitlines() if line.startswith(starts)]
    counts = [int(line.split()[-1].replace(',', '')) for line in table]
    assert sum(counts) == sum(p.numel() for p in model.parameters())
    assert sum(line.startswith('block 1') for line in table) == 2  # with and without decay


def test_schedulers_keep_the_ratios() -> None:
    """A scheduler's factor multiplies each layer's own rate."""
    model = _classifier()
    wrapper = build_optim_wrapper(
        model,
        {
            'constructor': 'mmpl.LayerDecayOptimWrapperConstructor',
            'optimizer': {'type': 'SGD', 'lr': 1.0},
            'paramwise_cfg': {'layer_decay_rate': 0.5},
        },
    )
    LinearLR(wrapper, start_factor=0.1, end=10)
    for group in wrapper.optimizer.param_groups:
        assert group['lr'] == pytest.approx(0.1 * 0.5 ** (4 - group['layer_id']))


@pytest.mark.parametrize(
    ('paramwise', 'message'),
    [
        ({'layer_decay_rate': 0}, r'layer_decay_rate` must be a number in \(0, 1\], but got 0'),
        ({'layer_decay_rate': None}, r'layer_decay_rate` must be a number in \(0, 1\], but got None'),
        ({'norm_decay_mult': 0.0}, r"must be one of \['custom_keys', 'layer_decay_rate'\], but got 'norm_decay_mult'"),
        ({'custom_keys': {'cls_tokn': {}}}, "'cls_tokn' .*near matches: .*cls_token"),
        ({'custom_keys': {'head': {'lr': 1.0}}}, r"must be one of \['decay_mult', 'lr_mult'\], but got 'lr'"),
    ],
)
def test_bad_arguments(paramwise, message) -> None:
    """Errors come when the optimizer is built and name field and value."""
    with pytest.raises((ValueError, TypeError), match=message):
        _settings(_classifier(), **paramwise)


def test_what_is_no_vision_transformer() -> None:
    with pytest.raises(ValueError, match='`backbone` of the model, but that of Linear is a NoneType'):
        _settings(nn.Linear(2, 2))
    model = _classifier()
    model.backbone = nn.Identity()
    with pytest.raises(ValueError, match='that of ImageClassifier is a Identity'):
        _settings(model)


def test_a_parameter_without_layer_is_an_error() -> None:
    """mmpretrain would give it the head's rate; here it is named."""
    model = _classifier()
    model.backbone.adapter = nn.Linear(2, 2)
    model.backbone.layers[0].extra = nn.Parameter(torch.zeros(1))  # inside a block: fine
    with pytest.raises(
        ValueError, match=r"belong to no layer .*\['backbone.adapter.weight', 'backbone.adapter.bias'\]"
    ):
        _settings(model)
