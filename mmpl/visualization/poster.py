"""The report as one tall picture, drawn without a browser."""

import textwrap
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from .charts import THEMES, charts_of, draw_chart, theme_context
from .data import METRIC_NAMES, ReportData
from .panels import CAPTIONS, Panels, label_panels, pca_panels

WIDTH = 12.0  # inches
_MARGIN = 0.5
_INNER = WIDTH - 2 * _MARGIN
_INK, _SOFT, _LINE = (THEMES['light'][name] for name in ('ink', 'soft', 'grid'))
_GOOD, _BAD, _ACCENT = '#009E73', '#D55E00', '#0072B2'


class _Poster:
    """Places things from top to bottom; lengths in inches."""

    def __init__(self, height: float) -> None:
        self.figure = Figure(figsize=(WIDTH, height), facecolor='white')
        FigureCanvasAgg(self.figure)
        self.height = height
        self.y = _MARGIN

    def text(self, x: float, y: float, text: str, **style) -> None:
        style.setdefault('va', 'top')
        # dollar signs in names must not start a formula
        self.figure.text(x / WIDTH, 1 - y / self.height, text, parse_math=False, **style)

    def axes(self, x: float, y: float, width: float, height: float):
        return self.figure.add_axes((x / WIDTH, 1 - (y + height) / self.height, width / WIDTH, height / self.height))

    def line(self, y: float) -> None:
        patch = Rectangle((_MARGIN / WIDTH, 1 - y / self.height), _INNER / WIDTH, 0.01 / self.height, color=_LINE, lw=0)
        self.figure.add_artist(patch)

    def image(self, x: float, y: float, side: float, pixels: np.ndarray, frame: str | None = None) -> None:
        axes = self.axes(x, y, side, side)
        axes.imshow(pixels, interpolation='nearest' if max(pixels.shape[:2]) < 160 else 'antialiased')
        axes.set(xticks=[], yticks=[])
        axes.grid(False)
        for spine in axes.spines.values():
            spine.set(visible=frame is not None, color=frame or 'none', linewidth=2.5)

    def paragraph(self, text: str, width: int = 150, size: float = 9, **style) -> None:
        lines = textwrap.wrap(text, width) or ['']
        self.text(_MARGIN, self.y, '\n'.join(lines), fontsize=size, linespacing=1.35, **style)
        self.y += 0.2 * len(lines) * size / 9 + 0.1

    def heading(self, title: str, caption: str = '') -> None:
        self.y += 0.3
        self.text(_MARGIN, self.y, title, fontsize=14, fontweight='bold', color=_INK)
        self.y += 0.32
        if caption:
            self.paragraph(caption, color=_SOFT)


def _short(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1] + '…'


def _header(poster: _Poster, data: ReportData) -> None:
    poster.text(_MARGIN, poster.y, _short(data.title, 70), fontsize=20, fontweight='bold', color=_INK)
    poster.y += 0.48
    x = _MARGIN
    for label, value in data.summary:
        width = 0.3 + 0.095 * max(len(label), len(value))
        if x > _MARGIN and x + width > WIDTH - _MARGIN:
            x, poster.y = _MARGIN, poster.y + 0.45
        poster.text(x, poster.y, label, fontsize=8, color=_SOFT)
        poster.text(x, poster.y + 0.16, value, fontsize=10, fontweight='bold', color=_INK)
        x += width
    poster.y += 0.4


def _results(poster: _Poster, data: ReportData) -> None:
    if not data.results:
        return
    poster.heading('Results', CAPTIONS['results'])
    metrics = data.metrics
    best = {metric: max(stats[0] for row in data.results if (stats := row.mean_sd(metric))) for metric in metrics}
    columns = [_MARGIN + 5 + 2.6 * index for index in range(len(metrics))]
    poster.text(_MARGIN, poster.y, 'method', fontsize=9, color=_SOFT)
    for x, metric in zip(columns, metrics, strict=True):
        poster.text(x, poster.y, METRIC_NAMES.get(metric, metric), fontsize=9, color=_SOFT, ha='right')
    poster.y += 0.24
    for row in data.results:
        poster.line(poster.y)
        poster.text(_MARGIN, poster.y + 0.07, _short(row.name, 40), fontsize=10, color=_INK)
        for x, metric in zip(columns, metrics, strict=True):
            stats = row.mean_sd(metric)
            top = stats is not None and stats[0] == best[metric]
            style = dict(color=_ACCENT, fontweight='bold') if top else dict(color=_INK)
            poster.text(x, poster.y + 0.07, row.cell(metric), fontsize=10, ha='right', **style)
        poster.y += 0.3


def _charts(poster: _Poster, data: ReportData) -> None:
    charts = charts_of(data.scalars)
    if not charts:
        return
    poster.heading('The run')
    width, height = (_INNER - 0.4) / 2, 2.1
    for start in range(0, len(charts), 2):
        deepest = 0.0
        for column, chart in enumerate(charts[start : start + 2]):
            x = _MARGIN + column * (width + 0.4)
            poster.text(x, poster.y, chart.title, fontsize=11, fontweight='bold', color=_INK)
            legend_rows = (len(chart.lines) + 1) // 2
            top = poster.y + 0.3 + 0.18 * legend_rows
            draw_chart(poster.axes(x + 0.6, top, width - 0.65, height), chart, data.scalars)
            lines = textwrap.wrap(chart.caption, 82)
            below = top + height + 0.5
            poster.text(x, below, '\n'.join(lines), fontsize=8, color=_SOFT, linespacing=1.3)
            deepest = max(deepest, below + 0.17 * len(lines))
        poster.y = deepest + 0.3


def _neighbours(poster: _Poster, data: ReportData) -> None:
    if not data.neighbours:
        return
    poster.heading('Nearest neighbours', CAPTIONS['neighbours'])
    per_row = 1 + max(len(found) for _, found in data.neighbours)
    block = (_INNER - 0.4) / 2
    cell = block / per_row
    for index, (query, found) in enumerate(data.neighbours):
        x = _MARGIN + (index % 2) * (block + 0.4)
        items = [(query, 'query', _LINE, _SOFT)]
        for item in found:
            colour = _GOOD if item.correct else _BAD
            items.append((item.picture, f'{"✓" if item.correct else "✗"} {item.similarity:.3f}', colour, colour))
        for column, (picture, text, frame, ink) in enumerate(items):
            left, side = x + column * cell, cell - 0.1
            poster.image(left, poster.y, side, picture.pixels, frame)
            centre = left + side / 2
            poster.text(centre, poster.y + side + 0.05, text, fontsize=7.5, color=ink, ha='center')
            name = _short(picture.class_name, 12)
            poster.text(centre, poster.y + side + 0.18, name, fontsize=7, color=_SOFT, ha='center')
        if index % 2 or index == len(data.neighbours) - 1:
            poster.y += cell + 0.35


def _panels(poster: _Poster, title: str, caption: str, panels: Panels) -> None:
    if not panels:
        return
    poster.heading(title, caption)
    columns = 4 if len(panels[0][1]) == 2 else 3
    block = (_INNER - 0.3 * (columns - 1)) / columns
    for index, (_, images) in enumerate(panels):
        x = _MARGIN + (index % columns) * (block + 0.3)
        cell = block / len(images)
        for column, (name, pixels) in enumerate(images):
            left, side = x + column * cell, cell - 0.06
            poster.image(left, poster.y, side, pixels)
            poster.text(left + side / 2, poster.y + side + 0.04, name, fontsize=7.5, color=_SOFT, ha='center')
        if index % columns == columns - 1 or index == len(panels) - 1:
            poster.y += cell + 0.25


def _draw(data: ReportData, height: float) -> _Poster:
    poster = _Poster(height)
    _header(poster, data)
    _results(poster, data)
    _charts(poster, data)
    _neighbours(poster, data)
    _panels(poster, 'Label maps', CAPTIONS['labels'], label_panels(data))
    _panels(poster, 'Principal components of the patch features', CAPTIONS['pca'], pca_panels(data))
    if data.notes:
        poster.heading('Not shown')
        for note in data.notes:
            poster.paragraph(note, color=_SOFT)
    return poster


def render_poster(data: ReportData, out: str | Path, dpi: int = 150) -> Path:
    """Draw the report into a PNG 12 inches wide and as tall as it needs.

    Args:
        data: What to show.
        out: The file to write.
        dpi: Dots per inch.

    Returns:
        The file.
    """
    with theme_context('light'):
        height = _draw(data, 10.0).y + _MARGIN  # the first pass only measures
        figure = _draw(data, height).figure
        figure.savefig(out, dpi=dpi, metadata=dict(Software=None))
    return Path(out)
