"""Transforms."""

from .two_views import BoxedResizedCrop, TwoViews

__all__ = ['BoxedResizedCrop', 'TwoViews']
