"""A teacher: a frozen copy of parts of the student that moves towards them, on a schedule of its own."""

import math
from collections.abc import Mapping
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn

from mmpl.utils.dist import local_shard
from mmpl.utils.fields import check_choice, check_number, check_part
from mmpl.utils.figures import Chart, Figure

MOMENTUM = Figure(
    'momentum',
    Chart(
        'Momenta of the teachers',
        'How much of itself each teacher keeps per step; the closer to 1, the slower it follows the student.',
        'momentum',
    ),
)


INIT_SHARE = Figure(
    'of its start',
    Chart(
        'What is left of the start of the teachers',
        'The share of its weights that a teacher still has from the start of the run. A start at random teaches noise: '
        'it should be gone long before the middle of the run.',
        'share',
    ),
)


class MomentumSchedule:
    """Momentum of a teacher over a run.

    Args:
        start: At the start, in [0, 1].
        end: At the end, in [0, 1] and not below ``start``; 1 by default.
        curve: ``'cosine'`` (BYOL, section 3.3), ``'linear'`` or ``'constant'`` (then ``end`` must be ``start``).
        every: When the teacher moves: after each optimizer ``'step'``, or after the one that ends an ``'epoch'``
            (SdAE, section 3.3).
        horizon: Instead of ``start``: how far the teacher looks back at the start, as a share of the run in (0, 1]. In
            a run of n moves ``start`` is 1 - 1 / (horizon * n), at least 0: whatever the length of the run and the size
            of the batch, the teacher follows the run alike (our choice).
        end_horizon: Instead of ``end``: the same at the end, not below ``horizon``.
        name: How error messages call the field.
    """

    def __init__(
        self,
        start: float | None = None,
        end: float | None = None,
        curve: str = 'cosine',
        every: str = 'step',
        horizon: float | None = None,
        end_horizon: float | None = None,
        name: str = 'momentum',
    ) -> None:
        if (start is None) == (horizon is None):
            raise ValueError(
                f'`{name}` must have one of `start` and `horizon`, but got start={start} and horizon={horizon}'
            )
        if end_horizon is not None:
            if horizon is None or end is not None or curve == 'constant':
                raise ValueError(
                    f"`{name}.end_horizon` goes with `horizon` and a `curve` other than 'constant', and without `end`, "
                    f'but got horizon={horizon}, end={end}, curve={curve!r}'
                )
            check_number(f'{name}.horizon', horizon, 0, 1, open_minimum=True)
            check_number(f'{name}.end_horizon', end_horizon, horizon, 1)
        end = 1.0 if end is None else end
        check_number(f'{name}.end', end, 0, 1)
        check_choice(f'{name}.curve', curve, ('cosine', 'linear', 'constant'))
        check_choice(f'{name}.every', every, ('step', 'epoch'))
        if start is not None:
            check_number(f'{name}.start', start, 0, 1)
            if start > end:
                raise ValueError(f'`{name}.start` must be at most `{name}.end` {end}, but got {start}')
            if curve == 'constant' and start != end:
                raise ValueError(f"`{name}.end` must be `start` {start} with curve='constant', but got {end}")
        else:
            check_number(f'{name}.horizon', horizon, 0, 1, open_minimum=True)
        self.start, self.end, self.curve, self.every = start, end, curve, every
        self.horizon, self.end_horizon, self.name = horizon, end_horizon, name
        self.moves: int | None = None

    def fit(self, moves: int) -> None:
        """Say how often the teacher moves in the run."""
        self.moves = moves
        if self.horizon is not None:
            self.start = max(0.0, 1 - 1 / (self.horizon * moves))
            if self.curve == 'constant':
                self.end = self.start
            elif self.end_horizon is not None:
                self.end = max(0.0, 1 - 1 / (self.end_horizon * moves))
            if self.start > self.end:
                raise ValueError(
                    f'`{self.name}.end` must be at least {self.start}, what `horizon` {self.horizon} means in a run of '
                    f'{moves} moves, but got {self.end}'
                )

    def __call__(self, progress: float) -> float:
        """The momentum when a share ``progress`` of the run, in [0, 1], is done.

        Raises:
            RuntimeError: There is a horizon, and nobody said how long the run is.
        """
        if self.start is None:
            raise RuntimeError(
                f'`{self.name}.horizon` is a share of the run, but nobody said how long it is: a training loop of your '
                'own calls `model.set_length(steps, epochs)` before it starts'
            )
        risen = (1 - math.cos(math.pi * progress)) / 2 if self.curve == 'cosine' else progress
        return self.start + (self.end - self.start) * risen

    def init_share(self, progress: float, points: int = 256) -> float:
        """Share of the teacher's start that is left when a share ``progress`` of the run, in [0, 1], is done.

        The product of all momenta so far, by the integral of their logarithm over ``points`` points.
        """
        if self.moves is None:
            raise RuntimeError('`init_share` needs the length of the run: call `fit` before')
        momenta = [self(progress * (index + 0.5) / points) for index in range(points)]
        if min(momenta) <= 0:
            return 0.0
        return math.exp(self.moves * progress * math.fsum(map(math.log, momenta)) / points)


class Teacher(nn.Module):
    """Exponential moving average of modules of the student (mean teacher; BYOL, section 3.1).

    The copies stand under the names given, take no gradients and stay in evaluation mode. Parameters are averaged;
    buffers of the student (no ViT has any) are copied. Where a model is sharded, a teacher is cut as its student is,
    and each process moves its own shard: nothing is sent.

    Args:
        momentum: Fields of :class:`MomentumSchedule`.
        field: How error messages call ``momentum``.
        starts_as: ``'student'``, a copy of it, or with an initialisation of its ``'own'`` (SdAE).
        **students: Modules to follow, by name; one of them is the ``backbone``.
    """

    def __init__(
        self,
        momentum: Mapping[str, Any],
        field: str = 'momentum',
        starts_as: str = 'student',
        **students: nn.Module,
    ) -> None:
        super().__init__()
        check_part(field, momentum, 'dict(start=0.99, end=1.0)')
        check_choice('starts_as', starts_as, ('student', 'own'))
        self.momentum = MomentumSchedule(**momentum, name=field)
        self.starts_as = starts_as
        self._students = (students,)  # a tuple hides them from torch: they are no parts of the teacher
        for name, module in deepcopy(students).items():  # one call: what they share stays shared
            self.add_module(name, module)
        self._epoch = 0
        if self.momentum.every == 'epoch':
            self.register_buffer('epoch', torch.zeros((), dtype=torch.long))  # in which it moved last
        self.requires_grad_(False)
        self.eval()

    def _load_from_state_dict(self, state_dict: dict, prefix: str, *args, **kwargs) -> None:
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)
        if self.momentum.every == 'epoch':
            self._epoch = int(self.epoch)

    def train(self, mode: bool = True) -> 'Teacher':
        """Stay in evaluation mode whatever is asked for."""
        return super().train(False)

    def init_copies(self) -> None:
        """Start: as a copy of the student, or with an initialisation of its own."""
        if self.starts_as == 'student':
            self.move(0)
            return
        for name in self._students[0]:
            getattr(self, name).init_weights()

    def after_step(self, progress: float, epoch: int, taken: Tensor | None = None) -> None:
        """Move, after an optimizer step.

        Args:
            progress: Share of the run that is done, in [0, 1].
            epoch: Epochs of images that are done.
            taken: As in :meth:`move`.
        """
        if self.momentum.every == 'epoch':
            if epoch == self._epoch:
                return
            self._epoch = epoch
            self.epoch.copy_(self.epoch + (epoch - self.epoch) * (1 if taken is None else taken))
        self.move(self.momentum(progress), taken)

    def rewind(self, steps: int = 0) -> None:
        """Read again which epoch the teacher moved in last; a step that was not taken after all left it as it was."""
        if self.momentum.every == 'epoch':
            self._epoch = int(self.epoch)

    @torch.no_grad()
    def move(self, momentum: float, taken: Tensor | None = None) -> None:
        """Move each parameter: ``teacher = momentum * teacher + (1 - momentum) * student``; 0 copies the student.

        Args:
            momentum: In [0, 1].
            taken: Whether the student's step was taken, () bool; if it was not, nothing moves. None: it was.
        """
        check_number('momentum', momentum, 0, 1)
        (students,) = self._students
        own, theirs = nn.ModuleDict({name: getattr(self, name) for name in students}), nn.ModuleDict(students)
        targets, sources = ([local_shard(p) for p in part.parameters()] for part in (own, theirs))
        if momentum == 0:  # a teacher that was never filled may hold NaN, which no average gets rid of
            torch._foreach_copy_(targets, sources)
        else:
            weight: Any = 1 - momentum if taken is None else [taken * (1 - momentum)] * len(targets)
            torch._foreach_lerp_(targets, sources, weight)
        for mine, source in zip(own.buffers(), theirs.buffers(), strict=True):
            mine.copy_(source)
