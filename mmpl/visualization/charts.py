"""Charts of a run, drawn once for the page (SVG, light and dark) and once for the picture."""

import base64
import io
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .scalars import Scalars

# Okabe and Ito's palette, which colour-blind readers can tell apart; the yellow is too pale for lines.
_COLOURS = ('#0072B2', '#D55E00', '#009E73', '#CC79A7', '#E69F00', '#56B4E9')
THEMES = {
    'light': dict(ink='#1f2328', soft='#6a737d', grid='#e4e7eb', paper='#ffffff'),
    'dark': dict(ink='#e6e8eb', soft='#9aa4af', grid='#363c44', paper='#1d2127'),
}


@dataclass(frozen=True)
class Line:
    """One line of a chart: a series, its name in the legend and its dash pattern."""

    key: str
    label: str
    dashed: bool = False
    colour: int | None = None


@dataclass(frozen=True)
class Chart:
    """A chart of several series.

    Attributes:
        title: What it shows.
        caption: One sentence: how to read it.
        lines: The series that were logged.
        y_label: With the unit.
    """

    title: str
    caption: str
    lines: tuple[Line, ...]
    y_label: str = ''
    markers: bool = False


_HEADS = (('cls', 'class token'), ('data', 'data tokens'))


def _health(suffix: str, label: str, dashed: bool = False) -> list[Line]:
    return [Line(f'{head}_{suffix}', f'{name}, {label}', dashed, i) for i, (head, name) in enumerate(_HEADS)]


_CHARTS = (
    Chart(
        'Loss',
        'The total and the parts it sums; every line should fall or level off, and a jump or a gap is worth a look.',
        (
            Line('loss', 'total'),
            Line('loss_recon', 'reconstruction'),
            Line('loss_label_cls', 'label, class token'),
            Line('loss_label_data', 'label, data tokens'),
            Line('loss_align_cls', 'alignment, class token'),
            Line('loss_align_tokens', 'alignment, data tokens'),
        ),
    ),
    Chart(
        'Frozen features',
        'Accuracy of the frozen encoder on held-out images, by nearest neighbours and by a linear classifier; '
        'higher is better, and the first point is what the untrained encoder reaches.',
        (Line('probe/linear_top1', 'linear probe'), Line('probe/knn_top1', 'kNN')),
        'top-1 (%)',
        markers=True,
    ),
    Chart(
        'Entropy of the labels',
        'Of one image (solid: low is sure) and of the batch average (dashed: high means many labels are in use); '
        'both near 0, or both near 1, mean collapse.',
        (*_health('entropy_mean', 'per token'), *_health('entropy_marginal', 'batch mean', dashed=True)),
        'entropy / log K',
    ),
    Chart(
        'Use and agreement of the labels',
        'Share of prototypes that are used (solid) and how often student and teacher choose the same one (dashed); '
        'usage that falls towards 0 means collapse.',
        (*_health('usage', 'prototypes used'), *_health('agreement', 'agreement', dashed=True)),
        'share',
    ),
    Chart(
        'Alignment of student and teacher',
        'Cosine between what the student predicts and what the teacher sees (solid), and how far the teacher tells '
        'tokens apart (dashed: 0 means that all have one embedding, which is collapse).',
        tuple(
            Line(f'align_{head}_{figure}', f'{name}, {label}', dashed, i)
            for figure, label, dashed in (('cosine', 'cosine', False), ('spread', 'spread', True))
            for i, (head, name) in enumerate((('cls', 'class token'), ('tokens', 'data tokens')))
        ),
    ),
    Chart(
        'Momenta of the teachers',
        'How much of itself each teacher keeps per step; the closer to 1, the slower it follows the student.',
        (
            Line('momentum_label', 'labelling teacher'),
            Line('momentum_recon', 'reconstruction teacher'),
            Line('momentum_align', 'alignment teacher'),
        ),
        'momentum',
    ),
    Chart(
        'Temperature of the teacher',
        'The lower, the sharper the labels that the teacher gives.',
        (Line('teacher_temp', 'teacher'),),
        'temperature',
    ),
    Chart(
        'Norm of the target features',
        'Mean length of the features to reconstruct, before normalisation; it must not run to 0.',
        (Line('target_norm', 'target'),),
        'norm',
    ),
)


def charts_of(scalars: Scalars) -> list[Chart]:
    """The charts that this run has series for, with these series only."""
    charts = []
    for chart in _CHARTS:
        lines = tuple(line for line in chart.lines if scalars.series.get(line.key))
        if lines:
            charts.append(Chart(chart.title, chart.caption, lines, chart.y_label, chart.markers))
    return charts


def theme_context(theme: str) -> AbstractContextManager[Any]:
    """Matplotlib settings of one of :data:`THEMES`."""
    colours: Mapping[str, str] = THEMES[theme]
    return mpl.rc_context(
        {
            'font.family': 'sans-serif',
            'font.size': 9,
            'text.color': colours['ink'],
            'axes.labelcolor': colours['soft'],
            'axes.edgecolor': colours['grid'],
            'axes.facecolor': 'none',
            'axes.spines.top': False,
            'axes.spines.right': False,
            'axes.grid': True,
            'axes.grid.axis': 'y',
            'axes.axisbelow': True,
            'axes.formatter.useoffset': False,
            'grid.color': colours['grid'],
            'grid.linewidth': 0.8,
            'xtick.color': colours['soft'],
            'ytick.color': colours['soft'],
            'xtick.major.size': 0,
            'ytick.major.size': 0,
            'legend.frameon': False,
            'legend.fontsize': 8,
            'lines.linewidth': 1.6,
            'lines.solid_capstyle': 'round',
            'figure.facecolor': 'none',
            'svg.fonttype': 'path',
            'svg.hashsalt': 'mmpl',
        }
    )


def draw_chart(axes: Axes, chart: Chart, scalars: Scalars) -> None:
    """Draw a chart into axes, in the current theme."""
    for index, line in enumerate(chart.lines):
        x, y = scalars.curve(line.key)
        axes.plot(
            x,
            y,
            label=line.label,
            color=_COLOURS[index if line.colour is None else line.colour],
            linestyle=(0, (3, 2)) if line.dashed else '-',
            marker='o' if chart.markers or len(x) == 1 else None,
            markersize=4,
        )
    axes.set_xlabel(scalars.x_label)
    axes.set_ylabel(chart.y_label)
    axes.margins(x=0.02, y=0.08)
    columns = 2 if len(chart.lines) > 1 else 1
    axes.legend(loc='lower left', bbox_to_anchor=(-0.01, 1.0), ncols=columns, borderaxespad=0.2, handlelength=1.8)


def chart_svg(chart: Chart, scalars: Scalars, theme: str) -> str:
    """A chart as a ``data:`` URI of an SVG; glyphs are paths, so that no font is needed."""
    with theme_context(theme):
        figure = Figure(figsize=(5.4, 3.1), layout='constrained')
        draw_chart(figure.add_subplot(), chart, scalars)
        buffer = io.StringIO()
        figure.savefig(buffer, format='svg', metadata=dict(Creator=None, Date=None, Format=None, Type=None))
    text = buffer.getvalue()
    text = text[text.index('<svg') :]
    return 'data:image/svg+xml;base64,' + base64.b64encode(text.encode()).decode('ascii')
