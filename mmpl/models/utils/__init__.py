"""Parts that several models share."""

from .assignment import Centering, PseudoLabels, Sinkhorn
from .codebook import OnlineCodebook
from .init import StrictPretrained
from .masking import Masks, RandomMasking, gather_tokens
from .matching import match_places

__all__ = [
    'Centering',
    'Masks',
    'OnlineCodebook',
    'PseudoLabels',
    'RandomMasking',
    'Sinkhorn',
    'StrictPretrained',
    'gather_tokens',
    'match_places',
]
