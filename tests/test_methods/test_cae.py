"""CAE: its losses image by image, its regressor head by head and query by query; where no gradient goes."""

import copy
import math

import pytest
import torch
from mmpretrain.registry import MODELS

from mmpl.methods import CAE
from mmpl.methods.cae import CodeDecoder, LatentRegressor, TargetStats
from mmpl.models import BlockMasking, OnlineTokenizer, RandomMasking
from tests.test_models.helpers import scramble, tiny_cfg
from tests.test_models.test_patch_tokenizer import brute_force


def build(**fields):
    model = MODELS.build(tiny_cfg(CAE, **fields))
    model.init_weights()
    model.attach_updater('the test')
    scramble(model)
    return model.train()


def loop(model, images, masks) -> dict[str, torch.Tensor]:
    """Both losses, image by image and patch by patch, in float64; the regressor and the decoder are the model's."""
    places, by_code, by_token = model.backbone.pos_embed[0, 1:], [], []
    for row in range(len(masks.ids_keep)):
        image = images[row // masks.num_masks][None]
        keep, masked, asked = (ids[row] for ids in (masks.ids_keep, masks.ids_masked, masks.ids_predict))
        visible = model.backbone.encode(image, keep[None])[0][:, 1:]
        latent = model.regressor(visible, places[keep][None], places[asked][None])
        logits = model.neck(latent, places[asked][None])[0].double()
        alone = copy.deepcopy(model.backbone).encode(image, masked[None])[0][0, 1:].double()  # masked patches alone
        for index, place in enumerate(asked.tolist()):
            code = brute_force(model.tokenizer, image[0], place)
            by_code.append(logits[index].exp().sum().log() - logits[index, code])
            wanted = alone[masked.tolist().index(place)]
            by_token.append((latent[0, index].double() - wanted).square().sum() / len(wanted))
    return dict(code=torch.stack(by_code).mean(), align=torch.stack(by_token).mean())


@pytest.mark.parametrize(
    'fields',
    [
        {},
        dict(masking=dict(num_masks=2, predict_ratio=0.5)),
        dict(masking=dict(type='mmpl.RandomMasking', mask_ratio=0.75), tokenizer=dict(norm_pix=False)),
    ],
)
@pytest.mark.parametrize('grid', [(4, 4), (2, 8)])
def test_the_losses_equal_a_loop_over_images_and_patches(fields, grid):
    model = build(**fields)
    model.backbone.patch_resolution = grid
    model.backbone.img_size = (4 * grid[0], 4 * grid[1])
    images = torch.randn(3, 3, *model.backbone.img_size, generator=torch.Generator().manual_seed(1))
    masks = copy.deepcopy(model.masking)(3, grid)
    losses = model(images, mode='loss')
    expected = loop(model, images, masks)
    torch.testing.assert_close(losses['loss_code'].double(), expected['code'], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(losses['loss_align'].double(), 2 * expected['align'], rtol=1e-5, atol=1e-6)


def test_half_of_the_patches_are_masked_in_blocks_unless_another_masking_is_named():
    model = build()
    assert type(model.masking) is BlockMasking
    assert model.masking(2, model.backbone.patch_resolution).ids_masked.shape == (2, 8)
    assert type(build(masking=dict(type='mmpl.RandomMasking')).masking) is RandomMasking


# ---------------------------------------------------------------------- the regressor


def normed(x: torch.Tensor, ln: torch.nn.LayerNorm) -> torch.Tensor:
    centred = x - x.mean()
    return centred / (centred.square().mean() + 1e-6).sqrt() * ln.weight + ln.bias


def ask(block, found: list, asked: list, visible: list, places: list) -> list:
    """A block on one image, query by query and head by head; all are lists of vectors (D,)."""
    context, where = visible + found, places + asked
    keys = [block.key.weight @ normed(x + p, block.ln_context) for x, p in zip(context, where, strict=True)]
    values = [block.value.weight @ normed(x, block.ln_context) + block.value.bias for x in context]
    size = len(found[0]) // block.num_heads
    answers = []
    for x, p in zip(found, asked, strict=True):
        query = block.query.weight @ normed(x + p, block.ln_query) + block.query.bias
        heads = []
        for head in range(block.num_heads):
            part = slice(head * size, (head + 1) * size)
            scores = [math.exp(query[part] @ key[part] / math.sqrt(size)) for key in keys]
            heads.append(sum(s * value[part] for s, value in zip(scores, values, strict=True)) / sum(scores))
        x = x + block.gamma1.weight * (block.proj.weight @ torch.cat(heads) + block.proj.bias)
        first, _, last = block.mlp
        hidden = first.weight @ normed(x, block.ln_mlp) + first.bias
        hidden = hidden * (1 + torch.erf(hidden / math.sqrt(2))) / 2
        answers.append(x + block.gamma2.weight * (last.weight @ hidden + last.bias))
    return answers


@torch.no_grad()
def test_the_regressor_equals_a_loop_over_heads_and_queries():
    """Positions are in what asks and what is compared, and in nothing else."""
    regressor = LatentRegressor(embed_dims=8, num_heads=2, depth=2, mlp_ratio=1.5).double()
    scramble(regressor, std=0.5)
    visible, places, asked = (torch.randn(2, count, 8, dtype=torch.float64) for count in (3, 3, 5))
    out = regressor(visible, places, asked)
    for image in range(2):
        found = [regressor.mask_token[0, 0]] * 5
        for block in regressor.blocks:
            found = ask(block, found, list(asked[image]), list(visible[image]), list(places[image]))
        expected = torch.stack([normed(x, regressor.ln) for x in found])
        torch.testing.assert_close(out[image], expected, rtol=1e-9, atol=1e-9)


@torch.no_grad()
def test_the_decoder_sees_what_was_found_and_where_in_any_order():
    decoder = CodeDecoder(embed_dims=8, num_heads=2, num_codes=5, depth=2).double()
    scramble(decoder, std=0.5)
    latent, places = torch.randn(2, 6, 8, dtype=torch.float64), torch.randn(2, 6, 8, dtype=torch.float64)
    out, order = decoder(latent, places), torch.randperm(6)
    torch.testing.assert_close(decoder(latent[:, order], places[:, order]), out[:, order])
    assert not torch.allclose(decoder(latent, places[:, order]), out), 'places count'
    changed = latent.clone()
    changed[:, 0] = torch.randn(8)
    assert not torch.allclose(decoder(changed, places)[:, 1:], out[:, 1:]), 'masked tokens see each other'


# ---------------------------------------------------------------------- targets


def gradients(model, loss) -> dict[str, torch.Tensor]:
    model.zero_grad()
    loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def test_no_gradient_goes_through_the_targets():
    """It is that of a loss whose targets are constants, made by a copy; and another one if they were none."""
    model = build()
    images = torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    masks = copy.deepcopy(model.masking)(3, (4, 4))
    own = gradients(model, model(images, mode='loss')['loss_align'])

    def again(encoder):
        places = model.backbone.pos_embed[0, 1:]
        visible = model.backbone(images, masks.ids_keep)[:, 1:]
        latent = model.regressor(visible, places[masks.ids_keep], places[masks.ids_predict])
        return 2 * (latent - encoder(images, masks.ids_masked)[:, 1:]).square().mean()

    constant = gradients(model, again(copy.deepcopy(model.backbone).requires_grad_(False)))
    assert own.keys() == constant.keys() and not [name for name in own if name.startswith('neck')]
    for name, gradient in own.items():
        torch.testing.assert_close(gradient, constant[name], rtol=1e-4, atol=1e-6)
    through = gradients(model, again(model.backbone))
    assert not torch.allclose(own['backbone.cls_token'], through['backbone.cls_token'], rtol=0.01)


def test_the_encoder_is_in_the_checkpoint_once_and_the_codes_are_in_it():
    model = build()
    parts = {key.partition('.')[0] for key in model.state_dict()}
    assert parts == {'backbone', 'regressor', 'neck', 'tokenizer', 'masking'} and not model.teachers
    assert {'tokenizer.projection', 'tokenizer.codes'} <= set(model.state_dict())


def test_online_codes_move_with_the_steps():
    model = build(tokenizer=dict(type='mmpl.OnlineTokenizer'))
    assert type(model.tokenizer) is OnlineTokenizer
    before = model.tokenizer.codebook.codes.clone()
    model(torch.randn(8, 3, 16, 16), mode='loss')
    model.after_step(0.5, epoch=0)
    assert not torch.equal(model.tokenizer.codebook.codes, before)


def test_the_figures_of_the_targets_tell_collapse():
    tokens = torch.randn(64, 16, 32, generator=torch.Generator().manual_seed(0))
    figures = TargetStats.of(tokens).figures()
    assert figures['norm'] == pytest.approx(tokens.norm(dim=-1).mean().item())
    assert figures['spread'] == pytest.approx(1, abs=0.01)
    alike = TargetStats.of(tokens[:1, :1].expand_as(tokens)).figures()
    assert alike['spread'] == pytest.approx(0, abs=1e-5)
    assert not CAE.TARGET_FIGURES['spread'].is_healthy(alike['spread'])
    opposite = TargetStats.of(torch.stack((tokens, -tokens))).figures()
    assert opposite['spread'] == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize(
    ('fields', 'error', 'message'),
    [
        (dict(loss_weights=dict(code=0)), ValueError, '`loss_weights.code` must be above 0, as alignment alone'),
        (dict(loss_weights=dict(recon=1)), ValueError, r"`loss_weights` must be one of \['align', 'code'\]"),
        (dict(regressor=dict(embed_dims=16)), ValueError, '`regressor.embed_dims` must be 32, the width of `backbone`'),
        (dict(regressor=dict(num_heads=5)), ValueError, '`regressor.num_heads` must divide `embed_dims` 32, but got 5'),
        (dict(neck=dict(num_codes=8)), ValueError, '`neck.num_codes` must be 16, the codes of `tokenizer`, but got 8'),
        (dict(neck=dict(num_heads=3)), ValueError, '`neck.num_heads` must divide `embed_dims` 32, but got 3'),
        (dict(tokenizer=dict(patch_size=8)), ValueError, '`tokenizer.patch_size` must be 4, that of `backbone`'),
        (dict(tokenizer=dict(in_channels=1)), ValueError, '`tokenizer.in_channels` must be 3, the channels of'),
        (dict(masking=dict(mask_ratio=0.99)), ValueError, 'patches visible; at least one must be visible'),
        (dict(masking=dict(type='mmpl.BatchMasking')), ValueError, 'BatchMasking gives all images of a batch one mask'),
        (dict(regressor=None), TypeError, '`regressor` must be a dict such as'),
        (dict(head=dict(target='pixel')), TypeError, '`head` is not a field of CAE'),
    ],
)
def test_refuses(fields, error, message):
    with pytest.raises(error, match=message):
        MODELS.build(tiny_cfg(CAE, **fields))


def test_a_weight_that_is_left_out_is_the_papers():
    assert build(loss_weights=dict(code=0.5)).loss_weights == dict(code=0.5, align=2.0)


def test_refuses_encoders_without_positions():
    swin = dict(type='mmpl.MaskedSwin', arch=dict(embed_dims=16, depths=[1, 1], num_heads=[2, 2]), img_size=32)
    with pytest.raises(ValueError, match='`backbone.type` must be a plain vision transformer .* but got MaskedSwin'):
        MODELS.build(tiny_cfg(CAE) | dict(backbone=swin | dict(patch_size=4, window_size=4)))
