"""Data sets.

``embedded`` makes real images on first use from what pip wheels carry; importing this package imports neither mmdet
nor mmseg.
"""

from .embedded import (
    EmbeddedClassification,
    RenderParams,
    build_embedded_coco,
    build_embedded_dataset,
    build_embedded_seg,
    embedded_dataset_dir,
)
from .guarded import GuardedDataset
from .resumable_sampler import ResumableSampler
from .transforms import BoxedResizedCrop, LoadRandomResizedCrop, TwoViews
from .unlabelled_folder import UnlabelledFolder

__all__ = [
    'BoxedResizedCrop',
    'EmbeddedClassification',
    'GuardedDataset',
    'LoadRandomResizedCrop',
    'RenderParams',
    'ResumableSampler',
    'TwoViews',
    'UnlabelledFolder',
    'build_embedded_coco',
    'build_embedded_dataset',
    'build_embedded_seg',
    'embedded_dataset_dir',
]
