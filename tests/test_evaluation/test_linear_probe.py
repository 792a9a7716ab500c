"""The linear probe against scikit-learn used by hand, and in cases with a known answer."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split

from mmpl.evaluation import linear_probe


def make(seed=0, noise=1.5, train=200, val=100, width=12):
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(4, width))
    labels, truth = rng.integers(0, 4, train), rng.integers(0, 4, val)
    scale = np.exp(rng.normal(size=width) * 2)
    x = (centres[labels] + noise * rng.normal(size=(train, width))) * scale + 5
    y = (centres[truth] + noise * rng.normal(size=(val, width))) * scale + 5
    return x, labels, y, truth


def tensors(arrays):
    return [torch.tensor(array) for array in arrays]


@pytest.mark.parametrize('c', [0.001, 0.1, 10.0])
def test_equals_sklearn_by_hand(c):
    x, labels, y, truth = data = make()
    mean, std = x.mean(0), x.std(0)
    model = LogisticRegression(C=c, max_iter=1000).fit((x - mean) / std, labels)
    expected = model.predict((y - mean) / std)
    result = linear_probe(*tensors(data), C=c)
    assert result.predictions.tolist() == expected.tolist()
    assert result.accuracy == pytest.approx(100 * np.mean(expected == truth))
    assert result.C == c and result.converged and result.holdout_accuracy == {}


def test_separable_is_perfect_and_shuffled_is_chance():
    x, labels, y, truth = make(noise=0.05)
    assert linear_probe(*tensors((x, labels, y, truth))).accuracy == 100
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(2000, 8)), rng.normal(size=(2000, 8))
    labels, truth = rng.integers(0, 4, 2000), rng.integers(0, 4, 2000)
    # chance is 25 %, with a standard deviation of 0.97 points
    assert linear_probe(*tensors((x, labels, y, truth))).accuracy == pytest.approx(25, abs=5)


def test_c_is_chosen_on_training_data_only():
    x, labels, y, truth = make(noise=3.0, train=120, width=40)
    candidates = [100.0, 1e-4, 0.01]
    result = linear_probe(*tensors((x, labels, y, truth)), C=candidates, seed=3)
    fit_x, out_x, fit_y, out_y = train_test_split(x, labels, test_size=0.2, random_state=3, stratify=labels)
    mean, std = fit_x.mean(0), fit_x.std(0)
    expected = {}
    for c in sorted(candidates):
        model = LogisticRegression(C=c, max_iter=1000).fit((fit_x - mean) / std, fit_y)
        expected[c] = 100 * model.score((out_x - mean) / std, out_y)
    assert result.holdout_accuracy == pytest.approx(expected)
    assert result.C == max(sorted(candidates), key=lambda c: expected[c])
    # wrong validation labels must not move the choice
    other = linear_probe(*tensors((x, labels, y, (truth + 1) % 4)), C=candidates, seed=3)
    assert other.C == result.C and other.predictions.tolist() == result.predictions.tolist()
    # and the final classifier learns from all training features
    assert result.predictions.tolist() == linear_probe(*tensors((x, labels, y, truth)), C=result.C).predictions.tolist()


def test_says_when_it_did_not_converge():
    assert not linear_probe(*tensors(make()), C=1e4, max_iter=2).converged


def test_class_without_training_images_counts_as_error():
    x, labels, y, truth = make(noise=0.05)
    truth = truth.copy()
    truth[:10] = 17
    assert linear_probe(*tensors((x, labels, y, truth))).accuracy == 90


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (dict(C=0), r'`C` must be a number in \(0, inf\), but got 0'),
        (dict(C=[1.0, -2.0]), r'`C` must be a number in \(0, inf\), but got -2'),
        (dict(C=[]), r'`C` must name at least one'),
        (dict(holdout=1.0), r'`holdout` must be a number in \(0, 1\), but got 1.0'),
        (dict(max_iter=0), r'`max_iter` must be an integer in \[1, inf\), but got 0'),
        (dict(tol=0), r'`tol` must be a number in \(0, inf\), but got 0'),
        (dict(train_labels=torch.zeros(10, dtype=torch.long)), r'`train_labels` must hold at least 2 classes'),
        (dict(train_features=torch.full((10, 4), float('nan'))), r'`train_features` must be finite'),
        (dict(val_features=torch.ones(6, 5)), r'`val_features` must have the width'),
        (dict(val_labels=torch.zeros(7, dtype=torch.long)), r'`val_labels` must have one class index per row'),
    ],
)
def test_refuses(change, message):
    options = dict(
        train_features=torch.ones(10, 4),
        train_labels=torch.arange(10) % 2,
        val_features=torch.ones(6, 4),
        val_labels=torch.zeros(6, dtype=torch.long),
    )
    with pytest.raises((ValueError, TypeError), match=message):
        linear_probe(**(options | change))
