"""The methods: one file each; importing this package registers them."""

from .msa import MSA
from .pl_mae import PLMAE

__all__ = ['MSA', 'PLMAE']
