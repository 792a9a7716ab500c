"""Hooks, loops, optimizer wrappers and their constructors."""

from .optimizers import *  # noqa: F403
