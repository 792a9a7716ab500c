"""Pictures from features: colours of labels, principal components, nearest neighbours."""

import colorsys
import os
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from sklearn.decomposition import PCA
from torch import Tensor
from torch.nn import functional as F  # noqa: N812


def printable(name: str) -> str:
    """A file's name for a page or a picture: what is not UTF-8 in it becomes a mark."""
    return os.fsencode(name).decode('utf-8', 'replace')


def short(text: str, length: int = 12) -> str:
    """A text that fits, its end left out."""
    return text if len(text) <= length else text[: length - 1] + '…'


@dataclass(frozen=True)
class Picture:
    """An image to show.

    Attributes:
        pixels: (H, W, 3) uint8, RGB.
        name: File name, for the description.
        class_name: Name of its class, or ''.
    """

    pixels: np.ndarray
    name: str = ''
    class_name: str = ''

    def __str__(self) -> str:
        return ': '.join(part for part in (self.class_name, self.name) if part)


@dataclass(frozen=True)
class Neighbour:
    """An image that was found.

    Attributes:
        picture: The image.
        similarity: Cosine similarity to the query, in [-1, 1].
        correct: Whether it is of the query's class; None if there are no classes.
    """

    picture: Picture
    similarity: float
    correct: bool | None


def pca_rgb(features: Tensor, quantile: float = 0.02) -> Tensor:
    """Colour patch features by their first three principal components, fit over the whole batch.

    Args:
        features: (B, N, D), finite, D and B * N at least 3.
        quantile: Share of the patches that is clipped at either end of each component, in [0, 0.5) (our choice:
            outliers would wash all else out).

    Returns:
        (B, N, 3) colours in [0, 1], float32.
    """
    patches = features.flatten(0, 1).double().cpu().numpy()
    with np.errstate(invalid='ignore'):  # where all patches are alike, 0 / 0 of the variance is explained
        projected = torch.from_numpy(PCA(3, svd_solver='full').fit_transform(patches))
    low = projected.quantile(quantile, dim=0)
    high = projected.quantile(1 - quantile, dim=0)
    scaled = (projected - low) / (high - low).clamp_min(torch.finfo(torch.float64).tiny)
    return scaled.clamp(0, 1).float().unflatten(0, features.shape[:2])


def label_colours(k: int) -> np.ndarray:
    """Distinct colours (k, 3) uint8, the most different ones first; k is at most 16384.

    Hues follow the golden ratio, which keeps any first n of them apart; saturation and brightness change from one
    round of hues to the next.
    """
    if not 1 <= k <= 16384:
        raise ValueError(f'k={k} must be in [1, 16384]')
    tones = ((0.70, 0.95), (0.95, 0.70), (0.40, 0.90), (0.85, 0.50), (0.25, 0.65), (0.60, 0.35))
    colours: dict[tuple[int, ...], None] = {}
    index = 0
    while len(colours) < k:
        saturation, value = tones[(index // 8) % len(tones)]
        value -= 0.2 * (index // 4096) / 8
        rgb = colorsys.hsv_to_rgb((0.05 + index * 0.6180339887498949) % 1, saturation, value)
        colours.setdefault(tuple(round(255 * channel) for channel in rgb))
        index += 1
    return np.array(list(colours), dtype=np.uint8)


def nearest_neighbours(queries: Tensor, bank: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k features of a bank (M, D) with the largest cosine similarity to each query (Q, D).

    Returns:
        (Q, k) similarities, falling, and (Q, k) indices into the bank.
    """
    similarity = F.normalize(queries.float(), dim=1) @ F.normalize(bank.float(), dim=1).T
    values, indices = similarity.topk(k, dim=1)
    return values, indices


def resize_nearest(pixels: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resize (h, w, 3) uint8 without mixing colours."""
    return np.asarray(Image.fromarray(pixels).resize((width, height), Image.Resampling.NEAREST))


def overlay_labels(image: np.ndarray, labels: np.ndarray, colours: np.ndarray, alpha: float = 0.55) -> np.ndarray:
    """Lay a label map as colours over an image, which is shown in grey, so that colours are labels only.

    Args:
        image: (H, W, 3) uint8.
        labels: (h, w) indices into ``colours``.
        colours: (K, 3) uint8.
        alpha: Weight of the colour, in [0, 1].

    Returns:
        (H, W, 3) uint8.
    """
    painted = resize_nearest(colours[labels], *image.shape[:2]).astype(np.float64)
    grey = image.astype(np.float64).mean(axis=2, keepdims=True)
    return np.rint((1 - alpha) * grey + alpha * painted).astype(np.uint8)


def rank_labels(label_maps: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Number the labels that occur by how often they do: 0 is the most frequent.

    Returns:
        The renumbered array, and the (n,) labels by falling frequency.
    """
    values, inverse, counts = np.unique(label_maps, return_inverse=True, return_counts=True)
    order = np.argsort(-counts, kind='stable')
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    return rank[inverse].reshape(label_maps.shape), values[order]
