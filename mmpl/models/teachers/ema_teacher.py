"""A frozen copy of student modules that knows how to move towards them."""

from collections.abc import Mapping
from copy import deepcopy

import torch
from torch import nn

from mmpl.utils.checks import check_number


class EMATeacher(nn.Module):
    """Exponential moving average of a student (mean teacher; BYOL, section 3.1).

    The copies stand under the names given, take no gradients and stay in
    evaluation mode. Parameters are averaged; buffers of the student (no ViT
    has any) are copied.

    Args:
        **students (nn.Module): The modules to copy, by name.
    """

    def __init__(self, **students: nn.Module) -> None:
        super().__init__()
        copies = deepcopy(students)  # one call: what the modules share stays shared among the copies
        for name, module in copies.items():
            self.add_module(name, module)
        self.student_names = tuple(copies)
        self.requires_grad_(False)
        self.eval()

    def train(self, mode: bool = True) -> 'EMATeacher':
        """Stay in evaluation mode whatever is asked for."""
        return super().train(False)

    @torch.no_grad()
    def update(self, students: Mapping[str, nn.Module], momentum: float) -> None:
        """Move each parameter: ``teacher = momentum * teacher + (1 - momentum) * student``.

        Args:
            students (Mapping[str, nn.Module]): The modules that were copied,
                by the same names.
            momentum (float): In [0, 1]; 0 copies the student.

        Raises:
            TypeError: If ``momentum`` is not a number.
            ValueError: If ``momentum`` is outside of [0, 1].
        """
        check_number('momentum', momentum, 0, 1)
        own = nn.ModuleDict({name: getattr(self, name) for name in self.student_names})
        other = nn.ModuleDict({name: students[name] for name in self.student_names})
        teacher, student = list(own.parameters()), list(other.parameters())
        if momentum == 0:
            torch._foreach_copy_(teacher, student)
        else:
            torch._foreach_lerp_(teacher, student, 1 - momentum)
        for mine, theirs in zip(own.buffers(), other.buffers(), strict=True):
            mine.copy_(theirs)
