"""Encoders."""

from .dense_vit import DenseViT
from .masked_swin import MaskedSwin
from .masked_vit import MaskedViT

__all__ = ['DenseViT', 'MaskedSwin', 'MaskedViT']
