"""Linear probe of frozen features: multinomial logistic regression, solved to convergence."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from .knn import check_features

__all__ = ['LinearProbeResult', 'check_probe_options', 'linear_probe']


@dataclass(frozen=True)
class LinearProbeResult:
    """What a linear probe found.

    Attributes:
        accuracy: Top-1 accuracy on the validation features, in percent.
        predictions: (Q,) predicted class indices.
        C: The regularisation that was used.
        holdout_accuracy: Percent on the held-out part of the training features, for each candidate C; empty if there
            was nothing to choose.
        converged: Whether the solver reached its tolerance.
    """

    accuracy: float
    predictions: np.ndarray
    C: float
    holdout_accuracy: dict[float, float]
    converged: bool


def check_probe_options(C: float | Sequence[float], holdout: float, max_iter: int, tol: float) -> list[float]:
    """Check the options of :func:`linear_probe` and return the candidates for C.

    Args:
        C: As in :func:`linear_probe`.
        holdout: As in :func:`linear_probe`.
        max_iter: As in :func:`linear_probe`.
        tol: As in :func:`linear_probe`.

    Returns:
        The candidates, ascending.

    Raises:
        ValueError: If an option is outside its range.
    """
    candidates = [float(C)] if isinstance(C, int | float) else sorted(float(value) for value in C)
    if not candidates:
        raise ValueError('`C` must name at least one regularisation, but got an empty list')
    for value in candidates:
        if not (value > 0 and np.isfinite(value)):
            raise ValueError(f'`C` must be finite and > 0, but got {value}')
    if not 0 < holdout < 1:
        raise ValueError(f'`holdout` must be inside (0, 1), but got {holdout}')
    if max_iter < 1:
        raise ValueError(f'`max_iter` must be >= 1, but got {max_iter}')
    if not tol > 0:
        raise ValueError(f'`tol` must be > 0, but got {tol}')
    return candidates


def _fit(features: np.ndarray, labels: np.ndarray, c: float, max_iter: int, tol: float) -> tuple:
    """Fit scaler and classifier; say whether the solver converged."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    model = make_pipeline(StandardScaler(), LogisticRegression(C=c, solver='lbfgs', max_iter=max_iter, tol=tol))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter('always')
        model.fit(features, labels)
    converged = True
    for item in caught:
        if issubclass(item.category, ConvergenceWarning):
            converged = False
        else:
            warnings.warn_explicit(item.message, item.category, item.filename, item.lineno)
    return model, converged


def linear_probe(
    train_features: Tensor,
    train_labels: Tensor,
    val_features: Tensor,
    val_labels: Tensor,
    C: float | Sequence[float] = 1.0,  # noqa: N803
    holdout: float = 0.2,
    max_iter: int = 1000,
    tol: float = 1e-4,
    seed: int = 0,
) -> LinearProbeResult:
    """Train a linear classifier on frozen features and score it.

    scikit-learn's ``LogisticRegression`` (multinomial, L2, solver lbfgs) in float64 on features standardised with the
    training set's mean and deviation. ``C`` is scikit-learn's: the weight of the summed loss against half the squared
    norm of the weights. The default 1 is our choice (and scikit-learn's): a light regulariser on a few thousand images,
    with which lbfgs still converges in well under a second on the nearly collinear features of an untrained network.
    Made for small data; for ImageNet use the stochastic recipe of the linear-probe configs.

    Args:
        train_features: (N, D) features to learn from.
        train_labels: (N,) class indices, at least two different ones.
        val_features: (Q, D) features to score.
        val_labels: (Q,) class indices. A class that the training set does not hold counts as an error.
        C: Inverse regularisation, > 0. Of several the best on a held-out, stratified part of the *training* features is
            taken (the smallest among equals) and the classifier is then fitted to all training features.
        holdout: Share of the training features held out to choose C, inside (0, 1).
        max_iter: Most iterations of the solver.
        tol: Tolerance of the solver on the gradient.
        seed: Seed of the held-out split.

    Returns:
        Accuracy, predictions and how they came about.

    Raises:
        TypeError: If a tensor has the wrong dtype.
        ValueError: If features are empty or not finite, shapes do not match, there are fewer than two classes or an
            option is outside its range.
    """
    check_features('train_features', train_features, train_labels, 'train_labels')
    check_features('val_features', val_features, val_labels, 'val_labels')
    if val_features.shape[1] != train_features.shape[1]:
        raise ValueError(
            f'`val_features` must have the width of `train_features` ({train_features.shape[1]}), '
            f'but got {val_features.shape[1]}'
        )
    candidates = check_probe_options(C, holdout, max_iter, tol)
    train_x, val_x = train_features.double().cpu().numpy(), val_features.double().cpu().numpy()
    train_y, val_y = train_labels.long().cpu().numpy(), val_labels.long().cpu().numpy()
    classes = np.unique(train_y)
    if len(classes) < 2:
        raise ValueError(f'`train_labels` must hold at least 2 classes, but got only class {classes.tolist()}')

    scores: dict[float, float] = {}
    if len(candidates) > 1:
        from sklearn.model_selection import train_test_split

        fit_x, out_x, fit_y, out_y = train_test_split(
            train_x, train_y, test_size=holdout, random_state=seed, stratify=train_y
        )
        for value in candidates:
            model, _ = _fit(fit_x, fit_y, value, max_iter, tol)
            scores[value] = 100.0 * float(np.mean(model.predict(out_x) == out_y))
    chosen = max(candidates, key=lambda value: (scores.get(value, 0.0), -value))
    model, converged = _fit(train_x, train_y, chosen, max_iter, tol)
    predictions = model.predict(val_x)
    accuracy = 100.0 * float(np.mean(predictions == val_y))
    return LinearProbeResult(accuracy, predictions, chosen, scores, converged)
