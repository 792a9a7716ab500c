"""Decoders and feature pyramids."""

from .simple_fpn import SimpleFPN
from .token_decoder import TokenDecoder

__all__ = ['SimpleFPN', 'TokenDecoder']
