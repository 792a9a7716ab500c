"""The alignment head against plain numpy."""

import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F  # noqa: N812

from mmpl.models.heads import AlignHead, AlignStats
from tests.reference import alignment as reference

pytestmark = pytest.mark.smoke
ROWS = [0, 0, 3, 2, 1, 4, 4, 2, 0]


def make(seed=0, **kwargs) -> AlignHead:
    torch.manual_seed(seed)
    head = AlignHead(**{**dict(in_dims=12, loss='infonce', hidden_dims=16, out_dims=6), **kwargs})
    head.init_weights()
    for parameter in head.parameters():
        parameter.data += 0.3 * torch.randn_like(parameter)
    return head


def tokens_of(seed, count):
    return torch.randn(count, 12, generator=torch.Generator().manual_seed(seed))


def mlp(layers, x):
    """Linear layers with GELU between them, in numpy and float64."""
    erf = np.vectorize(math.erf)
    linears = [layer for layer in layers if isinstance(layer, torch.nn.Linear)]
    for index, layer in enumerate(linears):
        x = x if index == 0 else x * 0.5 * (1 + erf(x / math.sqrt(2)))
        x = x.astype(np.float64) @ layer.weight.detach().double().numpy().T + layer.bias.detach().double().numpy()
    return x


def embeddings(student, teacher, tokens, seen):
    """Of both, before they are brought to unit length."""
    both = mlp(student.predictor, mlp(student.projector, tokens)), mlp(teacher.projector, seen.numpy())
    if student.norm == 'batch':
        return tuple((x - x.mean(0)) / np.sqrt(x.var(0) + 1e-6) for x in both)
    return both


def per_token(student, teacher, tokens, seen):
    pred, target = embeddings(student, teacher, tokens, seen)
    if student.loss_type == 'infonce':
        return reference.infonce(pred, target, ROWS, student.temperature)
    return reference.cosine(pred, target, ROWS)


@pytest.mark.parametrize('kept', [None, [1, 1, 0, 1, 0, 0, 1, 1, 0]])
@pytest.mark.parametrize(
    'fields', [dict(), dict(temperature=0.05, num_layers=3), dict(loss='cosine', num_layers=1), dict(norm='batch')]
)
def test_loss_equals_the_reference(fields, kept):
    student, teacher = make(0, **fields), make(1, **fields)
    tokens, seen = tokens_of(2, 9), tokens_of(3, 5)
    keep = None if kept is None else torch.tensor(kept, dtype=torch.bool)
    loss, stats = student.loss(tokens, teacher.embed(seen), torch.tensor(ROWS), keep, with_stats=True)
    losses = per_token(student, teacher, tokens.numpy(), seen)
    weights = np.ones(9) if kept is None else np.array(kept)
    assert loss.item() == pytest.approx((losses * weights).sum() / weights.sum(), rel=1e-5)

    pred, target = map(reference.unit, embeddings(student, teacher, tokens.numpy(), seen))
    figures = stats.figures()
    assert figures['cosine'] == pytest.approx((weights * (pred * target[ROWS]).sum(1)).sum() / weights.sum(), rel=1e-5)
    mean = (weights[:, None] * target[ROWS]).sum(0) / weights.sum()
    assert figures['spread'] == pytest.approx(1 - (mean**2).sum(), rel=1e-5)
    if student.loss_type == 'infonce':
        right = (pred @ target.T).argmax(1) == ROWS
        assert figures['agreement'] == pytest.approx((right * weights).sum() / weights.sum())
    else:
        assert 'agreement' not in figures


@pytest.mark.parametrize('loss', ['infonce', 'cosine'])
def test_gradient_by_finite_differences_of_the_reference(loss):
    student, teacher = make(0, loss=loss), make(1)
    tokens, seen = tokens_of(2, 9).requires_grad_(), tokens_of(3, 5)
    keep = torch.tensor([1, 1, 0, 1, 1, 1, 1, 1, 0], dtype=torch.bool)
    loss_value, _ = student.loss(tokens, teacher.embed(seen), torch.tensor(ROWS), keep)
    (gradient,) = torch.autograd.grad(loss_value, tokens)
    for seed in range(3):
        direction = np.random.default_rng(seed).normal(size=(9, 12))
        up, down = (
            per_token(student, teacher, tokens.detach().numpy() + step * direction, seen)[keep.numpy()].mean()
            for step in (1e-5, -1e-5)
        )
        assert (gradient.numpy() * direction).sum() == pytest.approx((up - down) / 2e-5, rel=1e-3, abs=1e-5)
    assert not gradient[~keep].any(), 'a token without a counterpart learns nothing'


def test_equals_cross_entropy_of_torch():
    student = make()
    tokens, target = tokens_of(2, 9), F.normalize(tokens_of(3, 5)[:, :6], dim=-1)
    rows = torch.tensor(ROWS)
    expected = F.cross_entropy(student(tokens) @ target.t() / 0.2, rows)
    torch.testing.assert_close(student.loss(tokens, target, rows)[0], expected)


@pytest.mark.parametrize('loss', ['infonce', 'cosine'])
def test_nothing_to_align(loss):
    student = make(loss=loss)
    tokens = tokens_of(0, 9).requires_grad_()
    target = F.normalize(tokens_of(3, 5)[:, :6], dim=-1)
    value, stats = student.loss(tokens, target, torch.tensor(ROWS), torch.zeros(9, dtype=torch.bool), True)
    value.backward()
    assert value.item() == 0
    assert all(parameter.grad is not None and not parameter.grad.any() for parameter in student.parameters())
    assert stats.figures() == {}


def test_spread_tells_a_collapse():
    same = torch.ones(6) / 6**0.5
    stats = AlignStats(torch.tensor(4.0), torch.tensor(2.0), torch.tensor(1.0), 4 * same)
    assert stats.figures() == pytest.approx(dict(cosine=0.5, agreement=0.25, spread=0), abs=1e-6)
    stats = stats._replace(mean=torch.zeros(6))
    assert stats.figures()['spread'] == 1


def test_under_autocast_the_loss_stays_in_fp32():
    head = make()
    with torch.autocast('cpu', torch.bfloat16):
        target = head.embed(torch.randn(5, 12))
        loss, _ = head.loss(torch.randn(9, 12), target, torch.tensor(ROWS))
    assert target.dtype == loss.dtype == torch.float32


def test_initialisation_keeps_the_variance():
    torch.manual_seed(0)
    head = AlignHead(512, 'cosine', hidden_dims=2048, out_dims=512)
    head.init_weights()
    out = head.projector[0](torch.randn(256, 512))
    assert 0.7 < out.std().item() < 1.1
    assert all(not module.bias.any() for module in head.modules() if isinstance(module, torch.nn.Linear))


@pytest.mark.parametrize(
    ('fields', 'message'),
    [
        (dict(loss='l2'), r"`align_head.loss` must be one of \['cosine', 'infonce'\], but got 'l2'"),
        (dict(num_layers=0), r'`align_head.num_layers` must be an integer in \[1, inf\), but got 0'),
        (dict(hidden_dims=0), '`align_head.hidden_dims`'),
        (dict(out_dims=0), '`align_head.out_dims`'),
        (dict(norm='layer'), r"`align_head.norm` must be one of \['batch', 'none'\], but got 'layer'"),
        (dict(temperature=0), r'`align_head.temperature` must be a number in \(0, inf\), but got 0'),
    ],
)
def test_refuses(fields, message):
    with pytest.raises(ValueError, match=message):
        make(**fields)


def test_refuses_rows_that_do_not_fit():
    head = make()
    target = F.normalize(tokens_of(3, 5)[:, :6], dim=-1)
    with pytest.raises(ValueError, match=r'`rows` must have one entry for each of the 8 tokens, .* shape \(9,\)'):
        head.loss(tokens_of(0, 8), target, torch.tensor(ROWS))
    with pytest.raises(ValueError, match='`keep` must have one entry'):
        head.loss(tokens_of(0, 9), target, torch.tensor(ROWS), torch.ones(8, dtype=torch.bool))
