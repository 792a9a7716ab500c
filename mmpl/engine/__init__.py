"""Hooks, schedules, optimizer wrappers and their constructors."""

from .hooks import *  # noqa: F403
from .optimizers import *  # noqa: F403
from .schedules import MomentumSchedule  # noqa: F401
