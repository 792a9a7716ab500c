"""Weighted cosine k-nearest-neighbour classification of frozen features.

Source: Wu et al., *Unsupervised Feature Learning via Non-Parametric Instance Discrimination*, CVPR 2018, section 3.4:
the k nearest bank features vote for their class with weight exp(cosine / T).
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from mmpl.utils.fields import Count, Positive, check_number, checked

# Similarities and votes are rounded to multiples of 2^-30 (about 1e-9), so that what is a tie does not depend on
# how a BLAS kernel orders its additions; a rounded similarity and a bank index fit together into one int64.
_SCALE = 2**30
_INDEX_SPAN = 2**32


def check_features(
    name: str,
    features: Tensor,
    labels: Tensor | None = None,
    label_name: str = 'labels',
    like: Tensor | None = None,
) -> None:
    """Refuse features that are not (N, D), finite, floating-point and at least one, and labels that are not (N,) >= 0.

    The names are those of the arguments, for the error text; ``like`` are training features, whose width is wanted.
    """
    if not isinstance(features, Tensor) or not features.is_floating_point():
        kind = features.dtype if isinstance(features, Tensor) else type(features).__name__
        raise TypeError(f'`{name}` must be a floating-point tensor, but got {kind}')
    if features.ndim != 2:
        raise ValueError(f'`{name}` must have the shape (N, D), but got {tuple(features.shape)}')
    if features.numel() == 0:
        raise ValueError(f'`{name}` must hold at least one feature, but got an empty tensor {tuple(features.shape)}')
    finite = torch.isfinite(features).all(dim=1)
    if not bool(finite.all()):
        bad = int((~finite).sum())
        first = int((~finite).nonzero()[0])
        raise ValueError(
            f'`{name}` must be finite, but {bad} of {len(features)} rows hold NaN or infinity (first: {first})'
        )
    if like is not None and features.shape[1] != like.shape[1]:
        raise ValueError(
            f'`{name}` must have the width of `train_features` ({like.shape[1]}), but got {features.shape[1]}'
        )
    if labels is None:
        return
    if not isinstance(labels, Tensor) or labels.is_floating_point() or labels.is_complex():
        kind = labels.dtype if isinstance(labels, Tensor) else type(labels).__name__
        raise TypeError(f'`{label_name}` must be an integer tensor, but got {kind}')
    if labels.shape != features.shape[:1]:
        raise ValueError(
            f'`{label_name}` must have one class index per row of `{name}`, i.e. the shape ({len(features)},), '
            f'but got {tuple(labels.shape)}'
        )
    if int(labels.min()) < 0:
        raise ValueError(f'`{label_name}` must be class indices >= 0, but got {int(labels.min())}')


def check_neighbours(k: int | Sequence[int], maximum: int | None = None, limit: str = '') -> list[int]:
    """One or several different numbers of neighbours, each >= 1, as a list; ``limit`` is what ``maximum`` is called."""
    ks = list(k) if isinstance(k, Sequence) else [k]
    if not ks or len(set(ks)) != len(ks):
        raise ValueError(f'`k` must name each number of neighbours once, but got {k!r}')
    for value in ks:
        check_number('k', value, 1, integer=True)
        if maximum is not None and value > maximum:
            raise ValueError(f'`k` must not exceed {limit} ({maximum}), but got {value}')
    return ks


def _nearest(queries: Tensor, bank: Tensor, k: int, bank_chunk: int) -> tuple[Tensor, Tensor]:
    """Find the k nearest of the (N, D) bank rows for each of the (Q, D) queries, all of them unit vectors.

    Returns:
        (Q, k) float64 cosine similarities, descending, and (Q, k) bank indices. Equal similarities are ordered by
        ascending bank index.
    """
    best = None
    for start in range(0, len(bank), bank_chunk):
        part = bank[start : start + bank_chunk]
        similarity = queries @ part.T
        index = torch.arange(start, start + len(part), device=bank.device)
        # One key orders by similarity first, then by lower index; all keys of a query differ.
        key = (similarity * _SCALE).round().long() * _INDEX_SPAN + (_INDEX_SPAN - 1 - index)
        if best is not None:
            key = torch.cat((best, key), dim=1)
        best = key.topk(min(k, key.shape[1]), dim=1, sorted=True).values
    assert best is not None
    quantised = torch.div(best, _INDEX_SPAN, rounding_mode='floor')
    return quantised.double() / _SCALE, _INDEX_SPAN - 1 - (best - quantised * _INDEX_SPAN)


@torch.no_grad()
@checked()
def knn_predict(
    train_features: Tensor,
    train_labels: Tensor,
    features: Tensor,
    k: int | Sequence[int] = 20,
    temperature: Positive = 0.07,
    query_chunk: Count = 512,
    bank_chunk: Count = 16384,
    device: torch.device | str | None = None,
) -> dict[int, Tensor]:
    """Classify features by the weighted vote of their nearest neighbours in a bank.

    Weights exp(cosine / T) as in Wu et al., CVPR 2018, section 3.4, with T = 0.07 from there; k = 20 is our choice (the
    paper has 200 for ImageNet's 1.28 million images).

    Ties: similarities are rounded to multiples of 2^-30; among equally similar bank features, the lower bank index is
    nearer. Votes are rounded likewise, relative to the weight of the nearest neighbour; among equal votes, the lower
    class index wins. An all-zero feature has similarity 0 to everything. Computed in float64, the result therefore does
    not depend on the chunk sizes, the order of summation or the device.

    Args:
        train_features: (N, D) bank, of any floating-point dtype; normalised here.
        train_labels: (N,) class indices of the bank.
        features: (Q, D) queries; normalised here.
        k: Number of neighbours, or several; all of them cost one search.
        temperature: T of the weights.
        query_chunk: Queries compared at a time.
        bank_chunk: Bank features compared at a time.
        device: Where to compute; None: where ``train_features`` are.

    Returns:
        For each k the (Q,) predicted class indices, on the CPU.
    """
    check_features('train_features', train_features, train_labels, 'train_labels')
    check_features('features', features, like=train_features)
    ks = check_neighbours(k, len(train_features), 'the number of bank features')
    device = torch.device(device) if device is not None else train_features.device

    # Normalise in float64, so that a float16 norm cannot overflow and equal directions stay equal.
    bank = functional.normalize(train_features.to(device).double(), dim=1)
    labels = train_labels.to(device).long()
    num_classes = int(labels.max()) + 1
    outputs: dict[int, list[Tensor]] = {value: [] for value in ks}
    for start in range(0, len(features), query_chunk):
        queries = features[start : start + query_chunk].to(device).double()
        queries = functional.normalize(queries, dim=1)
        similarity, index = _nearest(queries, bank, max(ks), bank_chunk)
        # A common factor per query does not move the winner and keeps exp from overflowing at small T.
        weights = ((similarity - similarity[:, :1]) / temperature).exp()
        neighbours = labels[index]
        votes = weights.new_zeros(len(queries), num_classes)
        for rank in range(max(ks)):  # one neighbour at a time: a fixed order of summation on any device
            votes.scatter_add_(1, neighbours[:, rank : rank + 1], weights[:, rank : rank + 1])
            if rank + 1 in outputs:
                outputs[rank + 1].append((votes * _SCALE).round().argmax(dim=1).cpu())
    return {value: torch.cat(parts) for value, parts in outputs.items()}


def knn_accuracy(
    train_features: Tensor,
    train_labels: Tensor,
    val_features: Tensor,
    val_labels: Tensor,
    k: int | Sequence[int] = 20,
    temperature: float = 0.07,
    **kwargs,
) -> dict[int, float]:
    """Top-1 accuracy of :func:`knn_predict` in percent, for each k; ``kwargs`` are further options of it.

    A class of ``val_labels`` that the bank does not hold counts as an error.
    """
    check_features('train_features', train_features, train_labels, 'train_labels')
    check_features('val_features', val_features, val_labels, 'val_labels', train_features)
    predictions = knn_predict(train_features, train_labels, val_features, k, temperature, **kwargs)
    truth = val_labels.cpu()
    return {value: 100.0 * int((pred == truth).sum()) / len(truth) for value, pred in predictions.items()}
