"""Assignments against plain numpy ones."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F  # noqa: N812

from mmpl.models.assignment import Centering, PseudoLabels, Sinkhorn
from tests.reference import labels as reference
from tests.test_models.helpers import LiveBytes


@pytest.fixture
def unit():
    generator = torch.Generator().manual_seed(0)
    embeddings = F.normalize(torch.randn(40, 6, generator=generator) + 1, dim=-1)
    return embeddings, F.normalize(torch.randn(9, 6, generator=generator), dim=-1)


@pytest.mark.parametrize('temperature', [0.04, 0.5])
@pytest.mark.parametrize('iters', [1, 3, 10])
def test_sinkhorn_equals_the_matrix_form(unit, temperature, iters):
    embeddings, prototypes = unit
    shift = Sinkhorn(iters)(embeddings, prototypes, temperature)
    probs = PseudoLabels(embeddings, prototypes, temperature, shift).probs()
    logits = (embeddings.double() @ prototypes.double().t()).numpy()
    np.testing.assert_allclose(probs, reference.sinkhorn(logits, temperature, iters), atol=2e-6)


@pytest.mark.parametrize('iters', [1, 3])
@pytest.mark.parametrize('chunk_size', [1, 7, 39])
def test_chunks_of_sinkhorn_equal_the_whole(unit, chunk_size, iters):
    whole, chunked = (Sinkhorn(iters, size)(*unit, 0.1) for size in (None, chunk_size))
    torch.testing.assert_close(chunked, whole, rtol=1e-5, atol=1e-5)
    assert torch.equal(Sinkhorn(iters, 40)(*unit, 0.1), whole), 'one chunk'


def test_chunks_of_sinkhorn_need_a_quarter_of_the_memory():
    generator = torch.Generator().manual_seed(0)
    embeddings, prototypes = (F.normalize(torch.randn(n, 16, generator=generator), dim=-1) for n in (1024, 4096))
    peaks = {}
    for size in (None, 128):
        with LiveBytes() as memory:
            Sinkhorn(3, size)(embeddings, prototypes, 0.1)
        peaks[size] = memory.peak
    assert peaks[None] > 4 * 1024 * 4096, 'the logits at least'
    assert peaks[128] < 0.25 * peaks[None], peaks


def test_sinkhorn_balances(unit):
    embeddings, prototypes = unit
    probs = PseudoLabels(embeddings, prototypes, 0.1, Sinkhorn(200)(embeddings, prototypes, 0.1)).probs()
    np.testing.assert_allclose(probs.mean(0), 1 / 9, atol=1e-4)


def test_centering_equals_its_formula_over_steps(unit):
    embeddings, prototypes = unit
    logits = (embeddings.double() @ prototypes.double().t()).numpy()
    centering, center = Centering(9, momentum=0.9), np.zeros(9)
    for _ in range(4):
        probs = PseudoLabels(embeddings, prototypes, 0.05, centering(embeddings, prototypes, 0.05)).probs()
        np.testing.assert_allclose(probs, reference.centering(logits, center, 0.05), atol=2e-6)
        # two halves of a batch, as gradient accumulation brings them, are one batch for the centre
        centering.observe(embeddings[:10], prototypes)
        centering.observe(embeddings[10:], prototypes)
        centering.after_step(0.5, 0)
        center = 0.9 * center + 0.1 * logits.mean(axis=0)
        np.testing.assert_allclose(centering.center, center, atol=1e-6)


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_autocast_does_not_reach_the_center(unit, dtype):
    centers = []
    for enabled in (False, True):
        centering = Centering(9)
        with torch.autocast('cpu', dtype, enabled=enabled):
            centering.observe(*unit)
            centering.after_step(0.5, 0)
        assert centering.center.dtype == torch.float32
        centers.append(centering.center)
    assert torch.equal(*centers)
    assert centers[0].abs().max() > 0


def test_nothing_seen_moves_no_center(unit):
    centering = Centering(9)
    centering.center += 1
    centering.observe(*unit)
    centering.forget()
    centering.after_step(0.5, 0)
    assert torch.equal(centering.center, torch.ones(9))


def test_a_batch_of_nan_leaves_no_trace_in_the_center(unit):
    """Also where nobody forgets it: the step was not taken, and the next one sees good embeddings."""
    centering = Centering(9, momentum=0.5)
    centering.observe(unit[0] * float('nan'), unit[1])
    centering.observe(*unit)
    centering.after_step(0.5, 0)
    assert torch.equal(centering.center, torch.zeros(9))
    centering.observe(*unit)
    centering.after_step(0.5, 0)
    torch.testing.assert_close(centering.center, 0.5 * (unit[0] @ unit[1].t()).mean(0))


@pytest.mark.parametrize('field', ['iters', 'chunk_size'])
def test_sinkhorn_refuses(field):
    with pytest.raises(ValueError, match=rf'{field}` must be an integer in \[1, inf\), but got 0'):
        Sinkhorn(**{field: 0})


def test_labels_of_rows_and_repeats(unit):
    labels = PseudoLabels(*unit, 0.1, torch.randn(9))
    torch.testing.assert_close(labels.probs(slice(5, 20)), labels.probs()[5:20])
    torch.testing.assert_close(labels.repeat(3).probs(), labels.probs().repeat_interleave(3, 0))
