"""Data sets, samplers and transforms. Importing this package imports neither mmdet nor mmseg."""

from .embedded import EmbeddedClassification, build_embedded
from .guarded import GuardedDataset
from .hugging_face import HuggingFaceDataset
from .resumable_sampler import ResumableSampler
from .shards import ShardDataset
from .transforms import BoxedResizedCrop, LoadImage, LoadRandomResizedCrop, PackVQA, TwoViews
from .unlabelled_folder import UnlabelledFolder
from .vqa import EasyVQADataset, VQADataset
from .weighted_sampler import WeightedSampler

__all__ = [
    'BoxedResizedCrop',
    'EasyVQADataset',
    'EmbeddedClassification',
    'GuardedDataset',
    'HuggingFaceDataset',
    'LoadImage',
    'LoadRandomResizedCrop',
    'PackVQA',
    'ResumableSampler',
    'ShardDataset',
    'TwoViews',
    'UnlabelledFolder',
    'VQADataset',
    'WeightedSampler',
    'build_embedded',
]
