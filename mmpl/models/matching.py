"""Which tokens of two views show the same place of an image."""

import torch
from torch import Tensor


def match_places(boxes: Tensor, other_boxes: Tensor, grid: int) -> tuple[Tensor, Tensor]:
    """Find for each token of a view the token of another view that covers the same place.

    A view is a box of the source image, resized to a square and cut into ``grid`` x ``grid`` tokens. A token's place is
    its centre; its counterpart is the token of the other view whose cell holds that centre (cells own their upper and
    left edge), if there is one (our choice). With boxes in whole pixels and float64 no rounding error moves a centre
    over an edge.

    Args:
        boxes: Where each view lies in its source image, (B, 4) as x1, y1, x2, y2 in pixels: the view's left edge shows
            x1 and its right edge x2, so that a flipped view has x1 > x2.
        other_boxes: The same of the other views, (B, 4).
        grid: Tokens along a side.

    Returns:
        Indices of the counterparts, (B, grid²), 0 where there is none; and whether there is one, (B, grid²) bool.
    """
    # In units of 1 / (2 * grid) of a pixel all sums are exact: the centre of token i of a view that goes from a to b
    # is 2 * grid * a + (2 * i + 1) * (b - a).
    steps = 2 * torch.arange(grid, dtype=boxes.dtype, device=boxes.device) + 1
    cells, inside = [], []
    for low, high in ((0, 2), (1, 3)):  # x, then y
        offset = 2 * grid * (boxes[:, low] - other_boxes[:, low])[:, None]
        side, other_side = (box[:, high, None] - box[:, low, None] for box in (boxes, other_boxes))
        cell = ((offset + steps * side) / (2 * other_side)).floor()
        inside.append((cell >= 0) & (cell < grid))
        cells.append(cell.clamp(0, grid - 1).long())
    ids = cells[1][:, :, None] * grid + cells[0][:, None, :]
    found = inside[1][:, :, None] & inside[0][:, None, :]
    return torch.where(found, ids, 0).flatten(1), found.flatten(1)
