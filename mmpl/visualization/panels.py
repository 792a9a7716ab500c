"""Rows of pictures that the page and the poster share, and their captions."""

import numpy as np

from .data import ReportData
from .pictures import Picture, label_colours, overlay_labels, rank_labels, resize_nearest

CAPTIONS = {
    'results': 'Accuracy of the frozen encoder on held-out images, mean ± standard deviation over the seeds; '
    'the best mean of each column stands out.',
    'neighbours': 'Left the query from the validation images, then the training images with the most similar features '
    '(cosine below each): ✓ and a green frame mark the same class, ✗ and an orange-red frame another one.',
    'labels': 'Each data token is coloured by the label that the labelling teacher gives it: the same colour is the '
    'same prototype in all images, so parts that look alike should share colours.',
    'pca': 'The first three principal components of the patch features as red, green and blue, fit over all the images '
    'shown: patches of the same colour have similar features, and a trained encoder should separate parts of objects '
    'from the background.',
}

Panels = list[tuple[Picture, list[tuple[str, np.ndarray]]]]


def label_panels(data: ReportData) -> Panels:
    """Each image, and its label map laid over it; the most frequent labels get the most distinct colours."""
    if not data.label_maps:
        return []
    ranked, used = rank_labels(np.stack([labels for _, labels in data.label_maps]))
    colours = label_colours(len(used))
    return [
        (picture, [('image', picture.pixels), ('labels', overlay_labels(picture.pixels, labels, colours))])
        for (picture, _), labels in zip(data.label_maps, ranked, strict=True)
    ]


def pca_panels(data: ReportData) -> Panels:
    """Each image, and its components for each model."""
    panels = []
    for picture, maps in data.pca:
        height, width = picture.pixels.shape[:2]
        shown = [('image', picture.pixels)]
        for name, colours in maps.items():
            shown.append((name, resize_nearest(np.rint(colours * 255).astype(np.uint8), height, width)))
        panels.append((picture, shown))
    return panels
