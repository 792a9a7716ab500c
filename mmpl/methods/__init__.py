"""The methods, one file each; importing this package registers them. The contract is in ``base.py``."""

from mmpl import compat  # noqa: F401  (first: it repairs what the imports below need)

from .base import Method, Step
from .msa import MSA
from .pl_mae import PLMAE

__all__ = ['MSA', 'PLMAE', 'Method', 'Step']
