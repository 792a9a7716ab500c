"""Heads; each owns its loss."""

from .align_head import AlignHead, AlignStats
from .pseudo_label_head import LabelStats, PseudoLabelHead
from .token_recon_head import TokenReconHead

__all__ = ['AlignHead', 'AlignStats', 'LabelStats', 'PseudoLabelHead', 'TokenReconHead']
