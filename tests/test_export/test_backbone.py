"""Exporters: the same features in every library, and errors that say what is wrong."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from mmpl.checkpoints import layouts
from mmpl.checkpoints.encoders import read_checkpoint
from mmpl.checkpoints.fit import CheckpointMismatchError
from mmpl.evaluation.extractor import ExtractorError, FeatureExtractor
from mmpl.export import ExportError, backbone, export_backbone, load_timm
from mmpl.export.backbone import LIBRARIES
from mmpl.export.spec import infer_spec, preprocessing

PREFIXES = {'student': 'backbone.', 'slow_teacher': 'slow_teacher.backbone.', 'other': 'other.backbone.'}
MEAN, STD = [123.675, 116.28, 103.53], [58.395, 57.12, 57.375]


def make_vit(img_size=24, patch_size=4, seed=0, qkv_bias=True, eps=1e-6, **kwargs) -> nn.Module:
    """A tiny ViT in which every parameter, biases and norms too, has a value of its own."""
    from mmpretrain.models import VisionTransformer

    torch.manual_seed(seed)
    model = VisionTransformer(
        arch=dict(embed_dims=48, num_layers=3, num_heads=3, feedforward_channels=80),
        img_size=img_size,
        patch_size=patch_size,
        qkv_bias=qkv_bias,
        norm_cfg=dict(type='LN', eps=eps),
        out_type='raw',
        **kwargs,
    )
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.3)
    model.eval()
    return model


CFG = (
    f'model = dict(backbone=dict(type="mmpl.MaskedViT", arch=dict(embed_dims=48, num_layers=3, num_heads=3, '
    f'feedforward_channels=80), img_size=24, patch_size=4), '
    f'data_preprocessor=dict(mean={MEAN}, std={STD}, to_rgb=True))\n'
)


def save(path: Path, models: dict[str, nn.Module], cfg: str | None = CFG, extra: dict | None = None) -> Path:
    """Write a checkpoint that holds the encoders of a student and of its teachers."""
    state_dict = {
        f'{PREFIXES[name]}{key}': value for name, model in models.items() for key, value in model.state_dict().items()
    }
    state_dict.update(extra or {})
    state_dict['neck.mask_token'] = torch.zeros(1, 1, 32)
    torch.save(dict(meta=dict(cfg=cfg) if cfg else {}, state_dict=state_dict), path)
    return path


@pytest.fixture
def models() -> dict[str, nn.Module]:
    """Different encoders: the student and two teachers."""
    return {name: make_vit(seed=seed) for seed, name in enumerate(PREFIXES)}


@pytest.mark.parametrize('source', list(PREFIXES))
@pytest.mark.parametrize('to', list(LIBRARIES))
@torch.no_grad()
def test_features_equal(tmp_path, models, source, to):
    """Loaded by the target's own loader, every export gives the source's features, not another encoder's."""
    out = tmp_path / ('vit' if to == 'huggingface' else 'vit.pth')
    result = export_backbone(save(tmp_path / 'c.pth', models), out, source=source, to=to)
    assert result.max_difference <= 1e-5
    images = torch.randn(2, 3, 24, 24)
    expected = models[source](images)[0]
    assert expected.std() > 0.1
    if to == 'mmpretrain':
        got = LIBRARIES[to].load(result.files, result.spec)(images)[0]
    elif to == 'timm':
        got = (
            pytest.importorskip('timm')
            .create_model(**json.loads(out.with_suffix('.json').read_text())['create_model'], checkpoint_path=str(out))
            .eval()
            .forward_features(images)
        )
    else:
        got = pytest.importorskip('transformers').ViTModel.from_pretrained(out).eval()(images).last_hidden_state
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=0)
    other = next(model for name, model in models.items() if name != source)
    assert (got - other(images)[0]).abs().max() > 0.1


@pytest.mark.parametrize(
    'kwargs', [dict(img_size=32, patch_size=8), dict(qkv_bias=False), dict(img_size=(16, 32)), dict(eps=1e-3)]
)
@pytest.mark.parametrize('to', list(LIBRARIES))
def test_other_architectures(tmp_path, kwargs, to):
    """Image size, patch size, missing qkv bias, a non-square image and another epsilon are carried over."""
    cfg = CFG.replace('img_size=24', f'img_size={kwargs.get("img_size", 24)}')
    others = f'norm_cfg=dict(type="LN", eps={kwargs.get("eps", 1e-6)}), qkv_bias={kwargs.get("qkv_bias", True)}'
    cfg = cfg.replace('mmpl.MaskedViT', 'VisionTransformer')  # the others have square images and a bias
    cfg = cfg.replace('patch_size=4', f'patch_size={kwargs.get("patch_size", 4)}, {others}')
    path = save(tmp_path / 'c.pth', {'student': make_vit(**kwargs)}, cfg)
    result = export_backbone(path, tmp_path / 'out', to=to)
    assert result.max_difference <= 1e-5
    assert result.spec.norm_eps == kwargs.get('eps', 1e-6)
    assert result.spec.qkv_bias == kwargs.get('qkv_bias', True)


def test_mmpretrain_file_reloads_and_exports_again(tmp_path, models):
    """The mmpretrain export is a checkpoint like any other: it may be exported further."""
    first = export_backbone(save(tmp_path / 'c.pth', models), tmp_path / 'a.pth', source='slow_teacher')
    content = torch.load(tmp_path / 'a.pth', weights_only=True)
    assert all(key.startswith('backbone.') for key in content['state_dict'])
    second = export_backbone(tmp_path / 'a.pth', tmp_path / 'b.pth', to='timm')
    assert second.spec == first.spec


def test_huggingface_directory(tmp_path, models):
    """The directory says the epsilon and the normalisation of the training images in units of [0, 1]."""
    export_backbone(save(tmp_path / 'c.pth', models), tmp_path / 'hf', to='huggingface')
    config = json.loads((tmp_path / 'hf' / 'config.json').read_text())
    assert config['layer_norm_eps'] == 1e-6
    assert config['model_type'] == 'vit'
    processor = json.loads((tmp_path / 'hf' / 'preprocessor_config.json').read_text())
    assert processor['image_mean'] == pytest.approx([0.485, 0.456, 0.406])
    assert processor['image_std'] == pytest.approx([0.229, 0.224, 0.225])


def test_heads_from_arch_name_or_argument(tmp_path, models):
    """num_heads: config, else argument, else an error; an arch given by name is looked up."""
    bare = save(tmp_path / 'c.pth', models, cfg=None)
    with pytest.raises(ExportError, match='--num-heads'):
        export_backbone(bare, tmp_path / 'o.pth')
    assert export_backbone(bare, tmp_path / 'o.pth', num_heads=3).spec.num_heads == 3
    with pytest.raises(ExportError, match='num_heads=5 must divide embed_dims=48'):
        export_backbone(bare, tmp_path / 'o.pth', num_heads=5)
    config = dict(model=dict(backbone=dict(arch='deit-tiny')))
    assert infer_spec(models['student'].state_dict(), config).num_heads == 3


def test_wrong_source_lists_prefixes(tmp_path, models):
    """A teacher that is not in the checkpoint is refused, with what there is."""
    path = save(tmp_path / 'c.pth', {'student': models['student'], 'other': models['other']})
    with pytest.raises(CheckpointMismatchError, match=r"no encoder 'slow_teacher'.*: 'student', 'other'$"):
        export_backbone(path, tmp_path / 'o.pth', source='slow_teacher')
    with pytest.raises(ExportError, match='to='):
        export_backbone(path, tmp_path / 'o.pth', to='onnx')
    with pytest.raises(FileNotFoundError, match=r'nope\.pth'):
        export_backbone(tmp_path / 'nope.pth', tmp_path / 'o.pth')


def test_missing_keys(tmp_path, models):
    """An incomplete encoder is refused by name of the key."""
    path = save(tmp_path / 'c.pth', models)
    content = torch.load(path, weights_only=True)
    del content['state_dict']['backbone.layers.1.ffn.layers.1.bias']
    torch.save(content, path)
    with pytest.raises(ExportError, match=r'missing.*layers\.1\.ffn\.layers\.1\.bias'):
        export_backbone(path, tmp_path / 'o.pth')


@pytest.mark.parametrize('to', LIBRARIES)
@pytest.mark.parametrize('said', [True, False])
def test_layer_scale_is_folded_in(tmp_path, to, said):
    """The scales have values of their own; the exporter compares all features with the original's."""
    model = make_vit(layer_scale_init_value=0.1)
    cfg = CFG.replace('patch_size=4', 'patch_size=4, layer_cfgs=dict(layer_scale_init_value=0.1)') if said else None
    path = save(tmp_path / 'c.pth', {'student': model}, cfg)
    result = export_backbone(path, tmp_path / 'out.pth', to=to, num_heads=3)
    assert result.max_difference < 1e-3
    content = torch.load(tmp_path / 'out.pth', weights_only=True)['state_dict'] if to == 'mmpretrain' else {}
    assert not [key for key in content if 'gamma' in key]
    with pytest.raises(ExportError, match='layer scale .* which an export to mmpretrain folds into the layers'):
        infer_spec(model.state_dict(), num_heads=3)
    plain = make_vit()
    plain.load_state_dict(layouts.fold_layer_scale(model.state_dict()))
    images = torch.randn(2, 3, 24, 24)
    torch.testing.assert_close(plain(images)[0], model(images)[0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ('kwargs', 'reason'),
    [
        (dict(layer_cfgs=dict(ffn_type='swiglu_fused')), 'SwiGLU'),
        (dict(pre_norm=True), 'pre_norm'),
    ],
)
def test_unmappable_architectures(tmp_path, kwargs, reason):
    """What the plain ViT of the other libraries cannot hold is refused with its name."""
    with pytest.raises(ExportError, match=reason):
        export_backbone(save(tmp_path / 'c.pth', {'student': make_vit(**kwargs)}), tmp_path / 'o.pth', to='timm')


SWIN = dict(arch=dict(embed_dims=8, depths=[2, 1], num_heads=[1, 2]), img_size=32, window_size=2, out_indices=(1,))


def make_swin(**fields) -> nn.Module:
    from mmpretrain.models import SwinTransformer

    torch.manual_seed(0)
    model = SwinTransformer(**SWIN | fields)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.1)
    return model


def test_swin_goes_to_mmpretrain(tmp_path):
    """What is told from the tensors is what it was made of; mmpretrain's builds from the file, and has its features."""
    from mmengine.registry import MODELS

    model = make_swin()
    path = save(tmp_path / 'c.pth', {'student': model}, cfg='model = dict(backbone=dict(img_size=32))')
    result = export_backbone(path, tmp_path / 'o.pth')
    assert result.max_difference <= 1e-6
    spec = result.spec
    assert (spec.embed_dims, spec.depths, spec.num_heads, spec.window_size) == (8, (2, 1), (1, 2), 2)
    assert (spec.img_size, spec.patch_size, spec.in_channels, spec.out_indices) == ((32, 32), (4, 4), 3, (1,))
    content = read_checkpoint(tmp_path / 'o.pth')
    built = MODELS.build(content.config['model']['backbone'])
    built.load_state_dict(content.encoder())
    images = torch.randn(2, 3, 32, 32)
    for part in (model, built):
        part.eval()
    assert torch.equal(built(images)[0], model(images)[0])
    for to in ('timm', 'huggingface'):
        with pytest.raises(ExportError, match=f"to='{to}': a Swin transformer is exported to mmpretrain only"):
            export_backbone(path, tmp_path / 'other.pth', to=to)
    assert not (tmp_path / 'other.pth').exists()


@pytest.mark.parametrize(
    ('fields', 'cfg', 'message'),
    [
        ({}, None, r'the config in the checkpoint names no model.backbone.img_size'),
        (
            dict(use_abs_pos_embed=True),
            'model = dict(backbone=dict(img_size=32))',
            r'(?s)unexpected .* absolute_pos_embed',
        ),
        (
            dict(stage_cfgs=dict(block_cfgs=dict(ffn_ratio=2))),
            'model = dict(backbone=dict(img_size=32))',
            r'(?s)only a Swin transformer as mmpretrain makes it .* of another shape',
        ),
    ],
)
def test_refuses_a_swin_that_it_cannot_tell(tmp_path, fields, cfg, message):
    with pytest.raises(ExportError, match=message):
        export_backbone(save(tmp_path / 'c.pth', {'student': make_swin(**fields)}, cfg=cfg), tmp_path / 'o.pth')


@pytest.mark.parametrize('layout', [layouts.TIMM, layouts.HUGGINGFACE])
def test_layouts_lead_back(layout):
    """No name is given twice and no value is lost, so that a library's file could be read as well."""
    vit = make_vit().state_dict()
    assert set(vit) == layouts.plain_vit_keys(3)
    renamed = layouts.rename(vit, layout)
    parts = [name for names in layout.in_block.values() for name in ([names] if isinstance(names, str) else names)]
    assert len(renamed) == len(layouts.PARAMETERS) + 2 * (len(layouts.MODULES) + 3 * len(parts))
    assert sum(value.numel() for value in renamed.values()) == sum(value.numel() for value in vit.values())


def test_verify_catches_a_wrong_mapping(tmp_path, models, monkeypatch):
    """Swapped norms load without complaint in timm, and only the comparison sees it; nothing is left behind."""
    monkeypatch.setitem(layouts.TIMM.in_block, 'ln1', 'norm2')
    monkeypatch.setitem(layouts.TIMM.in_block, 'ln2', 'norm1')
    path = save(tmp_path / 'c.pth', models)
    with pytest.raises(ExportError, match='other features of the same tensors: largest difference'):
        export_backbone(path, tmp_path / 'o.pth', to='timm')
    assert not (tmp_path / 'o.pth').exists()
    assert export_backbone(path, tmp_path / 'o.pth', to='timm', verify=False).max_difference is None


def test_config_text_is_never_executed(tmp_path, models):
    """A checkpoint's config is parsed as literals: calls in it do nothing."""
    flag = tmp_path / 'ran'
    text = f'import pathlib\nx = pathlib.Path({str(flag)!r}).touch()\n' + CFG
    assert export_backbone(save(tmp_path / 'c.pth', models, text), tmp_path / 'o.pth').max_difference == 0
    assert not flag.exists()
    with pytest.raises(CheckpointMismatchError, match='not a Python config'):
        export_backbone(save(tmp_path / 'c.pth', models, 'model = dict('), tmp_path / 'p.pth')


def test_missing_library(tmp_path, models, monkeypatch):
    """Without the target's package the error says which one to install."""
    import importlib

    real = importlib.import_module
    monkeypatch.setattr(
        importlib, 'import_module', lambda name: (_ for _ in ()).throw(ImportError()) if name == 'timm' else real(name)
    )
    with pytest.raises(ImportError, match='pip install timm'):
        export_backbone(save(tmp_path / 'c.pth', models), tmp_path / 'o.pth', to='timm')


def test_a_normalisation_that_nobody_knows_stays_unknown(tmp_path, models):
    """The export of weights without a config is not taken for one of images as they are loaded, BGR."""
    bare = save(tmp_path / 'c.pth', models, cfg=None)
    export_backbone(bare, tmp_path / 'a.pth', num_heads=3)
    found = read_checkpoint(tmp_path / 'a.pth')
    assert preprocessing(found.config, 3) is None
    assert preprocessing(dict(model=dict(found.config['model'], data_preprocessor=None)), 3) is None  # as once written
    export_backbone(tmp_path / 'a.pth', tmp_path / 'b.pth', to='timm')
    assert json.loads((tmp_path / 'b.json').read_text())['transform'] is None
    for key, value in torch.load(tmp_path / 'b.pth', weights_only=True).items():
        if key == 'patch_embed.proj.weight':
            assert torch.equal(value, models['student'].patch_embed.projection.weight)


@torch.no_grad()
def test_public_weights_of_a_width_of_their_own(tmp_path):
    """The number of heads is asked for, and then enough; what ends in an error leaves no file."""
    timm = pytest.importorskip('timm')
    sizes = dict(img_size=16, patch_size=4, embed_dim=48, depth=2, num_heads=4, mlp_ratio=2)
    model = timm.create_model('vit_base_patch16_224', pretrained=False, num_classes=0, **sizes).eval()
    torch.save(model.state_dict(), tmp_path / 'vit.pth')
    with pytest.raises(ExportError, match='--num-heads'):
        export_backbone(tmp_path / 'vit.pth', tmp_path / 'a.pth')
    with pytest.raises(ExtractorError, match=r'heads of an encoder 48 wide: `mmpl export --num-heads`'):
        FeatureExtractor(tmp_path / 'vit.pth', mean=MEAN, std=STD)
    assert not (tmp_path / 'a.pth').exists()
    export_backbone(tmp_path / 'vit.pth', tmp_path / 'a.pth', num_heads=4)
    export_backbone(tmp_path / 'vit.pth', tmp_path / 'b.pth', to='timm', num_heads=4)
    images = torch.randn(1, 3, 16, 16)
    torch.testing.assert_close(load_timm(tmp_path / 'b.pth').forward_features(images), model.forward_features(images))
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    features = FeatureExtractor(tmp_path / 'a.pth', mean=MEAN, std=STD, device='cpu')(pixels)
    fed = (torch.from_numpy(pixels).permute(2, 0, 1)[None] - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(
        3, 1, 1
    )
    np.testing.assert_allclose(features.cls, model.forward_features(fed)[:, 0], rtol=0, atol=1e-5)


def test_libraries_that_do_not_know_a_loader_are_not_told_how_pictures_are_fed(tmp_path, models, caplog):
    pipeline = "train_dataloader = dict(dataset=dict(pipeline=[dict(type='mmpl.LoadImage'{})]))\n"
    for fields, plain in (('', True), (', scaling=(100, 200)', False)):
        path = save(tmp_path / 'c.pth', models, CFG + pipeline.format(fields))
        export_backbone(path, tmp_path / 'timm.pth', to='timm')
        assert (json.loads((tmp_path / 'timm.json').read_text())['transform'] is not None) == plain
        export_backbone(path, tmp_path / f'hf_{plain}', to='huggingface')
        assert (tmp_path / f'hf_{plain}' / 'preprocessor_config.json').is_file() == plain


@pytest.mark.parametrize(
    'change',
    [
        ('mmpl.MaskedViT', 'subprocess.run'),
        ('mmpl.MaskedViT', 'mmengine.load'),
        ('to_rgb=True', 'to_rgb=True, type="subprocess.run"'),
        ('img_size=24', 'img_size=24, act_cfg=dict(type="ctypes.cdll.LoadLibrary")'),
    ],
)
def test_code_that_a_config_names_is_not_called(tmp_path, models, change):
    """mmengine would import and call it: a checkpoint could run any command."""
    path = save(tmp_path / 'c.pth', models, CFG.replace(*change))
    with pytest.raises(ExportError, match='is registered nowhere, and code that a checkpoint names is not imported'):
        export_backbone(path, tmp_path / 'a.pth')
    assert not (tmp_path / 'a.pth').exists()


@pytest.mark.parametrize(
    ('loader', 'plain'),
    [
        (dict(type='LoadImageFromFile', backend_args=dict(backend='petrel')), True),
        (dict(type='mmcls.LoadImageFromFile'), True),
        (dict(type='mmpl.LoadImage', gone=1), True),
        (dict(type='mmpl.LoadImage', bands=[3, 2, 1]), False),
        (dict(type='subprocess.LoadImage'), False),
    ],
)
def test_loaders_are_told_apart_by_what_they_say(loader, plain):
    assert backbone._reads_plainly(loader) == plain


@pytest.mark.parametrize('error', [ExportError('no'), RuntimeError('no'), KeyboardInterrupt()])
def test_what_was_not_verified_is_deleted(tmp_path, models, monkeypatch, error):
    def fail(*args):
        raise error

    monkeypatch.setattr(backbone, 'compare_features', fail)
    with pytest.raises(type(error)):
        export_backbone(save(tmp_path / 'c.pth', models), tmp_path / 'a.pth', to='timm')
    assert not (tmp_path / 'a.pth').exists() and not (tmp_path / 'a.json').exists()


@pytest.mark.parametrize(
    ('cfg', 'said'),
    [
        (CFG.replace('mmpl.MaskedViT', 'mmpl.DenseViT'), r'model.backbone is mmpl.DenseViT'),
        (CFG.replace('to_rgb', 'type="mmpl.VQAPreprocessor", to_rgb'), r'model.data_preprocessor is mmpl.VQAPrep'),
    ],
)
def test_what_was_fine_tuned_for_a_task_is_refused_by_name(tmp_path, models, cfg, said):
    with pytest.raises(ExportError, match=f'{said}.*checkpoint of pre-training'):
        export_backbone(save(tmp_path / 'c.pth', models, cfg), tmp_path / 'a.pth')
