"""Hooks: when things happen during training."""

from .class_count_hook import ClassCountHook
from .compile_hook import CompileHook
from .dual_teacher_hook import DualTeacherHook
from .probe_hook import FeatureProbeHook

__all__ = ['ClassCountHook', 'CompileHook', 'DualTeacherHook', 'FeatureProbeHook']
