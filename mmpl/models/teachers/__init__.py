"""Teachers: frozen modules that move towards their student."""

from .ema_teacher import EMATeacher
from .label_teacher import LabelTeacher
from .teacher_view import TEACHER_INPUTS, TeacherView

__all__ = ['TEACHER_INPUTS', 'EMATeacher', 'LabelTeacher', 'TeacherView']
