"""Optimizer wrappers and their constructors."""

from .autocast_wrapper import AutocastOptimWrapper
from .layer_decay import LayerDecayOptimWrapperConstructor
from .strict_constructor import StrictOptimWrapperConstructor

__all__ = ['AutocastOptimWrapper', 'LayerDecayOptimWrapperConstructor', 'StrictOptimWrapperConstructor']
