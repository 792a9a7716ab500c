"""Whether data sets, annotations and the rest of a config agree, before anything is learnt from them."""

import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from mmengine.registry import DATASETS as MMENGINE_DATASETS

from .classification import check_classification
from .detection import Evaluator, check_detection
from .findings import Findings, Side, sides_of
from .names import check_names, compare_names, difference
from .segmentation import check_segmentation

__all__ = ['Evaluator', 'Findings', 'Side', 'check_data', 'difference', 'explained_by_data', 'sides_of']

LOOKED_AT = 8
TOLERATED = 0.01


def check_data(
    sides: Sequence[Side],
    *,
    looked_at: int = LOOKED_AT,
    tolerated: float = TOLERATED,
    evaluators: Mapping[str, Sequence[Evaluator]] | None = None,
    ignored: Mapping[str, int | None] | None = None,
    head_classes: int | None = None,
) -> Findings:
    """Compare the data sets of a run with each other and with what evaluates them.

    Args:
        sides: The data sets, those to train on first.
        looked_at: How many label maps of each data set are read, evenly spaced; of many more images the size is.
        tolerated: Share of the annotations of a COCO file whose box or mask may be faulty.
        evaluators: What evaluates data sets of boxes, by split.
        ignored: Labels of pixels that are ignored, by the fields of heads and evaluators that say so.
        head_classes: Number of classes of the heads, if they have all the same.

    Returns:
        Errors and warnings.
    """
    found = Findings()
    for side in sides:
        check_names(found, side)
    compare_names(found, sides)
    check_segmentation(found, [side for side in sides if side.kind_of('BaseSegDataset')], looked_at, ignored)
    check_detection(found, [side for side in sides if side.kind_of('CocoDataset')], tolerated, evaluators)
    of_images = [s for s in sides if any(base.__module__.startswith('mmpretrain.') for base in type(s.dataset).__mro__)]
    check_classification(found, of_images, head_classes)
    return found


@contextmanager
def explained_by_data(cfg: Mapping) -> Iterator[None]:
    """Where a data set cannot be built, look at its files, and say what is wrong with them instead.

    Args:
        cfg: The whole config.

    Raises:
        ValueError: What the files show; its cause is the error of the data set.
    """
    try:
        yield
    except Exception as error:
        names = [frame.name for frame in traceback.extract_tb(error.__traceback__)]
        if 'build_dataloader' not in names or 'run_iter' in names:
            raise
        text = _faults_of_unbuilt(cfg)
        if not text:
            raise
        raise ValueError(text) from error


def _faults_of_unbuilt(cfg: Mapping) -> str:
    """What is wrong with the files of a config's data sets, without loading these."""
    sides: list[Side] = []
    for split in ('train', 'val', 'test'):
        loader: Any = cfg.get(f'{split}_dataloader')
        part = loader.get('dataset') if isinstance(loader, Mapping) else None
        field = f'{split}_dataloader.dataset'
        while isinstance(part, Mapping) and isinstance(part.get('dataset'), Mapping):
            part, field = part['dataset'], f'{field}.dataset'
        if not isinstance(part, Mapping):
            continue
        try:
            dataset = MMENGINE_DATASETS.build({**part, 'lazy_init': True})
        except Exception:  # then it is not its files
            continue
        sides += sides_of(field, dataset)
    return check_data(sides).text()
