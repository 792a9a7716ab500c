"""Heads; each owns its loss."""

from .pseudo_label_head import LabelStats, PseudoLabelHead
from .token_recon_head import TokenReconHead

__all__ = ['LabelStats', 'PseudoLabelHead', 'TokenReconHead']
