"""Hooks: when things happen during training."""

from .dual_teacher_hook import DualTeacherHook, label_health
from .probe_hook import FeatureProbeHook

__all__ = ['DualTeacherHook', 'FeatureProbeHook', 'label_health']
