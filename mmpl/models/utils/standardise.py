"""Standardising tokens over the joint batch, without affine parameters."""

import torch
from torch import Tensor

from mmpl.utils.dist import global_sum


def standardise_channels(
    tokens: Tensor, groups: Tensor | None = None, num_groups: int = 1, eps: float = 1e-6
) -> Tensor:
    """Zero mean and unit variance of each channel over the tokens of all processes, in each group by itself.

    Args:
        tokens (Tensor): (..., D).
        groups (Tensor, optional): Group of each token, (...). None puts all
            into one.
        num_groups (int): Number of groups.
        eps (float): Added to the variance. A group with one token becomes 0.

    Returns:
        Tensor: The same shape.
    """
    flat = tokens.flatten(0, -2)
    index = flat.new_zeros(len(flat), dtype=torch.long) if groups is None else groups.flatten()

    def group_sums(x: Tensor) -> Tensor:
        return global_sum(x.new_zeros(num_groups, x.shape[-1]).index_add_(0, index, x))

    count = group_sums(torch.ones_like(flat[:, :1])).clamp_min(1)
    centred = flat - (group_sums(flat) / count)[index]
    variance = group_sums(centred.square()) / count
    return (centred * (variance + eps).rsqrt()[index]).view_as(tokens)
