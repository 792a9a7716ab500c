"""The sections of a report: what is below its title, each figure drawn once."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure

from mmpl.utils.figures import Chart

from .charts import Line, charts_of
from .data import METRIC_NAMES, ReportData
from .drawing import BAD, GOOD, INK, PALETTE, draw_images
from .pictures import Neighbour, Picture, label_colours, overlay_labels, rank_labels, short
from .scalars import Scalars

WIDTH, GAP = 11.0, 0.4  # of a row of panels and between two of them, in inches
_FEW = 10  # points of a line that are marked


@dataclass(frozen=True)
class Panel:
    """A figure with its texts; ``alt`` says in words what is seen."""

    figure: Figure
    alt: str
    title: str = ''
    caption: str = ''


@dataclass(frozen=True)
class Section:
    """A part of the report.

    Attributes:
        title: Heading.
        paragraphs: Text below it.
        panels: Figures.
        columns: How many figures fit side by side.
        table: Rows of (text, stands out) cells, the heading first.
    """

    title: str
    paragraphs: list[str] = field(default_factory=list)
    panels: list[Panel] = field(default_factory=list)
    columns: int = 2
    table: list[list[tuple[str, bool]]] = field(default_factory=list)


def sections_of(data: ReportData) -> list[Section]:
    """The sections that there is something to show in, drawn in the current theme."""
    charts = charts_of(data.scalars, data.figures, data.losses)
    results = (
        'Accuracy of the frozen encoder on held-out images, mean ± standard deviation over the seeds; the best mean of '
        'each column stands out.'
    )
    classes = any(item.correct is not None for _, found in data.neighbours for item in found)
    neighbours = (
        'Left the query from the validation images, then the training images with the most similar features (cosine '
        'below each): ✓ and a green frame mark the same class, ✗ and an orange-red frame another one.'
        if classes
        else 'Left the query, then the other training images with the most similar features (cosine below each).'
    )
    labels = (
        'Each data token is coloured by the label that the labelling teacher gives it: the same colour is the same '
        'prototype in all images, so parts that look alike should share colours.'
    )
    components = (
        'The first three principal components of the patch features as red, green and blue, fit over all the images '
        'shown: patches of the same colour have similar features, and a trained encoder should separate parts of '
        'objects from the background.'
    )
    attention = (
        'How much the class token attends to each patch in the last block, mean over the heads: the lighter the more, '
        'each map from 0 to its own maximum. It shows what the class token looks at, if a loss trains it.'
    )
    sections = [
        Section('Results', [results], table=_table(data)),
        Section('The run', panels=[_chart(chart, lines, data.scalars) for chart, lines in charts.items()]),
        Section('Nearest neighbours', [neighbours], [_neighbours(query, found) for query, found in data.neighbours]),
        Section('Label maps', [labels], _label_maps(data), columns=4),
        Section(
            'Principal components of the patch features',
            [components],
            [_row(picture, dict(image=picture.pixels, **maps), columns=3) for picture, maps in data.pca],
            columns=3,
        ),
        Section(
            'Attention of the class token',
            [attention],
            [
                _row(
                    picture,
                    {'image': picture.pixels} | {name: _heat(picture, shares) for name, shares in maps.items()},
                    3,
                )
                for picture, maps in data.attention
            ],
            columns=3,
        ),
    ]
    shown = [section for section in sections if section.panels or section.table]
    return [*shown, Section('Not shown', data.notes)] if data.notes else shown


def panel_width(columns: int) -> float:
    """Width in inches of each of so many figures side by side."""
    return (WIDTH - GAP * (columns - 1)) / columns


def _table(data: ReportData) -> list[list[tuple[str, bool]]]:
    if not data.results:
        return []
    metrics = list(dict.fromkeys(metric for row in data.results for metric in row.scores))
    means = {m: [stats[0] for row in data.results if (stats := row.mean_sd(m))] for m in metrics}
    table = [[(text, False) for text in ('method', *(METRIC_NAMES.get(m, m) for m in metrics), 'seeds')]]
    for row in data.results:
        cells = [(row.name, False)]
        for metric in metrics:
            stats = row.mean_sd(metric)
            cells.append((row.cell(metric), stats is not None and stats[0] == max(means[metric])))
        table.append([*cells, (str(max(map(len, row.scores.values()), default=0)), False)])
    return table


def _chart(chart: Chart, lines: Sequence[Line], scalars: Scalars) -> Panel:
    figure = Figure(figsize=(panel_width(2), 3.1), layout='constrained')
    axes = figure.add_subplot(xlabel=scalars.x_label, ylabel=chart.y_label)
    described = []
    for line in lines:
        x, y = scalars.curve(line.key)
        axes.plot(
            x,
            y,
            label=line.figure.label,
            color=PALETTE[line.colour % len(PALETTE)],
            linestyle=(0, (3, 2)) if line.figure.dashed else '-',
            marker='o' if len(x) <= _FEW else None,
            markersize=4,
        )
        described.append(f'{line.figure.label} from {y[0]:.4g} to {y[-1]:.4g}')
    axes.margins(x=0.02, y=0.08)
    columns = min(2, len(lines))
    axes.legend(loc='lower left', bbox_to_anchor=(-0.01, 1.0), ncols=columns, borderaxespad=0.2, handlelength=1.8)
    return Panel(figure, f'Chart: {chart.title}. {"; ".join(described)}.', chart.title, chart.caption)


def _neighbours(query: Picture, found: Sequence[Neighbour]) -> Panel:
    images = [(query.pixels, f'query\n{short(query.class_name)}', INK['soft'][0])]
    described = []
    for item in found:
        mark, colour = {True: ('✓ ', GOOD), False: ('✗ ', BAD), None: ('', INK['soft'][0])}[item.correct]
        text = f'{mark}{item.similarity:.3f}'
        images.append((item.picture.pixels, f'{text}\n{short(item.picture.class_name)}', colour))
        described.append(f'{text} {item.picture}')
    return Panel(draw_images(images, panel_width(2)), f'Query {query}; nearest: {", ".join(described)}')


def _label_maps(data: ReportData) -> list[Panel]:
    """Each image, and its label map laid over it; the most frequent labels get the most distinct colours."""
    if not data.label_maps:
        return []
    ranked, used = rank_labels(np.stack([labels for _, labels in data.label_maps]))
    colours = label_colours(len(used))
    return [
        _row(picture, dict(image=picture.pixels, labels=overlay_labels(picture.pixels, labels, colours)), columns=4)
        for (picture, _), labels in zip(data.label_maps, ranked, strict=True)
    ]


def _heat(picture: Picture, shares: np.ndarray) -> np.ndarray:
    """Numbers (h, w) of at least 0 as a picture of an image's size, the largest the lightest."""
    colours = (colormaps['inferno'](np.arange(256))[:, :3] * 255).round().astype(np.uint8)
    return overlay_labels(picture.pixels, np.rint(255 * shares / shares.max()).astype(int), colours, alpha=1)


def _row(picture: Picture, images: dict[str, np.ndarray], columns: int) -> Panel:
    figure = draw_images([(pixels, name, '') for name, pixels in images.items()], panel_width(columns))
    return Panel(figure, f'{picture} ({", ".join(images)})')
