"""Transforms of images."""

from .load_crop import LoadRandomResizedCrop

__all__ = ['LoadRandomResizedCrop']
