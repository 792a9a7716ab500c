"""Which charts a run has, from the declarations of what it logged."""

from collections.abc import Mapping
from dataclasses import dataclass

from mmpl.utils.figures import Chart, Figure

from .scalars import Scalars

LOSSES = Chart(
    'Loss', 'The total and the parts it sums; every line should fall or level off, and a jump or a gap is worth a look.'
)
_PROBES = Chart(
    'Frozen features',
    'Accuracy of the frozen encoder on held-out images, by nearest neighbours and by a linear classifier; '
    'higher is better, and a point at 0 is what the encoder starts from.',
    'top-1 (%)',
)
_PATCHES = Chart(
    'Frozen features of patches',
    'How well single patches of the frozen encoder tell what is there, by nearest neighbours and by a linear head, on '
    'held-out images; higher is better, and a point at 0 is what the encoder starts from.',
    'mIoU (%)',
)
PROBE_FIGURES = {
    'probe/linear_top1': Figure('linear probe', _PROBES),
    'probe/knn_top1': Figure('kNN', _PROBES),
    'probe/patch_linear_miou': Figure('linear head', _PATCHES),
    'probe/patch_knn_miou': Figure('kNN', _PATCHES),
}


@dataclass(frozen=True)
class Line:
    """One line of a chart.

    Attributes:
        key: Its series.
        figure: What is declared of it.
        colour: Its number among the chart's colours; lines of one part share it, in all charts.
    """

    key: str
    figure: Figure
    colour: int


def charts_of(
    scalars: Scalars, figures: Mapping[str, Figure] | None = None, losses: Mapping[str, str] | None = None
) -> dict[Chart, list[Line]]:
    """The charts that a run has series for: its losses, its probes, and what its model declares.

    Args:
        scalars: What the run logged; each key that starts with ``loss`` is a line of the first chart.
        figures: The model's declarations by logged key.
        losses: The model's titles of its losses.
    """
    titles = {'loss': 'total', **(losses or {})}
    declared = {
        key: Figure(titles.get(key) or key.removeprefix('loss_').replace('_', ' '), LOSSES)
        for key in scalars.series
        if key.startswith('loss')
    }
    declared |= PROBE_FIGURES
    declared |= figures or {}
    parts = list(dict.fromkeys(figure.part for figure in declared.values() if figure.part))
    charts: dict[Chart, dict[str, Figure]] = {}
    for key, figure in declared.items():
        if scalars.series.get(key):
            charts.setdefault(figure.chart, {})[key] = figure
    return {chart: _lines(found, parts) for chart, found in charts.items()}


def _lines(figures: Mapping[str, Figure], parts: list[str]) -> list[Line]:
    shared = parts if any(figure.part for figure in figures.values()) else []
    order = [*shared, *(key for key, figure in figures.items() if not figure.part)]
    return [Line(key, figure, order.index(figure.part or key)) for key, figure in figures.items()]
