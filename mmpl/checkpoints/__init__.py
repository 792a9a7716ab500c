"""Checkpoints: files that are whole, what is in them, and whether it fits."""

from mmpl import compat  # noqa: F401  (first: it makes what mmengine writes loadable)

from .strict_pretrained import StrictPretrained

__all__ = ['StrictPretrained']
