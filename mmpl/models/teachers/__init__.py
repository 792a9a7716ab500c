"""Teachers: frozen modules that move towards their student."""

from .ema_teacher import EMATeacher, move_teachers
from .label_teacher import LabelTeacher
from .teacher_view import TEACHER_INPUTS, TeacherView

__all__ = ['TEACHER_INPUTS', 'EMATeacher', 'LabelTeacher', 'TeacherView', 'move_teachers']
