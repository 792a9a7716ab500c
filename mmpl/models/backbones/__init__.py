"""Encoders."""

from .dense_vit import DenseViT
from .masked_vit import MaskedViT

__all__ = ['DenseViT', 'MaskedViT']
