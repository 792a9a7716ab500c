"""Hooks: when things happen during training."""

from .class_count_hook import ClassCountHook
from .compile_hook import CompileHook
from .continue_guard_hook import ContinueGuardHook
from .dual_teacher_hook import DualTeacherHook, LabelCollapseError
from .frozen_warmup_hook import FrozenWarmupHook
from .log_history_hook import LogHistoryHook
from .non_finite_hook import NonFiniteError, NonFiniteHook
from .probe_hook import FeatureProbeHook
from .safe_checkpoint_hook import Preempted, SafeCheckpointHook

__all__ = [
    'ClassCountHook',
    'CompileHook',
    'ContinueGuardHook',
    'DualTeacherHook',
    'FeatureProbeHook',
    'FrozenWarmupHook',
    'LabelCollapseError',
    'LogHistoryHook',
    'NonFiniteError',
    'NonFiniteHook',
    'Preempted',
    'SafeCheckpointHook',
]
