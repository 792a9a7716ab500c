"""mmpl: masked image modelling with pseudo labels for OpenMMLab."""

import importlib

from . import _mmcv_ext_finder
from .version import __version__

_mmcv_ext_finder.install()

__all__ = ['FeatureExtractor', '__version__', 'finetune', 'pretrain']

_LATER = dict(  # torch comes with them
    FeatureExtractor='mmpl.evaluation.extractor', finetune='mmpl.apis.finetune', pretrain='mmpl.apis.pretrain'
)


def __getattr__(name: str) -> object:
    """Import what is in :data:`_LATER` when it is asked for."""
    if name in _LATER:
        return getattr(importlib.import_module(_LATER[name]), name)
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
