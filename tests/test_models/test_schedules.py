"""Schedules against closed forms."""

import math

import pytest

from mmpl.models import MomentumSchedule


def test_closed_forms():
    cosine = MomentumSchedule(0.996, 1.0)
    for p in (0, 0.1, 0.5, 0.9, 1):
        assert cosine(p) == pytest.approx(1 - 0.004 * (math.cos(math.pi * p) + 1) / 2, abs=1e-15)
    assert MomentumSchedule(0.9, 1.0, curve='linear')(0.25) == pytest.approx(0.925)
    assert MomentumSchedule(0.99, 0.99, curve='constant')(0.3) == pytest.approx(0.99)


def test_a_horizon_is_a_share_of_the_run():
    for moves in (100, 10_000):
        schedule = MomentumSchedule(horizon=0.05, curve='constant')
        schedule.fit(moves)
        assert schedule(0) == schedule(1) == pytest.approx(1 - 1 / (0.05 * moves))
        # after one horizon 1/e of the start is left, whatever the length of the run
        assert schedule.init_share(0.05) == pytest.approx(math.exp(-1), rel=0.15 if moves == 100 else 2e-3)
    schedule = MomentumSchedule(horizon=0.05)
    schedule.fit(10)
    assert schedule(0) == 0 and schedule.init_share(0.5) < 1e-4  # a copy of the student at first
    with pytest.raises(RuntimeError, match='nobody said how long it is'):
        MomentumSchedule(horizon=0.05)(0)


@pytest.mark.parametrize('moves', [20, 600, 6000])  # a horizon of less than one step, and the lengths of the benches
def test_both_ends_by_horizons(moves):
    schedule = MomentumSchedule(horizon=0.083, end_horizon=0.33)
    schedule.fit(moves)
    assert [1 / (1 - schedule(p)) / moves for p in (0, 1)] == pytest.approx([0.083, 0.33])


@pytest.mark.parametrize('curve', ['cosine', 'linear'])
@pytest.mark.parametrize('start', [0.9, 0.999])
def test_the_share_of_the_start_is_the_product_of_the_momenta(start, curve):
    schedule, moves = MomentumSchedule(start, curve=curve), 1200
    schedule.fit(moves)
    left = 1.0
    for step in range(1, moves // 2 + 1):
        left *= schedule(step / moves)
    assert schedule.init_share(0.5) == pytest.approx(left, rel=0.1 if start == 0.9 else 2e-3, abs=1e-12)


def test_what_was_left_of_a_slow_teacher():
    """The reconstruction teacher of the first bench kept 55 % of its start: from 0.999 to 1 in 1,200 steps."""
    schedule = MomentumSchedule(0.999, 1.0)
    schedule.fit(1200)
    assert schedule.init_share(1.0) == pytest.approx(0.55, abs=0.01)


@pytest.mark.parametrize(
    ('fields', 'message'),
    [
        (dict(), '`momentum_label` must have one of `start` and `horizon`'),
        (dict(start=0.9, horizon=0.1), '`momentum_label` must have one of `start` and `horizon`'),
        (dict(horizon=0.0), r'`momentum_label.horizon` must be a number in \(0, 1\], but got 0.0'),
        (dict(start=0.9, end_horizon=0.1), '`momentum_label.end_horizon` goes with `horizon` and a `curve` other than'),
        (dict(horizon=0.2, end=0.9, end_horizon=0.3), 'and without `end`, but got horizon=0.2, end=0.9'),
        (dict(horizon=0.2, end_horizon=0.1), r'`momentum_label.end_horizon` must be a number in \[0.2, 1\]'),
        (dict(start=1.0, end=0.9), '`momentum_label.start` must be at most `momentum_label.end` 0.9, but got 1.0'),
        (dict(start=-0.1), r'`momentum_label.start` must be a number in \[0, 1\], but got -0.1'),
        (dict(start=0.9, end=1.01), r'`momentum_label.end` must be a number in \[0, 1\]'),
        (dict(start=0.9, curve='step'), '`momentum_label.curve` must be one of'),
        (dict(start=0.9, end=1.0, curve='constant'), "`momentum_label.end` must be `start` 0.9 with curve='constant'"),
    ],
)
def test_refuses(fields, message):
    with pytest.raises(ValueError, match=message):
        MomentumSchedule(**fields, name='momentum_label')
