"""What the patches of a frozen encoder are worth: patch-kNN and a linear segmentation head, scored by mIoU."""

import warnings
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812
from torch.utils.data import DataLoader

from mmpl.utils.fields import Count, Positive, checked

from .features import FeatureSet, extract_patches
from .knn import check_neighbours, knn_predict
from .linear_probe import fit_linear
from .probe import FeatureProbe

IGNORED = 255
MAX_TRAIN_PATCHES = 10_000  # a random subset, the same at every call (our choice)


class DenseProbe(FeatureProbe):
    """Measures how well the frozen features of single patches tell what is there.

    A patch of a training image has the label that most of its pixels have. *kNN* gives every patch of the other images
    the label that its neighbours vote for. *Linear* is a logistic regression on patches; its probabilities are
    interpolated to the pixels. Both are scored on pixels: the mean over the classes that occur of intersection over
    union, as ADE20K and mmseg have it. (CAPI and DINOv2 measure alike; the details are our choice.)

    Args:
        train_dataloader: As in :class:`FeatureProbe`, with a data set of mmseg: its pipeline ends with
            ``PackSegInputs``, and all images have one size.
        val_dataloader: The same for the images to score.
        k: Number of neighbours (our choice).
        C: Regularisation of the linear head, see :func:`mmpl.evaluation.linear_probe`.
        **options: ``temperature``, ``linear``, ``max_iter``, ``tol``, ``max_train_images``, ``target`` and ``seed`` of
            :class:`FeatureProbe`.
    """

    @checked()
    def __init__(
        self,
        train_dataloader: dict,
        val_dataloader: dict,
        k: Count = 20,
        C: Positive = 1.0,  # noqa: N803
        **options: Any,
    ) -> None:
        super().__init__(train_dataloader, val_dataloader, k=k, C=C, **options)

    def _check_bank(self, images: int | None, called: str) -> None:
        """Neighbours are patches, which are counted when their labels are known."""

    def _extract(self, model: nn.Module, loader: DataLoader) -> FeatureSet | None:
        return extract_patches(model, loader, target=self.target, dst=0)

    def _score(self, train: FeatureSet, val: FeatureSet, linear: bool, device: torch.device) -> dict[str, float]:
        """``knn_miou``, and ``linear_miou`` if there is a linear head, in percent."""
        maps = val.features['patches']
        bank, labels = self._bank(train)
        queries = maps.movedim(1, -1).flatten(0, 2)  # (n·h·w, D)
        nearest = knn_predict(bank, labels, queries, self.ks[0], self.temperature, device=device)[self.ks[0]]
        grid, size = (len(maps), *maps.shape[2:]), val.labels.shape[1:]
        truth = val.labels.numpy()
        pixels = F.interpolate(nearest.view(grid)[:, None].double(), size, mode='nearest')[:, 0]
        scores = dict(knn_miou=mean_iou(pixels.numpy().astype(int), truth))
        if linear:
            C, max_iter, tol = (self.linear_options[name] for name in ('C', 'max_iter', 'tol'))  # noqa: N806
            model, converged = fit_linear(bank.double().numpy(), labels.numpy(), C, max_iter, tol)
            if not converged:
                warnings.warn(
                    f'the linear head of patches did not reach tol={tol} in max_iter={max_iter} iterations (C={C})',
                    stacklevel=2,
                )
            probs = torch.from_numpy(model.predict_proba(queries.double().numpy())).unflatten(0, grid).movedim(-1, 1)
            best = [F.interpolate(one[None], size, mode='bilinear')[0].argmax(0) for one in probs]  # one image at once
            scores['linear_miou'] = mean_iou(model.classes_[torch.stack(best).numpy()], truth)
        return scores

    def _bank(self, found: FeatureSet) -> tuple[Tensor, Tensor]:
        """Patches that have a label, (P, D), and their labels, (P,)."""
        maps = found.features['patches']
        labels = majority_labels(found.labels, maps.shape[2:]).flatten()
        labelled = (labels >= 0).nonzero()[:, 0]
        check_neighbours(self.ks, len(labelled), 'the number of labelled patches')
        if len(labelled) > MAX_TRAIN_PATCHES:
            generator = torch.Generator().manual_seed(self.seed)
            chosen = torch.randperm(len(labelled), generator=generator)[:MAX_TRAIN_PATCHES]
            labelled = labelled[chosen.sort().values]
        return maps.movedim(1, -1).flatten(0, 2)[labelled], labels[labelled]


def majority_labels(maps: Tensor, grid: torch.Size | tuple[int, int]) -> Tensor:
    """The label that most pixels of a patch have, of equally many the lowest; ignored pixels do not count.

    Args:
        maps: Label maps, (n, H, W), 255 and below 0 ignored.
        grid: Rows and columns of patches, (h, w).

    Returns:
        (n, h, w); -1 where every pixel is ignored.
    """
    valid = maps[(maps >= 0) & (maps != IGNORED)]
    if not len(valid):
        raise ValueError('every pixel of the label maps is ignored (255): `reduce_zero_label` may be wrong')
    best = torch.full((len(maps), *grid), -1)
    most = torch.zeros(len(maps), *grid)
    for label in range(int(valid.max()) + 1):
        share = F.adaptive_avg_pool2d((maps == label).float(), grid)
        best[share > most] = label
        most = torch.maximum(most, share)
    return best


def mean_iou(found: np.ndarray, true: np.ndarray) -> float:
    """Mean over the classes that occur in either of intersection over union, in percent, as mmseg's ``IoUMetric``.

    Args:
        found: Predicted class of each pixel, of any shape.
        true: Their true class, of the same shape; 255 and below 0 are left out.
    """
    from sklearn.metrics import jaccard_score

    kept = (true >= 0) & (true != IGNORED)
    return 100 * float(jaccard_score(true[kept], found[kept], average='macro'))
