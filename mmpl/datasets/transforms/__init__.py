"""Transforms of images."""

from .load_crop import LoadRandomResizedCrop
from .two_views import BoxedResizedCrop, TwoViews

__all__ = ['BoxedResizedCrop', 'LoadRandomResizedCrop', 'TwoViews']
