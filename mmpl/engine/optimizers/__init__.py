"""Optimizer wrappers and their constructors."""

from .autocast_wrapper import AutocastOptimWrapper
from .guarded_wrapper import GuardedOptimWrapper
from .layer_decay import LayerDecayOptimWrapperConstructor
from .strict_constructor import StrictOptimWrapperConstructor

__all__ = [
    'AutocastOptimWrapper',
    'GuardedOptimWrapper',
    'LayerDecayOptimWrapperConstructor',
    'StrictOptimWrapperConstructor',
]
