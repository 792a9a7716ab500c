"""Heads; each owns its loss."""

from .align_head import AlignHead, AlignStats
from .pseudo_label_head import LabelStats, PseudoLabelHead
from .token_recon_head import CodebookTarget, FeatureTarget, PixelTarget, TokenReconHead

__all__ = [
    'AlignHead',
    'AlignStats',
    'CodebookTarget',
    'FeatureTarget',
    'LabelStats',
    'PixelTarget',
    'PseudoLabelHead',
    'TokenReconHead',
]
