"""Registered names of data sets whose classes need mmdet or mmseg.

Pre-training must not import them (mmdet cannot be imported without compiled operators), so the registry holds a
function for each, which imports the class when a config builds it.
"""

from typing import TYPE_CHECKING, Any

from mmpl.registry import DATASETS

if TYPE_CHECKING:
    from .coco import EmbeddedCocoDataset
    from .seg import EmbeddedSegDataset


@DATASETS.register_module(name='EmbeddedCocoDataset')
def build_embedded_coco(**kwargs: Any) -> 'EmbeddedCocoDataset':
    """Build :class:`mmpl.datasets.embedded.coco.EmbeddedCocoDataset`, importing mmdet now."""
    from .coco import EmbeddedCocoDataset

    return EmbeddedCocoDataset(**kwargs)


@DATASETS.register_module(name='EmbeddedSegDataset')
def build_embedded_seg(**kwargs: Any) -> 'EmbeddedSegDataset':
    """Build :class:`mmpl.datasets.embedded.seg.EmbeddedSegDataset`, importing mmseg now."""
    from .seg import EmbeddedSegDataset

    return EmbeddedSegDataset(**kwargs)
