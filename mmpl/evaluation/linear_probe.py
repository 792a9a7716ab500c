"""Linear probe of frozen features: multinomial logistic regression, solved to convergence."""

import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np
from torch import Tensor

from mmpl.utils.fields import Count, Interval, Positive, check_number, checked

from .knn import check_features

ProperShare = Annotated[float, Interval(0, 1, open_low=True, open_high=True)]


@dataclass(frozen=True)
class LinearProbeResult:
    """What a linear probe found."""

    accuracy: float  # top-1 on the validation features, in percent
    predictions: np.ndarray  # (Q,) class indices
    C: float  # the regularisation that was used
    holdout_accuracy: dict[float, float]  # percent, for each candidate C; empty if there was nothing to choose
    converged: bool  # whether the solver reached its tolerance


def check_regularisation(C: float | Sequence[float]) -> list[float]:
    """The candidates for C, each finite and above 0, in ascending order."""
    candidates = list(C) if isinstance(C, Iterable) else [C]
    if not candidates:
        raise ValueError('`C` must name at least one regularisation, but got an empty list')
    for value in candidates:
        check_number('C', value, 0, open_minimum=True)
    return sorted(map(float, candidates))


def fit_linear(features: np.ndarray, labels: np.ndarray, c: float, max_iter: int, tol: float) -> tuple:
    """Fit scaler and classifier to features (N, D) and class indices (N,); say whether the solver converged."""
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


@checked()
def linear_probe(
    train_features: Tensor,
    train_labels: Tensor,
    val_features: Tensor,
    val_labels: Tensor,
    C: float | Sequence[float] = 1.0,
    holdout: ProperShare = 0.2,
    max_iter: Count = 1000,
    tol: Positive = 1e-4,
    seed: int = 0,
) -> LinearProbeResult:
    """Train a linear classifier on frozen features, (N, D), and score it on others, (Q, D).

    scikit-learn's ``LogisticRegression`` (multinomial, L2, solver lbfgs) in float64 on features standardised with the
    training set's mean and deviation. ``C`` is scikit-learn's: the weight of the summed loss against half the squared
    norm of the weights. The default 1 is our choice (and scikit-learn's): a light regulariser on a few thousand images,
    with which lbfgs still converges in well under a second on the nearly collinear features of an untrained network.
    Made for small data; for ImageNet use the stochastic recipe of the linear-probe configs.

    Of several ``C`` the best on ``holdout`` is taken (the smallest among equals), a stratified share of the *training*
    features that ``seed`` draws; the classifier is then fitted to all training features. A class of ``val_labels`` that
    the training set does not hold counts as an error.

    Raises:
        ValueError: If features are empty or not finite, shapes do not match or there are fewer than two classes.
    """
    check_features('train_features', train_features, train_labels, 'train_labels')
    check_features('val_features', val_features, val_labels, 'val_labels', train_features)
    candidates = check_regularisation(C)
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
            model, _ = fit_linear(fit_x, fit_y, value, max_iter, tol)
            scores[value] = 100.0 * float(np.mean(model.predict(out_x) == out_y))
    chosen = max(candidates, key=lambda value: (scores.get(value, 0.0), -value))
    model, converged = fit_linear(train_x, train_y, chosen, max_iter, tol)
    predictions = model.predict(val_x)
    accuracy = 100.0 * float(np.mean(predictions == val_y))
    return LinearProbeResult(accuracy, predictions, chosen, scores, converged)
