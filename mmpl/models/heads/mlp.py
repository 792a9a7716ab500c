"""The projector of the heads."""

from collections.abc import Sequence

from torch import nn


def mlp(dims: Sequence[int]) -> nn.Sequential:
    """Linear layers of these widths, input first, with GELU between them."""
    layers: list[nn.Module] = []
    for index in range(len(dims) - 1):
        layers += [nn.GELU()] if index else []
        layers += [nn.Linear(dims[index], dims[index + 1])]
    return nn.Sequential(*layers)
