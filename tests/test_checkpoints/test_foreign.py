"""Files that timm, transformers and MAE's code write: the same features here; what is no plain ViT is refused."""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS
from torch import Tensor, nn

import mmpl.methods  # noqa: F401
from mmpl.apis.train import compare_pretrained, import_start
from mmpl.checkpoints import encoders, foreign, import_weights, read_checkpoint
from mmpl.checkpoints.fit import CheckpointMismatchError
from mmpl.evaluation.extractor import FeatureExtractor
from mmpl.models import Masks
from tests.test_export.test_backbone import make_vit

timm = pytest.importorskip('timm')
transformers = pytest.importorskip('transformers')
safetensors = pytest.importorskip('safetensors.torch')

IMAGES = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(3))
TIMM = dict(img_size=16, patch_size=4, embed_dim=48, depth=2, num_heads=3, mlp_ratio=2, pretrained=False)
HUGGINGFACE = dict(
    hidden_size=48,
    num_hidden_layers=2,
    num_attention_heads=3,
    intermediate_size=96,
    image_size=16,
    patch_size=4,
)
DECODER = dict(
    decoder_hidden_size=24,
    decoder_num_hidden_layers=2,
    decoder_num_attention_heads=2,
    decoder_intermediate_size=96,
)


def randomised(model: nn.Module) -> nn.Module:
    """Every parameter, norms and biases too, has a value of its own."""
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.2)
    return model.eval()


def timm_vit(name: str = 'vit_base_patch16_224', **kwargs: Any) -> nn.Module:
    return randomised(timm.create_model(name, **(TIMM | kwargs)))


def features(path: Path, **backbone: Any) -> Tensor:
    """Of mmpretrain's ViT as a downstream config builds and loads it."""
    import mmpretrain.models  # noqa: F401

    arch = dict(embed_dims=48, num_layers=2, num_heads=3, feedforward_channels=96)
    init_cfg = dict(type='mmpl.StrictPretrained', checkpoint=str(path), prefix='backbone.')
    cfg = dict(type='mmpretrain.VisionTransformer', arch=arch, img_size=16, patch_size=4, out_type='raw')
    model = MODELS.build(dict(cfg, init_cfg=init_cfg) | backbone)
    model.init_weights()
    model.eval()
    with torch.no_grad():
        return model(IMAGES)[0]


def close(got: Tensor, want: Tensor) -> None:
    assert want.std() > 0.05
    torch.testing.assert_close(got, want, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize('wrapped', ['bare', 'model', 'state_dict', 'module', 'safetensors'])
@torch.no_grad()
def test_timm(wrapped: str, tmp_path: Path) -> None:
    """With a classifier, which is left aside; {'model': ...} is how MAE's official files are wrapped."""
    model, path = timm_vit(num_classes=7), tmp_path / 'vit.pth'
    state = model.state_dict()
    if wrapped == 'safetensors':
        path = path.with_suffix('.safetensors')
        safetensors.save_file(state, path)
    elif wrapped == 'module':
        torch.save({f'module.{key}': value for key, value in state.items()}, path)
    else:
        torch.save(state if wrapped == 'bare' else {wrapped: state}, path)
    close(features(path), model.forward_features(IMAGES))
    found = read_checkpoint(path)
    assert found.layout == 'timm' and found.left_aside == ('head.bias', 'head.weight')
    assert 'layout of timm' in found.origin() and 'left aside: head.bias, head.weight' in found.origin()


@torch.no_grad()
def test_layer_scale_and_no_bias(tmp_path: Path) -> None:
    model = timm_vit(init_values=0.1, qkv_bias=False)
    torch.save(model.state_dict(), tmp_path / 'vit.pth')
    close(features(tmp_path / 'vit.pth', layer_scale_init_value=1.0, qkv_bias=False), model.forward_features(IMAGES))
    config = read_checkpoint(tmp_path / 'vit.pth').config['model']['backbone']
    built = MODELS.build(config | dict(arch=config['arch'] | dict(num_heads=3)))
    built.load_state_dict(read_checkpoint(tmp_path / 'vit.pth').encoder())


def official_mae(decoder: bool) -> tuple[nn.Module, dict[str, Tensor]]:
    """An encoder of timm, and a file as MAE's code writes it; its names are written down here by hand."""
    model = timm_vit(num_classes=0)
    state = {key: value for key, value in model.state_dict().items()}
    assert {'cls_token', 'pos_embed', 'patch_embed.proj.weight', 'blocks.1.mlp.fc2.bias', 'norm.weight'} <= set(state)
    shapes = dict(decoder_pos_embed=(1, 17, 24), mask_token=(1, 1, 24))
    sizes = {'decoder_embed': (24, 48), 'decoder_pred': (48, 24), 'decoder_norm': (24,)}
    for i in range(2):
        block = f'decoder_blocks.{i}.'
        sizes |= {f'{block}norm1': (24,), f'{block}norm2': (24,), f'{block}attn.qkv': (72, 24)}
        sizes |= {f'{block}attn.proj': (24, 24), f'{block}mlp.fc1': (96, 24), f'{block}mlp.fc2': (24, 96)}
    for name, size in sizes.items():
        shapes |= {f'{name}.weight': size, f'{name}.bias': size[:1]}
    generator = torch.Generator().manual_seed(1)
    return model, state | {k: torch.randn(s, generator=generator) for k, s in shapes.items() if decoder}


@pytest.mark.parametrize('decoder', [False, True])
@torch.no_grad()
def test_official_mae(decoder: bool, tmp_path: Path) -> None:
    model, state = official_mae(decoder)
    args = argparse.Namespace(model='mae_vit_base_patch16', norm_pix_loss=True)  # as their files have, without --trust
    torch.save({'model': state, 'args': args, 'epoch': 799}, tmp_path / 'mae.pth')
    close(features(tmp_path / 'mae.pth'), model.forward_features(IMAGES))
    found = read_checkpoint(tmp_path / 'mae.pth')
    assert ('MAE' in found.layout) is decoder and not found.left_aside
    plmae = MODELS.build(plmae_cfg())
    if decoder:
        assert {key for key in plmae.state_dict() if key.startswith('neck.')} == {
            key for key in found.state_dict if key.startswith('neck.')
        }
        assert torch.equal(
            found.state_dict['neck.decoder_blocks.1.ffn.layers.1.weight'], state['decoder_blocks.1.mlp.fc2.weight']
        )
        assert found.config['model']['data_preprocessor']['mean'][0] == 123.675


def plmae_cfg() -> dict:
    cfg = MODELS.get('mmpl.PLMAE').tiny()
    arch = dict(embed_dims=48, num_layers=2, num_heads=3, feedforward_channels=96)
    cfg['backbone'].update(arch=arch)
    cfg['neck'].update(decoder_embed_dims=24, depth=2, num_heads=2)
    return dict(
        cfg,
        head=dict(target='pixel', norm_pix=False, type='mmpl.TokenReconHead'),
        loss_weights=dict(label_cls=0, label_data=0),
    )


@pytest.mark.parametrize('kind', ['ViTModel', 'ViTForImageClassification', 'Dinov2Model'])
@torch.no_grad()
def test_hugging_face(kind: str, tmp_path: Path) -> None:
    """A folder, and the file in it; with the norms' epsilon of its config."""
    if kind == 'Dinov2Model':
        config = transformers.Dinov2Config(
            **{k: v for k, v in HUGGINGFACE.items() if k != 'intermediate_size'}, mlp_ratio=2
        )
    else:
        config = transformers.ViTConfig(**HUGGINGFACE, layer_norm_eps=1e-5)
    model = randomised(getattr(transformers, kind)(config))
    model.save_pretrained(tmp_path / 'vit')
    encoder = model.vit if kind == 'ViTForImageClassification' else model
    want = encoder(IMAGES).last_hidden_state
    scale = dict(layer_scale_init_value=1.0) if kind == 'Dinov2Model' else {}
    for path in (tmp_path / 'vit', tmp_path / 'vit' / 'model.safetensors'):
        close(features(path, norm_cfg=dict(type='LN', eps=config.layer_norm_eps), **scale), want)
        backbone = read_checkpoint(path).config['model']['backbone']
        assert (backbone['arch']['num_heads'], backbone['norm_cfg']['eps']) == (3, config.layer_norm_eps)


@pytest.mark.parametrize(
    'fields',
    [
        {},
        dict(do_normalize=False),
        dict(rescale_factor=1 / 127.5, image_mean=[1.0] * 3, image_std=[1.0] * 3),
        dict(do_rescale=False, image_mean=[120.0, 110.0, 100.0], image_std=[60.0, 55.0, 50.0]),
    ],
)
@torch.no_grad()
def test_hugging_face_with_its_image_processor(fields: dict, tmp_path: Path) -> None:
    model = randomised(transformers.ViTModel(transformers.ViTConfig(**HUGGINGFACE), add_pooling_layer=False))
    model.save_pretrained(tmp_path)
    processor = transformers.ViTImageProcessor(size=dict(height=16, width=16), **fields)
    processor.save_pretrained(tmp_path)
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    want = model(**processor(pixels, return_tensors='pt', input_data_format='channels_last')).last_hidden_state[0]
    found = FeatureExtractor(tmp_path, device='cpu')(pixels)
    np.testing.assert_allclose(found.cls[0], want[0], rtol=0, atol=2e-4)
    np.testing.assert_allclose(found.patches[0].reshape(16, 48), want[1:], rtol=0, atol=2e-4)


@torch.no_grad()
def test_hugging_face_mae_with_its_decoder(tmp_path: Path) -> None:
    """The loss of its pre-training, with the same masks, is ours with pixel targets."""
    config = transformers.ViTMAEConfig(
        **HUGGINGFACE, **DECODER, mask_ratio=0.75, norm_pix_loss=False, layer_norm_eps=1e-6
    )
    theirs = randomised(transformers.ViTMAEForPreTraining(config))
    theirs.save_pretrained(tmp_path / 'mae')
    found = read_checkpoint(tmp_path / 'mae')
    assert found.layout == 'Hugging Face ViTMAE, with its decoder' and not found.left_aside
    ours = MODELS.build(plmae_cfg())
    assert ours.load_state_dict(found.state_dict, strict=False) == (['masking.step'], [])
    noise = torch.rand(2, 16, generator=torch.Generator().manual_seed(5))
    masks = Masks.from_noise(noise, 4)
    ours.eval()
    pred = ours.neck(ours.backbone(IMAGES, masks.ids_keep), masks)
    loss = ours.head.loss(pred, ours.head.targets(IMAGES, masks, None), masks)
    torch.testing.assert_close(loss, theirs(IMAGES, noise=noise).loss, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_mmpretrains_own_stay_as_they_are(tmp_path: Path) -> None:
    model = make_vit(img_size=16)
    torch.save(dict(state_dict={f'backbone.{k}': v for k, v in model.state_dict().items()}), tmp_path / 'own.pth')
    found = read_checkpoint(tmp_path / 'own.pth')
    assert not found.is_foreign and torch.equal(found.encoder()['pos_embed'], model.pos_embed)
    with pytest.raises(CheckpointMismatchError, match='needs no import'):
        import_weights(tmp_path / 'own.pth', tmp_path / 'out.pth')


# ---------------------------------------------------------------------- what is refused

TINY = dict(pretrained=False, img_size=32)
REFUSED = {
    'registers': (lambda: timm_vit('vit_small_patch14_reg4_dinov2', init_values=1e-5), 'register tokens'),
    'swin': (lambda: timm.create_model('swin_tiny_patch4_window7_224', pretrained=False, depths=(1, 1, 1, 1)), 'Swin'),
    'beit': (lambda: timm.create_model('beit_base_patch16_224', **TINY, embed_dim=48, depth=1, num_heads=3), 'BEiT'),
    'distilled': (lambda: timm_vit('deit_tiny_distilled_patch16_224'), 'distillation token'),
    'pooled': (lambda: timm_vit(global_pool='avg', class_token=True), 'fine-tuned with a norm after pooling'),
    'no class token': (lambda: timm_vit(class_token=False, global_pool='avg', fc_norm=False), 'cls_token'),
    'clip': (lambda: timm_vit('vit_base_patch32_clip_224'), 'a norm before the blocks'),
    'normed queries': (lambda: timm_vit(qk_norm=True), 'normed queries'),
    'swiglu': (
        lambda: transformers.Dinov2Model(
            transformers.Dinov2Config(hidden_size=48, num_hidden_layers=1, num_attention_heads=3, use_swiglu_ffn=True)
        ),
        'SwiGLU',
    ),
}

REFUSED['swiglu of timm'] = (lambda: timm_vit('vit_small_patch14_dinov2', mlp_layer=timm.layers.SwiGLUPacked), 'SwiGLU')


@pytest.mark.parametrize('name', REFUSED)
def test_what_is_no_plain_vit_is_refused_by_name(name: str, tmp_path: Path) -> None:
    make, message = REFUSED[name]
    torch.save(make().state_dict(), tmp_path / 'x.pth')
    with pytest.raises(CheckpointMismatchError, match=message) as refused:
        read_checkpoint(tmp_path / 'x.pth')
    assert 'layout of' in str(refused.value)


def test_two_encoders_in_a_file(tmp_path: Path) -> None:
    state = timm_vit().state_dict()
    torch.save({f'{name}.{key}': v for name in ('student', 'teacher') for key, v in state.items()}, tmp_path / 'x.pth')
    with pytest.raises(CheckpointMismatchError, match='several encoders'):
        read_checkpoint(tmp_path / 'x.pth')


def test_another_number_of_heads_is_refused(tmp_path: Path) -> None:
    """All tensors fit, and the features are others."""
    transformers.ViTModel(transformers.ViTConfig(**HUGGINGFACE)).save_pretrained(tmp_path / 'vit')
    arch = dict(embed_dims=48, num_layers=2, num_heads=6, feedforward_channels=96)
    with pytest.raises(CheckpointMismatchError, match='num_heads=3, the module num_heads=6'):
        features(tmp_path / 'vit', arch=arch, norm_cfg=dict(type='LN', eps=1e-12))


def test_a_small_vit_with_fixed_positions_may_be_one_of_12_heads(tmp_path: Path, monkeypatch) -> None:
    import mmpl.checkpoints.foreign as foreign

    said: list[str] = []
    monkeypatch.setattr(foreign, 'print_log', lambda text, **kwargs: said.append(text))
    model = timm_vit(embed_dim=384, depth=1)
    torch.save(model.state_dict(), tmp_path / 'learnt.pth')
    model.pos_embed.data[:, 0] = 0
    torch.save(model.state_dict(), tmp_path / 'fixed.pth')
    heads = [
        read_checkpoint(tmp_path / name).config['model']['backbone']['arch']['num_heads']
        for name in ('learnt.pth', 'fixed.pth')
    ]
    assert heads == [6, 6] and len(said) == 1 and 'fixed.pth' in said[0] and 'MoCo-v3' in said[0]


def test_another_epsilon_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch) -> None:
    import mmpl.checkpoints.encoders as encoders

    said: list[str] = []
    monkeypatch.setattr(encoders, 'print_log', lambda text, **kwargs: said.append(text))
    transformers.ViTModel(transformers.ViTConfig(**HUGGINGFACE)).save_pretrained(tmp_path / 'vit')
    features(tmp_path / 'vit', norm_cfg=dict(type='LN', eps=1e-6))
    assert len(said) == 1 and 'its norms have eps 1e-12, those of the module 1e-06' in said[0]
    features(tmp_path / 'vit', norm_cfg=dict(type='LN', eps=1e-12))
    assert len(said) == 1


def test_an_epsilon_that_changes_features_is_refused(tmp_path: Path) -> None:
    transformers.ViTModel(transformers.ViTConfig(**HUGGINGFACE, layer_norm_eps=1e-2)).save_pretrained(tmp_path / 'vit')
    with pytest.raises(CheckpointMismatchError, match='have eps 0.01, those of the module 1e-06'):
        features(tmp_path / 'vit', norm_cfg=dict(type='LN', eps=1e-6))


def test_another_activation_is_refused(tmp_path: Path) -> None:
    transformers.ViTModel(transformers.ViTConfig(**HUGGINGFACE, hidden_act='relu')).save_pretrained(tmp_path / 'vit')
    with pytest.raises(CheckpointMismatchError, match="hidden_act='relu'"):
        read_checkpoint(tmp_path / 'vit')


def test_a_config_beside_other_files_is_not_read(tmp_path: Path) -> None:
    torch.save(timm_vit().state_dict(), tmp_path / 'vit.pth')
    (tmp_path / 'config.json').write_text('no JSON')
    assert read_checkpoint(tmp_path / 'vit.pth').layout == 'timm'
    transformers.ViTModel(transformers.ViTConfig(**HUGGINGFACE)).save_pretrained(tmp_path / 'hf')
    (tmp_path / 'hf' / 'config.json').write_text('no JSON')
    with pytest.raises(CheckpointMismatchError, match='config.json cannot be read'):
        read_checkpoint(tmp_path / 'hf')


def test_damaged_and_missing(tmp_path: Path) -> None:
    (tmp_path / 'x.safetensors').write_bytes((2).to_bytes(8, 'little') + b'{}')
    with pytest.raises(CheckpointMismatchError, match='no `state_dict` of tensors'):
        read_checkpoint(tmp_path / 'x.safetensors')
    (tmp_path / 'y.safetensors').write_bytes(b'no such thing')
    with pytest.raises(CheckpointMismatchError, match='damaged or no safetensors file'):
        read_checkpoint(tmp_path / 'y.safetensors')
    with pytest.raises(FileNotFoundError, match='folder without'):
        read_checkpoint(tmp_path)


# ---------------------------------------------------------------------- as the start of a run


def test_import_and_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, state = official_mae(decoder=True)
    torch.save({'model': state}, tmp_path / 'mae.pth')
    cfg = Config(dict(load_from=str(tmp_path / 'mae.pth'), resume=False, work_dir=str(tmp_path / 'work')))
    read = []
    monkeypatch.setattr(encoders, 'read_file', lambda *args: read.append(args) or foreign.read_file(*args))
    said = import_start(cfg)
    assert len(read) == 1
    assert "MAE's official" in said and cfg.load_from == str(tmp_path / 'work' / 'imported_mae.pth')
    found = read_checkpoint(cfg.load_from)
    assert not found.is_foreign and found.config['model']['backbone']['arch']['embed_dims'] == 48
    plmae = MODELS.build(plmae_cfg())
    assert plmae.check_loaded(found.state_dict, resumed=False) == []
    assert plmae.load_state_dict(found.state_dict, strict=False) == (['masking.step'], [])
    with torch.no_grad():
        close(plmae.eval().backbone(IMAGES)[0], model.forward_features(IMAGES))
    before = cfg.load_from
    assert import_start(cfg) == '' and cfg.load_from == before


def test_a_start_from_weights_that_were_made_otherwise(tmp_path: Path) -> None:
    """Other attention heads, which no tensor shows, are refused; another normalisation is said."""
    pixels = dict(type='SelfSupDataPreprocessor', mean=[1.0, 2.0, 3.0], std=[4.0] * 3, bgr_to_rgb=True)
    backbone = dict(type='mmpl.MaskedViT', arch=dict(embed_dims=32, num_layers=1, num_heads=4), img_size=32)
    theirs = Config(dict(model=dict(type='mmpl.PLMAE', backbone=backbone, data_preprocessor=pixels)))
    file = tmp_path / 'ours.pth'
    torch.save(dict(meta=dict(cfg=theirs.pretty_text), state_dict={'backbone.cls_token': torch.zeros(1, 1, 32)}), file)

    def start(**model) -> str:
        cfg = Config(dict(model=dict(theirs.model.to_dict(), **model), load_from=str(file), work_dir=str(tmp_path)))
        return import_start(cfg)

    assert start() == ''
    assert 'were fed with mean (1.0, 2.0, 3.0)' in start(data_preprocessor=dict(pixels, mean=[7.0] * 3))
    assert 'RGB, this run feeds' in start(data_preprocessor=dict(pixels, bgr_to_rgb=False))
    with pytest.raises(CheckpointMismatchError, match='num_heads=4, `model.backbone` num_heads=2'):
        start(backbone=dict(backbone, arch=dict(embed_dims=32, num_layers=1, num_heads=2)))

    def load(path=file, **pixels) -> str:
        encoder = dict(
            type='mmpretrain.VisionTransformer', init_cfg=dict(type='mmpl.StrictPretrained', checkpoint=str(path))
        )
        return compare_pretrained(Config(dict(model=dict(backbone=encoder, data_preprocessor=pixels))))

    assert load(**pixels) == ''
    changed = load(**(pixels | dict(std=[1.0] * 3)))
    assert f'`model.backbone.init_cfg` {file} were fed with mean (1.0, 2.0, 3.0), std (4.0, 4.0, 4.0)' in changed
    assert load(path=tmp_path / 'missing.pth', **pixels) == ''
