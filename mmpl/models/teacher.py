"""A frozen copy of student modules that knows how to move towards them."""

from collections.abc import Mapping, Sequence
from copy import deepcopy

import torch
from torch import Tensor, nn

from mmpl.utils.fields import check_number


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
        move_teachers([(self, momentum)], students)


@torch.no_grad()
def move_teachers(moves: Sequence[tuple[EMATeacher, float]], students: Mapping[str, nn.Module]) -> None:
    """Move several teachers of one student in one pass: each of its parameters is read from memory once.

    Args:
        moves (Sequence[tuple[EMATeacher, float]]): Teachers and their momenta,
            in [0, 1]; 0 copies the student.
        students (Mapping[str, nn.Module]): The modules that were copied, by
            the same names; a teacher may have copied some of them only.

    Raises:
        TypeError: If a momentum is not a number.
        ValueError: If a momentum is outside of [0, 1].
    """
    student = nn.ModuleDict(students)
    copies = []
    for teacher, momentum in moves:
        check_number('momentum', momentum, 0, 1)
        own = nn.ModuleDict({name: getattr(teacher, name) for name in teacher.student_names})
        copies.append((dict(own.named_parameters()), 1.0 - momentum))
        theirs = dict(student.named_buffers())
        for name, mine in own.named_buffers():
            mine.copy_(theirs[name])
    targets, sources, weights = [], [], []
    for name, source in student.named_parameters():
        for own_parameters, weight in copies:
            if name in own_parameters:
                targets.append(own_parameters.pop(name))
                sources.append(source)
                weights.append(weight)
    left = [name for own_parameters, _ in copies for name in own_parameters]
    if left:
        raise KeyError(f'a teacher has parameters that its student lacks: {left[:3]}')
    whole = [i for i, weight in enumerate(weights) if weight == 1]
    part = [i for i, weight in enumerate(weights) if weight < 1]
    if whole:  # a teacher that was never filled may hold NaN, which no average gets rid of
        torch._foreach_copy_([targets[i] for i in whole], [sources[i] for i in whole])
    if part:
        _lerp_([targets[i] for i in part], [sources[i] for i in part], [weights[i] for i in part])


def _lerp_(targets: list[Tensor], sources: list[Tensor], weights: list[float]) -> None:
    """``target += weight * (source - target)``, all at once."""
    if hasattr(torch.ops.aten._foreach_lerp_, 'ScalarList'):
        torch._foreach_lerp_(targets, sources, weights)
        return
    for weight in set(weights):  # torch < 2.7
        which = [i for i, other in enumerate(weights) if other == weight]
        torch._foreach_lerp_([targets[i] for i in which], [sources[i] for i in which], weight)
