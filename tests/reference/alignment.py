"""Alignment losses in plain numpy, in float64, one token at a time."""

import numpy as np


def unit(x: np.ndarray) -> np.ndarray:
    """Unit vectors along the last axis."""
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def infonce(pred: np.ndarray, target: np.ndarray, rows, temperature: float) -> np.ndarray:
    """For each of the predictions: minus log of the share of its own target, ``rows``, among all (MoCo, equation 1)."""
    losses = []
    for token, row in zip(unit(pred), rows, strict=True):
        scores = [float(token @ other) / temperature for other in unit(target)]
        top = max(scores)
        losses.append(top + np.log(sum(np.exp(score - top) for score in scores)) - scores[row])
    return np.array(losses)


def cosine(pred: np.ndarray, target: np.ndarray, rows) -> np.ndarray:
    """1 minus the cosine of each prediction with its own target."""
    return np.array([1 - token @ unit(target[row]) for token, row in zip(unit(pred), rows, strict=True)])
