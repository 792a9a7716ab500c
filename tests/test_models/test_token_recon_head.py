"""Targets and distances of the reconstruction head against plain formulas."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.nn import functional as F  # noqa: N812

from mmpl.models.codebook import OnlineCodebook
from mmpl.models.heads import TokenReconHead
from mmpl.models.masking import RandomMasking
from mmpl.models.standardise import standardise_channels


@pytest.fixture
def masks():
    return RandomMasking(num_masks=2, predict_ratio=0.5)(2, 16)


@pytest.mark.parametrize('loss', ['smooth_l1', 'l2', 'cosine'])
def test_feature_loss(masks, loss):
    head = TokenReconHead(loss=loss, embed_dims=8)
    pred, tokens = torch.randn(4, 6, 8), 3 * torch.randn(4, 6, 8) + 1
    target = head.normalise(tokens, masks)
    x = tokens.double().numpy()
    x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
    np.testing.assert_allclose(target, x, atol=1e-5)
    p = pred.double().numpy()
    gap = np.abs(p - x)
    expected = {
        'smooth_l1': np.where(gap < 1, gap**2 / 2, gap - 0.5).mean(),
        'l2': (gap**2).mean(),
        'cosine': 1 - ((p * x).sum(-1) / np.linalg.norm(p, axis=-1) / np.linalg.norm(x, axis=-1)).mean(),
    }[loss]
    assert head.loss(pred, target, masks).item() == pytest.approx(expected, rel=1e-5)


def test_batch_norm_of_targets():
    tokens = torch.randn(3, 5, 4, generator=torch.Generator().manual_seed(0)) * 5 + 2
    flat = standardise_channels(tokens).flatten(0, 1)
    reference = F.batch_norm(tokens.flatten(0, 1), None, None, training=True, eps=1e-6)
    torch.testing.assert_close(flat, reference, rtol=1e-5, atol=1e-5)


def test_position_norm_of_targets(masks):
    head, tokens = TokenReconHead(target_norm='position', embed_dims=8), 3 * torch.randn(4, 6, 8) + 1
    target = head.normalise(tokens, masks)
    for place in range(16):
        here = masks.ids_predict == place
        if here.sum() == 0:
            continue
        x = tokens[here].double().numpy()
        expected = (x - x.mean(0)) / np.sqrt(x.var(0) + 1e-6)
        np.testing.assert_allclose(target[here], expected, atol=1e-4)


def test_position_layer_norm_of_targets(masks):
    tokens = 3 * torch.randn(4, 6, 8) + 1
    placed = TokenReconHead(target_norm='position', embed_dims=8).normalise(tokens, masks).numpy()
    got = TokenReconHead(target_norm='position_layer', embed_dims=8).normalise(tokens, masks).numpy()
    spread = np.sqrt(placed.var(-1, keepdims=True) + 1e-5)
    np.testing.assert_allclose(got, (placed - placed.mean(-1, keepdims=True)) / spread, rtol=1e-4, atol=1e-5)
    assert np.abs(got - placed).max() > 0.1


def test_no_norm_leaves_targets_alone(masks):
    tokens = torch.randn(4, 6, 8)
    assert torch.equal(TokenReconHead(target_norm='none', embed_dims=8).normalise(tokens, masks), tokens)


def test_discrete_loss_is_the_cross_entropy_with_the_nearest_code(masks):
    head = TokenReconHead(target='discrete', embed_dims=8, num_codes=12).eval()
    pred, tokens = torch.randn(4, 6, 8), torch.randn(4, 6, 8)
    codes = head.targets(None, masks, SimpleNamespace(masked_features=tokens))
    similarity = F.cosine_similarity(F.layer_norm(tokens, (8,))[..., None, :], head.codebook.codes, dim=-1)
    assert torch.equal(codes, similarity.argmax(-1))
    expected = F.cross_entropy(head.classifier(pred).flatten(0, 1), codes.flatten())
    torch.testing.assert_close(head.loss(pred, codes, masks), expected)


def test_codebook_finds_clusters():
    """Eight well separated directions: after some steps every one has codes of its own, and no code is far from all."""
    generator = torch.Generator().manual_seed(1)
    centres = F.normalize(torch.randn(8, 16, generator=generator), dim=-1)
    book = OnlineCodebook(16, 16, momentum=0.9).train()
    for _ in range(60):
        tokens = centres.repeat(32, 1) + 0.02 * torch.randn(256, 16, generator=generator)
        book(tokens)
        book.after_step(0.5, 0)
    codes = book.eval()(centres)
    assert len(set(codes.tolist())) == 8
    assert (book.codes @ centres.t()).max(0).values.min() > 0.98


def test_codebook_follows_its_formula():
    book = OnlineCodebook(2, 2, momentum=0.8)
    book.MIN_SHARE = 0
    book.codes.copy_(torch.eye(2))
    book.share.fill_(0.5)
    tokens = F.normalize(torch.tensor([[1.0, 0.2], [1.0, -0.1], [0.1, 1.0]]), dim=-1)
    book.train()(tokens)
    book.after_step(0.5, 0)
    mean = F.normalize(tokens[:2].mean(0), dim=-1)
    expected = F.normalize(0.8 * torch.tensor([1.0, 0.0]) + 0.2 * mean, dim=-1)
    torch.testing.assert_close(book.codes[0], expected)
    torch.testing.assert_close(book.share, 0.8 * torch.tensor([0.5, 0.5]) + 0.2 * torch.tensor([2 / 3, 1 / 3]))


def test_codebook_that_saw_nothing_stays():
    book = OnlineCodebook(4, 3).train()
    before = book.codes.clone()
    book(torch.randn(5, 3))
    book.forget()
    book.after_step(0.5, 0)
    assert torch.equal(book.codes, before)


def test_a_batch_of_nan_leaves_no_trace_in_the_codebook():
    """Also where nobody forgets it, and whether good tokens follow it or not."""
    book = OnlineCodebook(4, 3).train()
    before = {name: value.clone() for name, value in book.state_dict().items()}
    for tokens in (torch.randn(5, 3), None):
        book(torch.full((5, 3), float('nan')))
        if tokens is not None:
            book(tokens)
        book.after_step(0.5, 0)
        assert all(torch.equal(value, before[name]) for name, value in book.state_dict().items())
    book(torch.randn(5, 3))
    book.after_step(0.5, 0)
    assert torch.isfinite(book.codes).all() and not torch.equal(book.codes, before['codes'])


@pytest.mark.parametrize(
    ('fields', 'message'),
    [
        (dict(target='tokens'), r"`head.target` must be one of \['discrete', 'feature', 'pixel'\], but got 'tokens'"),
        (dict(loss='l3'), '`head.loss` must be one of'),
        (dict(target_norm='instance'), '`head.target_norm` must be one of'),
        (dict(target_blocks=0), '`head.target_blocks`'),
        (dict(target='discrete', num_codes=1), '`head.num_codes`'),
        (dict(target='discrete', codebook_momentum=-1), '`head.codebook_momentum`'),
    ],
)
def test_refuses(fields, message):
    with pytest.raises(ValueError, match=message):
        TokenReconHead(**fields)


@pytest.mark.parametrize(
    ('fields', 'message'),
    [
        (dict(target='pixel', loss='l2'), '`head.loss` is not a field of PixelTarget: its fields are'),
        (dict(target='discrete', loss='l2'), '`head.loss` is not a field of CodebookTarget'),
        (dict(norm_pix=True), '`head.norm_pix` is not a field of FeatureTarget'),
        (
            dict(target_blcks=2),
            '`head.target_blcks` is not a field of FeatureTarget: did you mean `head.target_bl',
        ),
    ],
)
def test_refuses_fields_of_other_targets(fields, message):
    with pytest.raises(TypeError, match=message):
        TokenReconHead(**fields)
