"""The methods."""

from .msa import MSA
from .plmae import PLMAE

__all__ = ['MSA', 'PLMAE']
