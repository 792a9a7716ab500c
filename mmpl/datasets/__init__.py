"""Data sets, samplers and transforms. Importing this package imports neither mmdet nor mmseg."""

from .embedded import EmbeddedClassification, build_embedded
from .guarded import GuardedDataset
from .hugging_face import HuggingFaceDataset
from .resumable_sampler import ResumableSampler
from .shards import ShardDataset
from .transforms import BoxedResizedCrop, LoadImage, LoadRandomResizedCrop, TwoViews
from .unlabelled_folder import UnlabelledFolder

__all__ = [
    'BoxedResizedCrop',
    'EmbeddedClassification',
    'GuardedDataset',
    'HuggingFaceDataset',
    'LoadImage',
    'LoadRandomResizedCrop',
    'ResumableSampler',
    'ShardDataset',
    'TwoViews',
    'UnlabelledFolder',
    'build_embedded',
]
