"""The report as one HTML page that needs nothing but itself, and its figures and texts as one picture."""

import base64
import io
from collections.abc import Sequence
from pathlib import Path

import jinja2
from matplotlib.figure import Figure
from PIL import Image, ImageOps

from mmpl.checkpoints.files import write_text

from .data import ReportData
from .drawing import ACCENT, DPI, INK, draw_text, join, rasterise, theme
from .panels import GAP, WIDTH, Panel, Section, panel_width, sections_of
from .pictures import short


def render_report(data: ReportData, out: str | Path) -> tuple[Path, Path]:
    """Write the page and, beside it, the picture.

    Args:
        data: What to show.
        out: The HTML file; the picture has the same name and ends with ``.png``.

    Returns:
        The HTML file and the PNG file.

    Raises:
        ValueError: If ``out`` does not end with ``.html``.
    """
    out = check_page(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    picture = out.with_suffix('.png')
    with theme():
        sections = sections_of(data)
        write_text(out, _page(data, sections))
        _picture(data, sections).save(picture, optimize=True)
    return out, picture


def check_page(out: str | Path) -> Path:
    """The path of a page, if it can be one.

    Raises:
        ValueError: If it does not end with ``.html``.
    """
    if Path(out).suffix.lower() not in ('.html', '.htm'):
        raise ValueError(f'out={Path(out).name!r} must end with .html')
    return Path(out)


def _page(data: ReportData, sections: Sequence[Section]) -> str:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader('mmpl', 'visualization'),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters['data_uri'] = _data_uri
    return environment.get_template('report.html').render(data=data, sections=sections, ink=INK, accent=ACCENT)


def _data_uri(figure: Figure) -> str:
    """A figure as a ``data:`` URI of an SVG, whose ink follows the reader's light or dark theme by itself."""
    buffer = io.StringIO()
    figure.savefig(buffer, format='svg', dpi=DPI, metadata=dict(Creator=None, Date=None, Format=None, Type=None))
    svg = buffer.getvalue()
    svg = svg[svg.index('<svg') :]
    for name, (light, _) in INK.items():
        svg = svg.replace(light, f'var(--{name})')
    light, dark = (''.join(f'--{name}:{tones[i]};' for name, tones in INK.items()) for i in (0, 1))
    style = f'<style>svg{{{light}}}@media (prefers-color-scheme:dark){{svg{{{dark}}}}}</style>'
    tag, end, content = svg.partition('>')
    return 'data:image/svg+xml;base64,' + base64.b64encode(f'{tag}{end}{style}{content}'.encode()).decode('ascii')


def _picture(data: ReportData, sections: Sequence[Section]) -> Image.Image:
    rows = [draw_text(data.title, WIDTH, 20, 'ink', 'bold'), _draw_summary(data.summary)]
    for section in sections:
        rows.append(ImageOps.expand(draw_text(section.title, WIDTH, 14, 'ink', 'bold'), (0, DPI // 5, 0, 0), 'white'))
        rows += [draw_text(paragraph, WIDTH) for paragraph in section.paragraphs]
        if section.table:
            rows.append(_draw_table(section.table))
        panels = [_draw_panel(panel, panel_width(section.columns)) for panel in section.panels]
        for start in range(0, len(panels), section.columns):
            rows.append(join(panels[start : start + section.columns], horizontal=True, gap=GAP))
    return ImageOps.expand(join(rows, gap=0.1), DPI // 2, 'white')


def _draw_panel(panel: Panel, width: float) -> Image.Image:
    above = [draw_text(panel.title, width, 11, 'ink', 'bold')] if panel.title else []
    below = [draw_text(panel.caption, width, 8)] if panel.caption else []
    return join([*above, rasterise(panel.figure), *below])


def _draw_summary(pairs: Sequence[tuple[str, str]], columns: int = 4) -> Image.Image:
    """Each value in bold below its label."""
    rows = -(-len(pairs) // columns) or 1
    figure = Figure(figsize=(WIDTH, 0.45 * rows))
    for index, (label, value) in enumerate(pairs):
        x, y = index % columns / columns, 1 - index // columns / rows
        figure.text(x, y, label, va='top', size=8, color=INK['soft'][0])
        figure.text(x, y - 0.34 / rows, short(value, 30), va='top', size=10, weight='bold')
    return rasterise(figure)


def _draw_table(table: Sequence[Sequence[tuple[str, bool]]]) -> Image.Image:
    """The heading in small letters, each cell but the first of a row flush right."""
    figure = Figure(figsize=(WIDTH, 0.3 * len(table)))
    axes = figure.add_axes((0, 0, 1, 1), xlim=(0, len(table[0])), ylim=(len(table), 0))
    axes.set_axis_off()
    for y, row in enumerate(table):
        if y:
            axes.axhline(y, color=INK['grid'][0])
        for column, (text, stands_out) in enumerate(row):
            x, side = (column + 1, 'right') if column else (0, 'left')
            ink = ACCENT if stands_out else INK['ink' if y else 'soft'][0]
            weight = 'bold' if stands_out else 'normal'
            axes.text(x, y + 0.5, text, size=10 if y else 9, color=ink, weight=weight, ha=side, va='center')
    return rasterise(figure)
