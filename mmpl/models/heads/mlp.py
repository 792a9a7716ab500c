"""The projector of the heads."""

from collections.abc import Sequence

from torch import nn
from torch.nn.init import trunc_normal_


def mlp(dims: Sequence[int]) -> nn.Sequential:
    """Linear layers of these widths, input first, with GELU between them."""
    layers: list[nn.Module] = []
    for index in range(len(dims) - 1):
        layers += [nn.GELU()] if index else []
        layers += [nn.Linear(dims[index], dims[index + 1])]
    return nn.Sequential(*layers)


def keep_variance(module: nn.Module) -> None:
    """Give the linear layers truncated normal weights whose outputs keep the inputs' variance, and zero biases."""
    for layer in module.modules():
        if isinstance(layer, nn.Linear):
            trunc_normal_(layer.weight, std=layer.in_features**-0.5)
            nn.init.zeros_(layer.bias)
