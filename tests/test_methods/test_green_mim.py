"""GreenMIM against its loss computed unit by unit, its one mask, what it refuses, and where its weights go."""

import copy

import pytest
import torch
from mmpretrain.registry import MODELS

from mmpl.methods import GreenMIM, SdAE
from mmpl.methods.green_mim import BatchMasking
from mmpl.models.masking import RandomMasking
from tests.test_models.helpers import scramble, tiny_cfg


def build(**fields):
    model = MODELS.build(tiny_cfg(GreenMIM, **fields))
    model.init_weights()
    scramble(model)
    return model.train()


@pytest.mark.parametrize('predict_ratio', [1.0, 0.5])
def test_the_loss_equals_a_loop_over_units(predict_ratio):
    model = build(masking=dict(predict_ratio=predict_ratio))
    images = torch.randn(3, 3, 16, 16)
    masks = copy.deepcopy(model.masking)(3, 64)
    loss = model(images, mode='loss')['loss_recon']
    assert masks.ids_predict.shape == (3, round(48 * predict_ratio))
    pred = model.neck(model.backbone(images, masks.ids_keep[0]), masks).double()
    losses = []
    for row, image in enumerate(images.double()):
        for place, unit in enumerate(masks.ids_predict[row].tolist()):
            top, left = (2 * part for part in divmod(unit, 8))
            pixels = image[:, top : top + 2, left : left + 2].permute(1, 2, 0).flatten()
            pixels = (pixels - pixels.mean()) / (pixels.var() + 1e-6).sqrt()
            losses.append((pred[row, place] - pixels).square().mean())
    torch.testing.assert_close(loss.double(), torch.stack(losses).mean(), rtol=1e-5, atol=1e-6)


def test_the_decoder_sees_every_unit_at_its_place():
    """Without a class token: tokens in the images' order, mask tokens between them, through the neck's own layers."""
    model = build()
    masks = copy.deepcopy(model.masking)(2, 64)
    neck, latent = model.neck, torch.randn(2, 16, 32)
    pred = neck(latent, masks)
    x = neck.mask_token.expand(2, 64, -1).clone()
    x[:, masks.ids_keep[0]] = neck.decoder_embed(latent)
    x = x + neck.decoder_pos_embed[:, 1:]
    for block in neck.decoder_blocks:
        x = block(x)
    expected = neck.decoder_pred(neck.decoder_norm(x))
    torch.testing.assert_close(pred, expected[:, masks.ids_masked[0]], rtol=1e-5, atol=1e-5)


def test_all_images_and_ranks_have_one_mask_and_each_step_another(monkeypatch):
    masking = BatchMasking(seed=3)
    first, second = masking(4, 49), masking(2, 49)
    assert first.ids_keep.shape == (4, 12) and first.ids_predict.shape == (4, 37)
    assert all(torch.equal(row, first.ids_keep[0]) for row in first.ids_keep)
    assert sorted([*first.ids_keep[0].tolist(), *first.ids_masked[0].tolist()]) == list(range(49))
    assert not torch.equal(first.ids_keep[0], second.ids_keep[0])
    masking.rewind(1)
    assert torch.equal(masking(4, 49).ids_keep[0], second.ids_keep[0]), 'drawn again'
    alone = RandomMasking(seed=3)
    assert torch.equal(alone(1, 49).ids_keep[0], first.ids_keep[0]), 'the draw of the first image'
    monkeypatch.setattr('mmpl.models.masking.get_rank', lambda: 1)
    assert torch.equal(BatchMasking(seed=3)(4, 49).ids_keep, first.ids_keep), 'on any rank'
    assert not torch.equal(RandomMasking(seed=3)(4, 49).ids_keep[0], first.ids_keep[0])


@pytest.mark.parametrize(
    ('fields', 'error', 'message'),
    [
        (
            dict(masking=dict(type='mmpl.RandomMasking')),
            ValueError,
            '`masking.type` RandomMasking gives each image masks',
        ),
        (dict(masking=dict(num_masks=2)), TypeError, '`masking.num_masks` is not a field of BatchMasking'),
        (dict(masking=dict(mask_ratio=0.99)), ValueError, '`mask_ratio` 0.99 leaves 0 of 64 patches visible'),
        (dict(backbone=dict(mask_ratio=0.5)), TypeError, '`backbone.mask_ratio` is not a field of MaskedSwin'),
        (dict(neck=dict(num_patches=16)), ValueError, '`neck.num_patches` must be 64, the patches of `backbone`'),
        (dict(neck=dict(with_cls_token=True)), ValueError, '`neck.with_cls_token` must be False, as `backbone`'),
        (dict(head=dict(target='feature')), TypeError, '`head` is not a field of GreenMIM'),
    ],
)
def test_refuses(fields, error, message):
    with pytest.raises(error, match=message):
        MODELS.build(tiny_cfg(GreenMIM, **fields))


def test_other_methods_refuse_its_encoder_and_it_refuses_theirs():
    with pytest.raises(ValueError, match='but `backbone.type` MaskedSwin takes all images of a batch one mask'):
        MODELS.build(SdAE.tiny() | dict(backbone=GreenMIM.tiny()['backbone']))
    with pytest.raises(ValueError, match='but `backbone.type` MaskedViT takes each image masks of its own'):
        MODELS.build(GreenMIM.tiny() | dict(backbone=SdAE.tiny()['backbone']))
