"""Data made on first use from real pixels that pip wheels carry."""

from .cls import EmbeddedClassification
from .digits import RenderParams, build_embedded_dataset, embedded_dataset_dir
from .lazy import build_embedded_coco, build_embedded_seg

__all__ = [
    'EmbeddedClassification',
    'RenderParams',
    'build_embedded_coco',
    'build_embedded_dataset',
    'build_embedded_seg',
    'embedded_dataset_dir',
]
