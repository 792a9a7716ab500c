"""mmpl: masked image modelling with pseudo labels for OpenMMLab."""

from . import _mmcv_ext_finder
from .version import __version__

_mmcv_ext_finder.install()

__all__ = ['FeatureExtractor', '__version__']


def __getattr__(name: str) -> object:
    """Import :class:`mmpl.evaluation.FeatureExtractor`, and torch with it, when it is asked for."""
    if name == 'FeatureExtractor':
        from .evaluation.extractor import FeatureExtractor

        return FeatureExtractor
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
