"""mmpl: masked image modelling with pseudo labels for OpenMMLab."""

from .version import __version__

__all__ = ['__version__']
