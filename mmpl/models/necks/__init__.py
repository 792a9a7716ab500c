"""Decoders and feature pyramids."""

from .token_decoder import TokenDecoder

__all__ = ['TokenDecoder']
