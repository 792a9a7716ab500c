"""Schedules as pure functions of how far a run is."""

import math

from mmpl.utils.fields import check_choice, check_number


class MomentumSchedule:
    """Momentum of a teacher over a run.

    Args:
        start (float): At the start, in [0, 1].
        end (float): At the end, in [0, 1] and not below ``start``.
        curve (str): ``'cosine'`` (BYOL, section 3.3), ``'linear'`` or
            ``'constant'`` (then ``end`` must be ``start``). Defaults to
            ``'cosine'``.
        name (str): How error messages call the field.

    Raises:
        TypeError: If ``start`` or ``end`` is not a number.
        ValueError: If a value is outside of what is allowed, or start > end.
    """

    def __init__(self, start: float, end: float = 1.0, curve: str = 'cosine', name: str = 'momentum') -> None:
        check_number(f'{name}.start', start, 0, 1)
        check_number(f'{name}.end', end, 0, 1)
        check_choice(f'{name}.curve', curve, ('cosine', 'linear', 'constant'))
        if start > end:
            raise ValueError(f'`{name}.start` must be at most `{name}.end` {end}, but got {start}')
        if curve == 'constant' and start != end:
            raise ValueError(f"`{name}.end` must be `start` {start} with curve='constant', but got {end}")
        self.start, self.end, self.curve = start, end, curve

    def __call__(self, progress: float) -> float:
        """The momentum at a point of the run.

        Args:
            progress (float): Share of the run that is done, in [0, 1].

        Returns:
            float: In [start, end].
        """
        risen = (1 - math.cos(math.pi * progress)) / 2 if self.curve == 'cosine' else progress
        return self.start + (self.end - self.start) * risen
