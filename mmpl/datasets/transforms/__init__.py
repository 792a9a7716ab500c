"""Transforms of images."""

from .load_crop import LoadRandomResizedCrop
from .load_image import LoadImage
from .pack_vqa import PackVQA
from .two_views import BoxedResizedCrop, TwoViews

__all__ = ['BoxedResizedCrop', 'LoadImage', 'LoadRandomResizedCrop', 'PackVQA', 'TwoViews']
