"""The methods."""

from .plmae import PLMAE

__all__ = ['PLMAE']
