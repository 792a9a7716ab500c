"""Standardising tokens over the joint batch, without affine parameters."""

from typing import Literal

import torch
from mmengine.dist import get_world_size
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from mmpl.utils.dist import global_sum


def check_members(field: str, value: object, members: int, of: str, instead: str) -> None:
    """Refuse what is compared within the joint batch where there is only one to compare: it would be constant.

    Args:
        field: Config field that asks for the comparison.
        value: Its value.
        members: How many this process has; the others have as many.
        of: What is compared, such as ``'images'``.
        instead: What would do.

    Raises:
        ValueError: There is only one in all processes.
    """
    if members * get_world_size() < 2:
        raise ValueError(
            f'`{field}` {value!r} compares the {of} of the joint batch, but there is only one: what it gives would '
            f'be the same whatever the {of}. Take a larger `train_dataloader.batch_size`, or {instead}'
        )


def standardise_channels(
    tokens: Tensor, groups: Tensor | None = None, num_groups: int = 1, eps: float = 1e-6
) -> Tensor:
    """Zero mean and unit variance of each channel over the tokens of all processes, in each group by itself.

    On CUDA the sums of groups are added up in no fixed order, unless torch is told to be deterministic
    (``randomness=dict(deterministic=True)``); without groups the order is fixed.

    Args:
        tokens: (..., D).
        groups: Group of each token, (...). None puts all into one.
        num_groups: Number of groups.
        eps: Added to the variance. A group with one token becomes 0.

    Returns:
        The same shape.
    """
    flat = tokens.flatten(0, -2)

    def group_sums(x: Tensor) -> Tensor:
        if groups is None:
            return global_sum(x.sum(0, keepdim=True))
        return global_sum(x.new_zeros(num_groups, x.shape[-1]).index_add_(0, groups.flatten(), x))

    def of_each_token(x: Tensor) -> Tensor:
        return x if groups is None else x[groups.flatten()]

    count = group_sums(torch.ones_like(flat[:, :1])).clamp_min(1)
    centred = flat - of_each_token(group_sums(flat) / count)
    variance = group_sums(centred.square()) / count
    return (centred * of_each_token((variance + eps).rsqrt())).view_as(tokens)


class RunningStandardiser(nn.Module):
    """Zero mean and unit variance of each channel of tokens that are not trained, as a batch norm without parameters.

    In training by the tokens of all processes, in evaluation by averages of what was seen then.

    Args:
        dims: D.
        momentum: Weight of a new batch in the averages; that of torch's batch norm.
        eps: Added to the variance.
    """

    mean: Tensor
    variance: Tensor

    def __init__(self, dims: int, momentum: float = 0.1, eps: float = 1e-6) -> None:
        super().__init__()
        self.momentum = momentum
        self.eps = eps
        self.register_buffer('mean', torch.zeros(dims))
        self.register_buffer('variance', torch.ones(dims))

    @torch.no_grad()
    def forward(self, tokens: Tensor) -> Tensor:
        """Tokens (..., D) to the same shape and dtype; sums are in float32 at least."""
        dtype = tokens.dtype
        tokens = tokens.to(torch.promote_types(dtype, torch.float32))
        mean, variance = self.mean.to(tokens.dtype), self.variance.to(tokens.dtype)
        if self.training:
            flat = tokens.flatten(0, -2)
            count = global_sum(flat.new_tensor(float(len(flat))))
            mean = global_sum(flat.sum(0)) / count
            variance = global_sum((flat - mean).square().sum(0)) / count
            self.mean.lerp_(mean.to(self.mean.dtype), self.momentum)
            self.variance.lerp_(variance.to(self.mean.dtype), self.momentum)
        return ((tokens - mean) * (variance + self.eps).rsqrt()).to(dtype)


def unit_vectors(
    tokens: Tensor, norm: Literal['none', 'batch', 'position'], places: Tensor | None = None, num_places: int = 1
) -> Tensor:
    """L2-normalise embeddings, and standardise their channels before if asked for.

    Args:
        tokens: (L, E).
        norm: ``'batch'`` over all tokens of the joint batch, ``'position'`` at each place by itself; without ``places``
            the same as ``'batch'``.
        places: Place of each token, (...), L in all.
        num_places: Number of places.

    Returns:
        (L, E).
    """
    if norm == 'none':
        return F.normalize(tokens, dim=-1)
    if norm == 'position' and places is not None:
        tokens = standardise_channels(tokens, places.flatten(), num_places)
    else:
        tokens = standardise_channels(tokens)
    # of tokens that are all alike only rounding errors are left, which must not become directions: their norm is far
    # below the sqrt(E) of others
    return F.normalize(tokens, dim=-1, eps=0.1)
