"""Assignments and the labelling loss, written from the papers' formulas in numpy."""

import numpy as np


def softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def centering(logits: np.ndarray, center: np.ndarray, temperature: float) -> np.ndarray:
    return softmax((logits - center) / temperature)


def sinkhorn(logits: np.ndarray, temperature: float, iters: int) -> np.ndarray:
    """The matrix form: normalise the prototypes' rows, then the samples' columns, again and again."""
    q = np.exp(logits / temperature).T
    q /= q.sum()
    k, b = q.shape
    for _ in range(iters):
        q /= q.sum(axis=1, keepdims=True)
        q /= k
        q /= q.sum(axis=0, keepdims=True)
        q /= b
    return (q * b).T


def cross_entropy(probs: np.ndarray, logits: np.ndarray, temperature: float) -> float:
    return float(-(probs * np.log(softmax(logits / temperature))).sum(axis=1).mean())
