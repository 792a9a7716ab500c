"""Transforms of images."""

from .load_crop import LoadRandomResizedCrop
from .load_image import LoadImage
from .two_views import BoxedResizedCrop, TwoViews

__all__ = ['BoxedResizedCrop', 'LoadImage', 'LoadRandomResizedCrop', 'TwoViews']
