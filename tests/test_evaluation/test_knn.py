"""kNN against a brute-force numpy reference, tie rules and refusals."""

import numpy as np
import pytest
import torch

from mmpl.evaluation import knn_accuracy, knn_predict


def reference(bank, labels, queries, k, temperature):
    """Wu et al. 2018, section 3.4, one query at a time."""
    bank = bank / np.linalg.norm(bank, axis=1, keepdims=True)
    predictions = []
    for query in queries / np.linalg.norm(queries, axis=1, keepdims=True):
        similarity = [float(np.dot(row, query)) for row in bank]
        nearest = sorted(range(len(bank)), key=lambda index: -similarity[index])[:k]
        votes = {}
        for index in nearest:
            votes[labels[index]] = votes.get(labels[index], 0.0) + np.exp(similarity[index] / temperature)
        predictions.append(max(votes, key=votes.get))
    return predictions


@pytest.fixture(scope='module')
def data():
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(5, 8))
    labels, truth = rng.integers(0, 5, 120), rng.integers(0, 5, 50)
    bank = centres[labels] + 1.5 * rng.normal(size=(120, 8))
    queries = centres[truth] + 1.5 * rng.normal(size=(50, 8))
    return bank, labels, queries, truth


@pytest.mark.parametrize('temperature', [0.01, 0.07, 1.0, 1e-4])
@pytest.mark.parametrize('k', [1, 5, 20, 120])
@pytest.mark.parametrize('chunks', [(1, 1), (7, 13), (512, 16384)])
def test_equals_brute_force(data, k, temperature, chunks):
    bank, labels, queries, truth = data
    if temperature == 1e-4:
        # exp(similarity / 1e-4) overflows in the reference: the nearest neighbour alone decides
        expected = reference(bank, labels, queries, 1, 1.0)
    else:
        expected = reference(bank, labels, queries, k, temperature)
    args = (torch.tensor(bank), torch.tensor(labels), torch.tensor(queries))
    found = knn_predict(*args, k=k, temperature=temperature, query_chunk=chunks[0], bank_chunk=chunks[1])[k]
    assert found.tolist() == expected
    accuracy = knn_accuracy(*args, torch.tensor(truth), k=k, temperature=temperature)[k]
    assert accuracy == pytest.approx(100 * np.mean(np.array(expected) == truth), abs=1e-9)


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_dtypes(data, dtype):
    bank, queries = torch.tensor(data[0]).to(dtype), torch.tensor(data[2]).to(dtype)
    expected = reference(bank.double().numpy(), data[1], queries.double().numpy(), 10, 0.07)
    found = knn_predict(bank, torch.tensor(data[1]), queries, k=10)[10]
    assert found.tolist() == expected


def test_several_k_cost_one_search_and_change_nothing(data):
    args = (torch.tensor(data[0]), torch.tensor(data[1]), torch.tensor(data[2]))
    together = knn_predict(*args, k=[20, 1, 5])
    assert list(together) == [20, 1, 5]
    for k, found in together.items():
        assert torch.equal(found, knn_predict(*args, k=k)[k])


def test_scale_of_features_does_not_matter(data):
    bank, labels, queries = (torch.tensor(part) for part in data[:3])
    scale = torch.rand(len(bank), 1, dtype=torch.float64) * 100 + 0.01
    assert torch.equal(knn_predict(bank * scale, labels, queries * 7)[20], knn_predict(bank, labels, queries)[20])


@pytest.mark.parametrize('bank_chunk', [1, 2, 3, 100])
def test_ties_go_to_the_lower_bank_index_and_the_lower_class(bank_chunk):
    torch.manual_seed(0)
    row = torch.randn(1, 37)
    # All bank features are alike. k=2 cuts the tie: indices 0 and 1 are nearest, so class 3 wins although
    # class 1 has most members.
    labels = torch.tensor([3, 3, 1, 1, 1, 1])
    bank = row.repeat(6, 1)
    found = knn_predict(bank, labels, row.repeat(5, 1), k=[2, 4, 6], bank_chunk=bank_chunk)
    assert found[2].tolist() == [3] * 5
    assert found[4].tolist() == [1] * 5  # 2 against 2 votes: the lower class
    assert found[6].tolist() == [1] * 5


def test_chunks_change_nothing_when_features_repeat():
    generator = torch.Generator().manual_seed(0)
    bank = torch.randn(40, 19, generator=generator).repeat(5, 1)[torch.randperm(200, generator=generator)]
    labels = torch.randint(0, 7, (200,), generator=generator)
    queries = torch.randn(64, 19, generator=generator)
    expected = knn_predict(bank, labels, queries, k=[3, 9, 31])
    for query_chunk, bank_chunk in [(1, 200), (3, 17), (64, 1), (5, 64)]:
        found = knn_predict(bank, labels, queries, k=[3, 9, 31], query_chunk=query_chunk, bank_chunk=bank_chunk)
        assert all(torch.equal(found[k], expected[k]) for k in expected)


def test_unknown_class_is_an_error_not_a_crash():
    bank = torch.eye(3)
    assert knn_accuracy(bank, torch.tensor([0, 1, 2]), bank, torch.tensor([0, 1, 9]), k=1)[1] == pytest.approx(200 / 3)


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (dict(k=0), r'`k` must be an integer in \[1, inf\), but got 0'),
        (dict(k=[5, -1]), r'`k` must be an integer in \[1, inf\), but got -1'),
        (dict(k=2.5), r'`k` must be an integer in \[1, inf\), but got 2.5'),
        (dict(k=[]), r'`k` must name each number of neighbours once, but got \[\]'),
        (dict(k=11), r'`k` must not exceed the number of bank features \(10\), but got 11'),
        (dict(temperature=0.0), r'`temperature` must be a number in \(0, inf\), but got 0.0'),
        (dict(temperature=-1.0), r'`temperature` must be a number in \(0, inf\), but got -1.0'),
        (dict(temperature=float('nan')), r'`temperature` must be a number in \(0, inf\), but got nan'),
        (dict(train_features=torch.zeros(0, 4)), r'`train_features` must hold at least one'),
        (dict(val_features=torch.zeros(0, 4)), r'`val_features` must hold at least one'),
        (dict(train_features=torch.full((10, 4), float('nan'))), r'`train_features` must be finite, but 10 of 10'),
        (dict(val_features=torch.full((6, 4), float('inf'))), r'`val_features` must be finite'),
        (dict(train_labels=torch.zeros(9, dtype=torch.long)), r'`train_labels` must have one class index per row'),
        (dict(val_labels=torch.zeros(7, dtype=torch.long)), r'`val_labels` must have one class index per row'),
        (dict(train_labels=torch.full((10,), -1)), r'`train_labels` must be class indices >= 0, but got -1'),
        (dict(train_labels=torch.zeros(10)), r'`train_labels` must be an integer tensor'),
        (dict(val_features=torch.ones(6, 5)), r'must have the width of `train_features` \(4\), but got 5'),
        (dict(train_features=torch.ones(10, 4, dtype=torch.long)), r'`train_features` must be a floating-point'),
        (dict(query_chunk=0), r'`query_chunk` must be an integer in \[1, inf\), but got 0'),
        (dict(bank_chunk=0), r'`bank_chunk` must be an integer in \[1, inf\), but got 0'),
        (dict(bank_chunks=1), r'`bank_chunks` is not a field of knn_predict: did you mean `bank_chunk`'),
    ],
)
def test_refuses(change, message):
    options = dict(
        train_features=torch.ones(10, 4),
        train_labels=torch.zeros(10, dtype=torch.long),
        val_features=torch.ones(6, 4),
        val_labels=torch.zeros(6, dtype=torch.long),
        k=3,
    )
    with pytest.raises((ValueError, TypeError), match=message):
        knn_accuracy(**(options | change))
