"""Strides, patches and grids are what the encoder has: measured on pictures, not taken from a patch of 16."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from mmpretrain.models.backbones import VisionTransformer
from torch import nn

from mmpl.checkpoints.encoders import read_checkpoint
from mmpl.checkpoints.fit import CheckpointMismatchError
from mmpl.checkpoints.strict_pretrained import StrictPretrained
from mmpl.datasets.agreement import Findings
from mmpl.engine.hooks.stride_check import check_strides, measured_strides
from mmpl.export.spec import infer_spec
from mmpl.methods import CAE, MSA, PLMAE, SdAE
from mmpl.models.backbones import DenseViT
from mmpl.models.necks import SimpleFPN

ROOT = Path(__file__).resolve().parents[2]
ARCH = dict(embed_dims=32, num_layers=2, num_heads=2, feedforward_channels=64)


class Segmenter(nn.Module):
    """An encoder and a neck, as mmseg's and mmdet's models hold them."""

    def __init__(
        self, backbone: nn.Module, neck: nn.Module, size: tuple[int, int] | None = None, divisor: int | None = 28
    ) -> None:
        super().__init__()
        self.backbone, self.neck = backbone, neck
        self.decode_head = nn.Identity()
        self.data_preprocessor = nn.Identity()
        self.data_preprocessor.size = size
        self.data_preprocessor.test_cfg = None if divisor is None else dict(size_divisor=divisor)

    def extract_feat(self, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return self.neck(self.backbone(images))


@pytest.mark.parametrize(
    ('patch', 'expected'),
    [(4, [1, 2, 4, 8]), (8, [2, 4, 8, 16]), (14, [3.5, 7, 14, 28]), (16, [4, 8, 16, 32])],
)
@pytest.mark.parametrize('neck', ['SimpleFPN', 'Feature2Pyramid'])
def test_strides_follow_from_the_patches(patch, expected, neck) -> None:
    """Of our pyramid and of mmseg's, in both directions."""
    if neck == 'SimpleFPN':
        backbone = DenseViT(ARCH, patch_size=patch, img_size=8 * patch)
        model = Segmenter(backbone, SimpleFPN(32, 8))
    else:
        pytest.importorskip('mmseg')
        init_default_scope('mmseg')
        arch = dict(ARCH, num_layers=4)
        backbone = DenseViT(arch, patch_size=patch, img_size=8 * patch, out_indices=(0, 1, 2, 3))
        norm = dict(type='BN')
        model = Segmenter(
            backbone,
            MODELS.build(dict(type='Feature2Pyramid', embed_dim=32, rescales=[4, 2, 1, 0.5], norm_cfg=norm)),
        )
    assert measured_strides(model, 8 * patch) == [(stride, stride) for stride in expected]
    found = Findings()
    assert f'({", ".join(f"{stride:g}" for stride in expected)}) pixels' in check_strides(found, model)
    assert not found.errors and model.training


def test_anchors_of_other_patches_are_refused_with_both_sides() -> None:
    """A pyramid for patches of 16 on patches of 8; with the factors that the message names it passes."""

    def model(scales: tuple[float, ...], strides: list[int]) -> Segmenter:
        made = Segmenter(DenseViT(ARCH, patch_size=8, img_size=64), SimpleFPN(32, 8, scales, num_outs=5))
        made.rpn_head = nn.Identity()
        made.rpn_head.prior_generator = SimpleNamespace(strides=[(stride, stride) for stride in strides])
        return made

    found = Findings()
    check_strides(found, model((4, 2, 1, 0.5), [4, 8, 16, 32, 64]))
    (text,) = found.errors
    assert '`model.rpn_head.anchor_generator.strides`=(4, 8, 16, 32, 64)' in text
    assert 'patches of 8 x 8 pixels' in text and 'have the strides (2, 4, 8, 16, 32)' in text
    assert '`model.neck.scale_factors` to (2.0, 1.0, 0.5, 0.25)' in text
    found = Findings()
    check_strides(found, model((2, 1, 0.5, 0.25), [4, 8, 16, 32, 64]))
    check_strides(found, model((4, 2, 1, 0.5), [2, 4, 8, 16, 32]))
    assert not found.errors


def test_crops_that_patches_do_not_fill_are_said() -> None:
    """512 is no multiple of 14."""
    found = Findings()
    check_strides(found, Segmenter(DenseViT(ARCH, patch_size=14, img_size=56), SimpleFPN(32, 8), (512, 512)))
    assert len(found.warnings) == 1 and '(512, 512) is no multiple of the patches of 14 x 14' in found.warnings[0]
    found = Findings()
    check_strides(found, Segmenter(DenseViT(ARCH, patch_size=14, img_size=56), SimpleFPN(32, 8), (518, 504)))
    assert not found.warnings


@pytest.mark.parametrize('divisor', [None, 32])
def test_images_in_validation_that_patches_do_not_fill_are_said(divisor) -> None:
    found = Findings()
    check_strides(found, Segmenter(DenseViT(ARCH, patch_size=14, img_size=56), SimpleFPN(32, 8), divisor=divisor))
    (said,) = found.warnings
    assert f'`size_divisor` {divisor or 1}, no multiple of the patches of 14 x 14' in said and said.endswith('to 28')


@pytest.mark.parametrize('mode', ['whole', 'slide'])
@pytest.mark.parametrize('config', ['upernet_vit_surfaces', 'linear_vit_embedded'])
def test_scores_of_an_image_that_patches_do_not_fill_are_not_stretched(config, mode) -> None:
    """They are those of the image with its border filled up, cut off again."""
    pytest.importorskip('mmseg')
    from mmseg.structures import SegDataSample

    init_default_scope('mmseg')
    cfg = Config.fromfile(ROOT / 'configs/downstream/segmentation' / f'{config}.py')
    cfg.model.backbone.init_cfg = None
    if mode == 'slide':
        cfg.model.test_cfg = dict(mode='slide', crop_size=(64, 64), stride=(32, 32))
    torch.manual_seed(0)
    model = MODELS.build(cfg.model).eval()
    fill = model.data_preprocessor.mean.flip(0)  # is zero when it is normalised

    def scores(image: torch.Tensor) -> torch.Tensor:
        shape = tuple(image.shape[1:])
        sample = SegDataSample(metainfo=dict(img_shape=shape, ori_shape=shape))
        with torch.no_grad():
            (found,) = model.test_step(dict(inputs=[image], data_samples=[sample]))
        return found.seg_logits.data

    filled = fill.expand(3, 128, 128).clone()
    filled[:, :97, :70] = 255 * torch.rand(3, 97, 70)
    wanted = scores(filled[:, :, :96])[:, :97, :70]
    torch.testing.assert_close(scores(filled[:, :97, :70].clone()), wanted, atol=1e-5, rtol=1e-4)
    assert wanted.std() > 1e-3


@pytest.mark.parametrize('window', [0, 2])
def test_rectangles_of_the_dense_encoder(window) -> None:
    """As mmpretrain's, and a pyramid of its shape; an image turned with its positions gives the turned map."""
    torch.manual_seed(0)
    dense = DenseViT(
        ARCH, img_size=(64, 96), patch_size=16, window_size=window, global_attn_indexes=window and [1] or None
    )
    nn.init.normal_(dense.pos_embed)
    dense.eval()
    images = torch.randn(2, 3, 64, 96)
    if not window:
        plain = VisionTransformer(ARCH, img_size=(64, 96), patch_size=16, out_type='featmap')
        plain.load_state_dict(dense.state_dict())
        plain.eval()
        torch.testing.assert_close(dense(images)[0], plain(images)[0], atol=1e-5, rtol=0)
    turned = DenseViT(
        ARCH, img_size=(96, 64), patch_size=16, window_size=window, global_attn_indexes=window and [1] or None
    )
    turned.load_state_dict(dense.state_dict())
    turned.eval()
    with torch.no_grad():
        positions = dense.pos_embed[:, 1:].unflatten(1, (4, 6)).transpose(1, 2).flatten(1, 2)
        turned.pos_embed[:, 1:] = positions
        weight = dense.patch_embed.projection.weight
        turned.patch_embed.projection.weight.copy_(weight.transpose(2, 3))
        torch.testing.assert_close(dense(images)[0].mT, turned(images.mT.contiguous())[0], atol=1e-5, rtol=0)
    sizes = [level.shape[-2:] for level in SimpleFPN(32, 8)(dense(images))]
    assert sizes == [(16, 24), (8, 12), (4, 6), (2, 3)]


@pytest.mark.parametrize('method', [PLMAE, MSA, SdAE, CAE])
def test_pretraining_on_rectangles_is_refused_by_name(method) -> None:
    """Masks, decoder and positions are of squares."""
    init_default_scope('mmpretrain')
    cfg = method.tiny()
    cfg['backbone'].update(img_size=(64, 96), patch_size=16)
    with pytest.raises(TypeError, match=r'`backbone.img_size` must be .*, but got \(64, 96\)'):
        MODELS.build(cfg)


def _saved(path: Path, size: tuple[int, int] | int) -> Path:
    """A checkpoint of an encoder for images of a size, with its config."""
    encoder = VisionTransformer(ARCH, img_size=size, patch_size=16, out_type='raw')
    nn.init.normal_(encoder.pos_embed)
    text = f'model = dict(backbone=dict(arch={ARCH!r}, img_size={size!r}, patch_size=16))'
    state = {f'backbone.{key}': value for key, value in encoder.state_dict().items()}
    torch.save(dict(state_dict=state, meta=dict(cfg=text)), path)
    return path


def _load(path: Path, size: tuple[int, int] | int) -> DenseViT:
    init = dict(type='mmpl.StrictPretrained', checkpoint=str(path), prefix='backbone.')
    encoder = DenseViT(ARCH, img_size=size, patch_size=16, init_cfg=init)
    StrictPretrained(str(path), 'backbone.')(encoder)
    return encoder


@pytest.mark.parametrize(
    ('saved', 'wanted', 'grids'),
    [
        (224, (112, 448), '14 x 14 .* 7 x 28'),  # both have 196 patches
        ((112, 448), 224, '7 x 28 .* 14 x 14'),
        ((64, 96), (96, 64), '4 x 6 .* 6 x 4'),
        ((112, 448), 384, '7 x 28 .* 24 x 24'),  # would be interpolated as a square
    ],
)
def test_positions_of_another_grid_are_not_taken_by_their_number(tmp_path, saved, wanted, grids) -> None:
    """The checkpoint's config says what grid they are of."""
    path = _saved(tmp_path / 'a.pth', saved)
    with pytest.raises(CheckpointMismatchError, match=f'pos_embed is of {grids}'):
        _load(path, wanted)
    kept = read_checkpoint(path).state_dict['backbone.pos_embed']
    assert torch.equal(_load(path, saved).pos_embed, kept)


def test_squares_are_still_interpolated(tmp_path) -> None:
    """To a larger square, and to a rectangle of another number of patches."""
    path = _saved(tmp_path / 'a.pth', 64)
    assert _load(path, 96).pos_embed.shape == (1, 37, 32)
    assert _load(path, (64, 96)).pos_embed.shape == (1, 25, 32)


def test_export_reads_the_grid_from_the_config(tmp_path) -> None:
    """196 patches of 7 x 28 are no 14 x 14."""
    checkpoint = read_checkpoint(_saved(tmp_path / 'a.pth', (112, 448)))
    assert infer_spec(checkpoint.encoder(), checkpoint.config).img_size == (112, 448)
