"""Data made on first use from real pixels that pip wheels carry: small, real, and nothing is downloaded.

``sources.py`` opens the pixels, ``digits.py`` and ``surfaces.py`` draw with them, ``scenes.py`` places objects,
``formats.py`` writes, ``build.py`` makes a folder of it all, once.
"""

from importlib import import_module
from typing import Any

from mmpl.registry import DATASETS

from .build import build_embedded
from .cls import EmbeddedClassification

__all__ = ['EmbeddedClassification', 'build_embedded']


def _register_on_use(name: str, module: str) -> None:
    """Register a data set whose base class must not be imported before a config builds it.

    Pre-training needs neither mmdet, which cannot be imported without compiled operators, nor mmseg.
    """

    def build(**kwargs: Any) -> Any:
        return getattr(import_module(module, __name__), name)(**kwargs)

    DATASETS.register_module(name=name, module=build)


_register_on_use('EmbeddedCocoDataset', '.coco')
_register_on_use('EmbeddedSegDataset', '.seg')
