"""MixedAE: who is mixed where, homologous attention and the losses, each against loops; and what is refused."""

import copy
import itertools
import math

import pytest
import torch
from mmengine.registry import MODELS
from torch.nn import functional as F  # noqa: N812

from mmpl.engine.hooks.compile_hook import compile_blocks
from mmpl.methods import MixedAE
from mmpl.methods.mixed_ae import GroupMixing, HomologousContrastHead, homologous_attention
from tests.test_models.helpers import scramble, tiny_cfg


def build(**fields):
    torch.manual_seed(0)
    model = MODELS.build(tiny_cfg(MixedAE, **fields))
    model.init_weights()
    model.attach_updater('the test')
    scramble(model)
    return model.train()


# ---------------------------------------------------------------------- mixing


def sources(masks, group_size: int) -> torch.Tensor:
    """Which image of its group each place of a mixed image shows, (groups, R, N), place by place; -1: none."""
    groups = len(masks.ids_keep) // group_size // masks.num_masks
    shown = torch.full((groups, masks.num_masks, masks.num_patches), -1)
    for row, ids in enumerate(masks.ids_keep.tolist()):
        image, mixed = divmod(row, masks.num_masks)
        for place in ids:
            assert shown[image // group_size, mixed, place] == -1, 'two images at one place'
            shown[image // group_size, mixed, place] = image % group_size
    return shown


@pytest.mark.parametrize(('group_size', 'num_masks'), [(4, 1), (4, 4), (4, 3), (2, 2), (16, 16)])
def test_every_place_shows_one_image_and_every_image_as_often(group_size, num_masks):
    mixing = GroupMixing(group_size=group_size, num_masks=num_masks)
    masks = mixing(3 * group_size, 16)
    shown = sources(masks, group_size)
    assert shown.shape == (3, num_masks, 16)
    for row in shown.flatten(0, 1):
        assert row.bincount(minlength=group_size).tolist() == [16 // group_size] * group_size
    assert group_size == 16 or not torch.equal(shown[0, 0], shown[1, 0]), 'groups have sources of their own'
    for group, place in itertools.product(range(3), range(16)):
        assert len(set(shown[group, :, place].tolist())) == num_masks, 'no patch of an image is used twice'
        if num_masks == group_size:
            assert sorted(shown[group, :, place].tolist()) == list(range(group_size)), 'and each is used'


def test_the_masks_say_what_is_shown_and_what_is_not():
    masks = GroupMixing(group_size=4, num_masks=4)(8, 16)
    for keep, masked, predict, restore in zip(
        masks.ids_keep, masks.ids_masked, masks.ids_predict, masks.ids_restore, strict=True
    ):
        assert sorted([*keep.tolist(), *masked.tolist()]) == list(range(16))
        assert torch.equal(masked, predict) and torch.equal(torch.cat((keep, masked))[restore], torch.arange(16))


def test_each_place_shows_each_image_equally_often():
    """Of 2,000 groups a place shows an image 500 +- 97 times with five standard deviations."""
    shown = sources(GroupMixing(group_size=4)(8000, 16), 4)[:, 0]
    counts = torch.stack([(shown == source).sum(0) for source in range(4)])
    assert (counts - 500).abs().max() <= 97 and counts.min() < counts.max()


@pytest.mark.parametrize('num_masks', [1, 3, 4])
def test_mixed_images_are_put_together_and_taken_apart(num_masks):
    """Tokens that say from which image and place they are, looked up one by one."""
    mixing = GroupMixing(group_size=4, num_masks=num_masks)
    masks = mixing(8, 16)
    images = torch.arange(8 * num_masks) // num_masks
    tokens = torch.stack((images[:, None].expand(-1, 4), masks.ids_keep), dim=-1)  # (B·R, V, 2)
    mixed = mixing.mix(tokens)
    assert mixed.shape == (2 * num_masks, 16, 2)
    shown = sources(masks, 4)
    for row, patches in enumerate(mixed.tolist()):
        group, r = divmod(row, num_masks)
        assert sorted(place for _, place in patches) == list(range(16))
        for index, (image, place) in enumerate(patches):
            assert image - 4 * group == shown[group, r, place] == index // 4
    cls_token = torch.arange(2 * num_masks).view(-1, 1, 1).expand(-1, 1, 2)
    apart = mixing.unmix(torch.cat((cls_token, mixed), dim=1))
    assert torch.equal(apart[:, 1:], tokens)
    for row, cls in enumerate(apart[:, 0, 0].tolist()):
        image, r = divmod(row, num_masks)
        assert cls == image // 4 * num_masks + r


def test_draws_follow_from_seed_step_and_place_in_the_joint_batch(monkeypatch):
    def ids(seed=0, images=8, steps=1):
        mixing = GroupMixing(group_size=4, num_masks=2, seed=seed)
        return [mixing(images, 16).ids_keep for _ in range(steps)][-1]

    assert torch.equal(ids(), ids())
    assert not torch.equal(ids(), ids(seed=1)) and not torch.equal(ids(), ids(steps=2))
    mixing = GroupMixing(group_size=4, num_masks=2)
    first, second = (mixing(8, 16).ids_keep for _ in range(2))
    mixing.rewind(1)
    assert torch.equal(mixing(8, 16).ids_keep, second) and not torch.equal(first, second)
    joint = ids(images=8)
    monkeypatch.setattr('mmpl.models.masking.get_rank', lambda: 1)
    assert torch.equal(ids(images=4), joint[8:]), 'the second process has the second group'


# ---------------------------------------------------------------------- attention


def dense(query, key, value, num_kept):
    """Softmax over the class token and the best patches, query by query."""
    out = torch.zeros_like(value)
    for b, h, i in itertools.product(*(range(size) for size in query.shape[:3])):
        logits = (key[b, h] @ query[b, h, i]) / math.sqrt(query.shape[-1])
        best = sorted(range(1, len(logits)), key=lambda j: -logits[j].item())[:num_kept]  # noqa: B023
        kept = [0, *best]
        weights = logits[kept].exp() / logits[kept].exp().sum()
        out[b, h, i] = weights @ value[b, h, kept]
    return out


@pytest.mark.parametrize('num_kept', [1, 3, 8])
def test_homologous_attention_equals_dense_attention_to_what_is_kept(num_kept):
    generator = torch.Generator().manual_seed(0)
    inputs = [torch.randn(2, 2, 9, 4, generator=generator, dtype=torch.float64) for _ in range(4)]
    results = []
    for attend in (
        lambda q, k, v: homologous_attention(q, k, v, num_kept=num_kept),
        lambda *qkv: dense(*qkv, num_kept),
    ):
        q, k, v = (x.clone().requires_grad_() for x in inputs[:3])
        out = attend(q, k, v)
        (out * inputs[3]).sum().backward()
        results.append((out.detach(), q.grad, k.grad, v.grad))
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs)
        assert theirs.abs().max() > 0.01
    everything = F.scaled_dot_product_attention(*inputs[:3])
    assert torch.allclose(results[0][0], everything) == (num_kept == 8), 'all 8 patches: plain attention'


def test_only_the_blocks_that_are_named_have_it(monkeypatch):
    calls = []

    def counted(query, key, value, dropout_p=0.0, *, num_kept):
        calls.append((tuple(query.shape), num_kept))
        return homologous_attention(query, key, value, dropout_p, num_kept=num_kept)

    monkeypatch.setattr('mmpl.methods.mixed_ae.homologous_attention', counted)
    for first in range(4):
        calls.clear()
        model = build(homologous_from=first)
        model(torch.randn(4, 3, 16, 16), mode='loss')
        assert calls == [((2, 4, 17, 8), 4)] * (3 - first)
        calls.clear()
        model.backbone(torch.randn(4, 3, 16, 16))
        assert calls == [], 'features have plain attention'


@pytest.mark.parametrize('how', ['with_cp', 'compiled'])
def test_recomputed_and_compiled_blocks_keep_it(how):
    images, losses = torch.randn(4, 3, 16, 16), []
    for special in (False, True):
        model = build(backbone=dict(with_cp=special and how == 'with_cp'))
        if special and how == 'compiled':
            compile_blocks(model, backend='eager', dynamic=False)
        loss = sum(model(images, mode='loss').values())
        loss.backward()
        losses.append([loss.detach(), *(p.grad for p in model.parameters() if p.requires_grad)])
    for plain, other in zip(*losses, strict=True):
        torch.testing.assert_close(plain, other, rtol=1e-5, atol=1e-6)


# ---------------------------------------------------------------------- losses


@pytest.mark.parametrize('num_masks', [1, 4])
def test_reconstruction_equals_a_loop_over_images_and_patches(num_masks):
    """Mixed images are made of pixels here, and encoded with their patches in order of place."""
    model = build(masking=dict(num_masks=num_masks))
    images = torch.randn(8, 3, 16, 16)
    masks = copy.deepcopy(model.masking)(8, 16)
    loss = model(images, mode='loss')['loss_recon']
    shown, total = sources(masks, 4), []

    def patch(image, place):
        y, x = divmod(place, 4)
        return image[:, 4 * y : 4 * y + 4, 4 * x : 4 * x + 4]

    for group, r in itertools.product(range(2), range(num_masks)):
        members, source = images[4 * group : 4 * group + 4], shown[group, r].tolist()
        picture = torch.zeros(3, 16, 16)
        for place in range(16):
            patch(picture, place).copy_(patch(members[source[place]], place))
        embedded = model.backbone.embed(picture[None]) + model.segment_embed[source]
        tokens = model.backbone.transform(embedded, attentions=model.attentions)[0][0]
        for number, image in enumerate(members):
            own = [place for place in range(16) if source[place] == number]
            x = model.neck.mask_token[0].repeat(17, 1)
            x[[0] + [1 + place for place in own]] = model.neck.decoder_embed(tokens[[0] + [1 + place for place in own]])
            x = (x + model.neck.decoder_pos_embed[0])[None]
            for block in model.neck.decoder_blocks:
                x = block(x)
            pred = model.neck.decoder_pred(model.neck.decoder_norm(x))[0, 1:]
            for place in set(range(16)) - set(own):
                pixels = patch(image, place).permute(1, 2, 0).flatten()  # row, column, channel
                target = (pixels - pixels.mean()) / (pixels.var() + 1e-6).sqrt()
                total.append((pred[place] - target).square().mean())
    assert len(total) == 8 * num_masks * 12
    torch.testing.assert_close(loss, torch.stack(total).mean(), rtol=1e-4, atol=1e-5)


def test_the_contrastive_loss_equals_a_double_loop():
    head = HomologousContrastHead(6, hidden_dims=8, out_dims=5, temperature=0.25)
    scramble(head, std=0.5)
    tokens = torch.randn(2, 12, 6)  # three sources of four
    loss, figures = head.loss(tokens, 3, with_figures=True)
    losses, right = [], []
    for mixed in tokens:
        z = head.projector(mixed).double()
        z = z / z.norm(dim=1, keepdim=True)
        for i in range(12):
            others = [j for j in range(12) if j != i]
            total = sum((z[i] @ z[j] / 0.25).exp() for j in others)
            positives = [j for j in others if j // 4 == i // 4]
            losses.append(-sum(((z[i] @ z[j] / 0.25).exp() / total).log() for j in positives) / len(positives))
            right.append(max(others, key=lambda j: (z[i] @ z[j]).item()) // 4 == i // 4)  # noqa: B023
    torch.testing.assert_close(loss.double(), torch.stack(losses).mean(), rtol=1e-5, atol=1e-6)
    assert figures['recognised'].item() == pytest.approx(sum(right) / 24)
    assert head.loss(tokens, 3)[1] == {}


def test_the_contrastive_loss_has_its_weight_or_is_left_out():
    images = torch.randn(4, 3, 16, 16)
    losses = {weight: build(loss_weights=dict(contrast=weight))(images, mode='loss') for weight in (0.0, 0.1, 1.0)}
    given = build()(images, mode='loss')
    assert (
        set(losses[0.0]) == {'loss_recon'} and 'contrast_recognised' not in build(loss_weights=dict(contrast=0)).figures
    )
    torch.testing.assert_close(losses[0.1]['loss_contrast'], 0.1 * losses[1.0]['loss_contrast'])
    torch.testing.assert_close(given, losses[0.1])


def test_the_encoder_alone_is_an_ordinary_one():
    """Also after steps with mixed images: no key and no attention of the mixing is left in it."""
    model, images = build(), torch.randn(4, 3, 16, 16)
    model(images, mode='loss')
    plain = MODELS.build(dict(model.tiny()['backbone']))
    plain.load_state_dict(model.backbone.state_dict())
    assert torch.equal(model.backbone.encode(images)[0], plain.encode(images)[0])


# ---------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ('fields', 'error', 'message'),
    [
        (dict(masking=dict(group_size=1)), ValueError, r'`masking.group_size` must be an integer in \[2, inf\)'),
        (dict(masking=dict(group_size=3)), ValueError, '`masking.group_size` must divide the 16 patches .* but got 3'),
        (dict(masking=dict(group_size=32)), ValueError, '`masking.group_size` must divide the 16 patches .* got 32'),
        (dict(masking=dict(num_masks=5)), ValueError, r'`masking.num_masks` must be an integer in \[1, 4\], but got 5'),
        (dict(masking=dict(mask_ratio=0.75)), TypeError, '`masking.mask_ratio` is not a field of GroupMixing'),
        (dict(masking=dict(group_size=16)), ValueError, '`masking.group_size` must leave an image at least two'),
        (dict(homologous_from=4), ValueError, r'`homologous_from` must be an integer in \[0, 3\], but got 4'),
        (dict(head=dict(target='feature')), ValueError, "`head.target` must be 'pixel' in MixedAE"),
        (dict(contrast_head=dict(temperature=0)), ValueError, r'`contrast_head.temperature` must be a number in \(0'),
        (
            dict(loss_weights=dict(contrast=0), contrast_head=dict(temperature=0)),
            ValueError,
            r'`contrast_head.temperature` must be a number in \(0',
        ),
        (dict(contrast_head=dict(in_dims=8)), ValueError, '`contrast_head.in_dims` must be 32'),
    ],
)
def test_refuses(fields, error, message):
    with pytest.raises(error, match=message):
        MODELS.build(tiny_cfg(MixedAE, **fields))


def test_refuses_masks_that_mix_nothing():
    cfg = tiny_cfg(MixedAE) | dict(masking=dict(type='mmpl.RandomMasking'))
    with pytest.raises(ValueError, match='`masking.type` must be mmpl.GroupMixing, but got RandomMasking'):
        MODELS.build(cfg)


def test_a_batch_of_no_whole_groups_is_refused_and_draws_nothing():
    model = build()
    with pytest.raises(ValueError, match=r'`masking.group_size` is 4, but there are 6 images in the batch .*drop_last'):
        model(torch.randn(6, 3, 16, 16), mode='loss')
    assert model.masking.step == 0
