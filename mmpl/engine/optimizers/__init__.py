"""Optimizer wrappers and their constructors."""

from .autocast_wrapper import AutocastOptimWrapper
from .strict_constructor import StrictOptimWrapperConstructor

__all__ = ['AutocastOptimWrapper', 'StrictOptimWrapperConstructor']
