"""Matching of places against a loop over tokens in exact fractions."""

from fractions import Fraction
from math import floor

import numpy as np
import pytest
import torch

from mmpl.models import match_places

pytestmark = pytest.mark.smoke


def by_hand(box, other, grid):
    """For each token, row by row: where its centre lies, and which cell of the other view is there; None if none."""
    x1, y1, x2, y2 = (Fraction(int(v)) for v in box)
    u1, v1, u2, v2 = (Fraction(int(v)) for v in other)
    counterparts = []
    for row in range(grid):
        for column in range(grid):
            x = x1 + (x2 - x1) * Fraction(2 * column + 1, 2 * grid)
            y = y1 + (y2 - y1) * Fraction(2 * row + 1, 2 * grid)
            there_column = floor((x - u1) / (u2 - u1) * grid)
            there_row = floor((y - v1) / (v2 - v1) * grid)
            there = 0 <= there_column < grid and 0 <= there_row < grid
            counterparts.append(there_row * grid + there_column if there else None)
    return counterparts


def check(boxes, others, grid):
    ids, found = match_places(torch.tensor(boxes).double(), torch.tensor(others).double(), grid)
    expected = [by_hand(box, other, grid) for box, other in zip(boxes, others, strict=True)]
    assert found.tolist() == [[place is not None for place in row] for row in expected]
    assert ids.tolist() == [[place or 0 for place in row] for row in expected]
    return found


def random_boxes(rng, count, side, flips=True):
    start = rng.integers(0, side - 8, (count, 2))
    end = start + 1 + np.array([[rng.integers(8, side - v) for v in row] for row in start])
    boxes = np.concatenate((start, end), 1)
    for columns in ([0, 2], [1, 3]) if flips else ():
        flipped = rng.random(count) < 0.5
        boxes[np.ix_(flipped, columns)] = boxes[np.ix_(flipped, columns[::-1])]
    return boxes


@pytest.mark.parametrize('grid', [1, 4, 7, 8])
def test_random_boxes_and_flips(grid):
    rng = np.random.default_rng(grid)
    found = check(random_boxes(rng, 60, 64), random_boxes(rng, 60, 64), grid)
    assert 0.1 < found.double().mean() < 0.95, 'both kinds must occur'


@pytest.mark.parametrize('grid', [7, 14])
def test_centres_on_the_edge_of_a_cell(grid):
    """Boxes of one size, shifted by half a cell: every centre lies on an edge, where any rounding error would show."""
    boxes, others = [], []
    for cell in range(2, 40, 2):
        for shift in (-cell // 2, cell // 2, 3 * cell // 2):
            boxes.append([100, 103, 100 + cell * grid, 103 + cell * grid])
            others.append([100 - shift, 103 + shift, 100 - shift + cell * grid, 103 + shift + cell * grid])
    check(np.array(boxes), np.array(others), grid)


def test_identical_boxes_are_the_identity():
    boxes = torch.from_numpy(random_boxes(np.random.default_rng(0), 200, 500)).double()
    ids, found = match_places(boxes, boxes, 14)
    assert found.all()
    assert torch.equal(ids, torch.arange(196).expand(200, -1))


def test_a_flip_mirrors():
    boxes = torch.tensor([[3.0, 5.0, 35.0, 37.0]])
    ids, found = match_places(boxes, boxes[:, [2, 1, 0, 3]], 4)
    assert found.all()
    assert torch.equal(ids.view(4, 4), torch.arange(16).view(4, 4).flip(1))


def test_no_overlap():
    ids, found = match_places(torch.tensor([[0.0, 0, 10, 10]]), torch.tensor([[10.0, 0, 20, 10]]), 4)
    assert not found.any()
    assert not ids.any()
