"""Figures that tell how a run fares, each declared once, where it is computed.

From the declaration a figure is logged, warned about, charted and tabulated; see :class:`mmpl.methods.base.Method`.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from mmengine.dist import all_reduce_dict
from torch import Tensor


@dataclass(frozen=True)
class Chart:
    """What several figures are drawn into.

    Attributes:
        title: Heading.
        caption: What one sees, in a sentence.
        y_label: Of the vertical axis.
    """

    title: str
    caption: str
    y_label: str = ''


@dataclass(frozen=True)
class Figure:
    """Declaration of a logged number.

    Attributes:
        label: What it is, in a few words: on its line of the chart.
        chart: Where it is drawn.
        healthy: Lowest and highest healthy value; None for no bound.
        advice: What to try when it is not healthy.
        dashed: How its line is drawn.
        column: Heading in tables of runs; empty: in none.
        part: What it is a figure of, such as ``'cls'``; the figures of one part have one colour.
    """

    label: str
    chart: Chart
    healthy: tuple[float | None, float | None] = (None, None)
    advice: str = ''
    dashed: bool = False
    column: str = ''
    part: str = ''

    def is_healthy(self, value: float) -> bool:
        """Whether a value is within the bounds; NaN is not."""
        low, high = self.healthy
        return (low is None or value >= low) and (high is None or value <= high) and value == value


class Sums(Protocol):
    """Sums over the tokens of a batch from which figures follow; a NamedTuple of tensors."""

    def _asdict(self) -> dict[str, Tensor]:
        """The sums by name."""

    def figures(self) -> dict[str, float]:
        """The figures by name; those without a value are left out."""


def of_part(part: str, label: str, figures: Mapping[str, Figure]) -> dict[str, Figure]:
    """Declarations under the names that they are logged by: ``<part>_<name>``.

    Args:
        part: Such as ``'cls'``.
        label: The same in words, such as ``'class token'``.
        figures: Declarations by name.
    """
    return {
        f'{part}_{name}': dataclasses.replace(figure, label=f'{label}, {figure.label}', part=part)
        for name, figure in figures.items()
    }


def measured(figures: Mapping[str, Sums | Tensor]) -> dict[str, float]:
    """Values of figures over the batches of all processes; every process must call it with the same names.

    Args:
        figures: Sums by part, which are added up and give ``<part>_<name>`` each; or numbers by name, (), which are
            averaged.
    """
    reduced: dict[str, dict[str, Tensor]] = {}
    for name, figure in figures.items():
        single = isinstance(figure, Tensor)
        reduced[name] = dict(value=figure.detach().clone()) if isinstance(figure, Tensor) else figure._asdict()
        all_reduce_dict(reduced[name], 'mean' if single else 'sum')
    on_host = iter(_to_host([tensor for part in reduced.values() for tensor in part.values()]))
    values: dict[str, float] = {}
    for name, figure in figures.items():
        part = {key: next(on_host) for key in reduced[name]}
        if isinstance(figure, Tensor):
            values[name] = part['value'].item()
        else:
            values |= {f'{name}_{key}': value for key, value in type(figure)(**part).figures().items()}
    return values


def _to_host(tensors: list[Tensor]) -> list[Tensor]:
    """Tensors on the CPU, in one transfer; where they are there they stay as they are."""
    if not tensors or not tensors[0].is_cuda:
        return tensors
    packed = torch.cat([tensor.flatten().double() for tensor in tensors]).cpu()
    parts = packed.split([tensor.numel() for tensor in tensors])
    return [part.view(tensor.shape).to(tensor.dtype) for part, tensor in zip(parts, tensors, strict=True)]
