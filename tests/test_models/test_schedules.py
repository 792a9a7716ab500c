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


@pytest.mark.parametrize(
    ('fields', 'message'),
    [
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
