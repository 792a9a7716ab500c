"""Optimizer wrappers and their constructors."""

from .strict_constructor import StrictOptimWrapperConstructor

__all__ = ['StrictOptimWrapperConstructor']
