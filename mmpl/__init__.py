"""mmpl: masked image modelling with pseudo labels for OpenMMLab."""

from . import _mmcv_ext_finder
from .version import __version__

_mmcv_ext_finder.install()

__all__ = ['__version__']
