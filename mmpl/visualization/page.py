"""The report as one HTML page that needs nothing but itself."""

from collections.abc import Iterable
from html import escape

import numpy as np

from .charts import chart_svg, charts_of
from .data import METRIC_NAMES, ReportData
from .panels import CAPTIONS, label_panels, pca_panels
from .pictures import Picture, png_data_uri

_STYLE = """
:root{color-scheme:light dark;--ink:#1f2328;--soft:#5c6670;--paper:#f6f7f8;--card:#fff;--line:#e1e4e8;
--good:#009E73;--bad:#D55E00;--accent:#0072B2}
@media (prefers-color-scheme:dark){:root{--ink:#e6e8eb;--soft:#9aa4af;--paper:#15181c;--card:#1d2127;--line:#30363d;
--accent:#56B4E9}}
*{box-sizing:border-box}
body{margin:0;background:var(--paper);color:var(--ink);
font:16px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif}
main{max-width:1120px;margin:0 auto;padding:2.5rem 1.25rem 4rem}
h1{font-size:2rem;line-height:1.2;margin:0 0 .75rem;letter-spacing:-.015em;overflow-wrap:anywhere}
h2{font-size:1.3rem;margin:2.75rem 0 .3rem;letter-spacing:-.01em}
h3{font-size:1rem;margin:0 0 .25rem}
p{margin:.25rem 0}
.caption{color:var(--soft);font-size:.92rem;max-width:95ch;margin-bottom:.9rem}
.summary{display:flex;flex-wrap:wrap;gap:.5rem 1.75rem;margin:0}
.summary dt{color:var(--soft);font-size:.8rem}.summary dd{margin:0;font-weight:600;overflow-wrap:anywhere}
.grid{display:grid;gap:1rem;grid-template-columns:repeat(auto-fit,minmax(min(100%,25rem),1fr))}
.tiles{grid-template-columns:repeat(auto-fill,minmax(min(100%,21rem),1fr))}
.card{background:var(--card);border:1px solid var(--line);border-radius:10px;padding:1rem;margin:0;min-width:0}
.card img.chart{width:100%;height:auto;display:block}
.card .caption{margin:.5rem 0 0}
.row{display:grid;gap:.5rem;grid-template-columns:repeat(var(--n),minmax(0,1fr));align-items:start}
.row+.row{margin-top:.9rem}
.cell{margin:0;min-width:0;text-align:center;font-size:.74rem;line-height:1.35;color:var(--soft);overflow-wrap:anywhere}
.cell img{width:100%;height:auto;display:block;border-radius:4px;border:3px solid transparent}
.cell img.pixel{image-rendering:pixelated}
.cell.good img{border-color:var(--good)}.cell.bad img{border-color:var(--bad)}
.cell.good b{color:var(--good)}.cell.bad b{color:var(--bad)}
.cell.query img{border-color:var(--line)}
table{border-collapse:collapse;width:100%}
th,td{padding:.55rem .75rem;text-align:right;border-bottom:1px solid var(--line);font-variant-numeric:tabular-nums}
th:first-child,td:first-child{text-align:left}thead th{color:var(--soft);font-weight:600;font-size:.88rem}
tbody tr:last-child td{border-bottom:0}td.best{font-weight:700;color:var(--accent)}
.scroll{overflow-x:auto}td{white-space:nowrap}
.notes{color:var(--soft);font-size:.9rem;padding-left:1.2rem}
@media print{body{background:#fff}.card{break-inside:avoid}}
"""


def _image(pixels: np.ndarray, alt: str) -> str:
    small = ' class="pixel"' if max(pixels.shape[:2]) < 160 else ''
    return f'<img{small} src="{png_data_uri(pixels)}" alt="{escape(alt)}" title="{escape(alt)}">'


def _cell(pixels: np.ndarray, alt: str, text: str, kind: str = '') -> str:
    return f'<figure class="cell {kind}">{_image(pixels, alt)}<figcaption>{text}</figcaption></figure>'


def _describe(picture: Picture) -> str:
    return ': '.join(part for part in (picture.class_name, picture.name) if part)


def _section(title: str, caption: str, body: str) -> str:
    return f'<section><h2>{escape(title)}</h2><p class="caption">{escape(caption)}</p>{body}</section>'


def _row(cells: Iterable[str]) -> str:
    cells = list(cells)
    return f'<div class="row" style="--n:{len(cells)}">{"".join(cells)}</div>'


def _charts(data: ReportData) -> str:
    cards = []
    for chart in charts_of(data.scalars):
        light, dark = (chart_svg(chart, data.scalars, theme) for theme in ('light', 'dark'))
        cards.append(
            f'<figure class="card"><h3>{escape(chart.title)}</h3><picture>'
            f'<source srcset="{dark}" media="(prefers-color-scheme: dark)">'
            f'<img class="chart" src="{light}" alt="Chart: {escape(chart.title)}"></picture>'
            f'<figcaption class="caption">{escape(chart.caption)}</figcaption></figure>'
        )
    return f'<section><h2>The run</h2><div class="grid">{"".join(cards)}</div></section>' if cards else ''


def _results(data: ReportData) -> str:
    if not data.results:
        return ''
    metrics = data.metrics
    best = {metric: max(stats[0] for row in data.results if (stats := row.mean_sd(metric))) for metric in metrics}
    head = ''.join(f'<th>{escape(METRIC_NAMES.get(metric, metric))}</th>' for metric in metrics)
    body = []
    for row in data.results:
        cells = []
        for metric in metrics:
            stats = row.mean_sd(metric)
            kind = ' class="best"' if stats and stats[0] == best[metric] else ''
            cells.append(f'<td{kind}>{escape(row.cell(metric))}</td>')
        seeds = max((len(values) for values in row.scores.values()), default=0)
        body.append(f'<tr><td>{escape(row.name)}</td>{"".join(cells)}<td>{seeds}</td></tr>')
    table = (
        f'<div class="card scroll"><table><thead><tr><th>method</th>{head}<th>seeds</th></tr></thead>'
        f'<tbody>{"".join(body)}</tbody></table></div>'
    )
    return _section('Results', CAPTIONS['results'], table)


def _neighbours(data: ReportData) -> str:
    rows = []
    for query, found in data.neighbours:
        cells = [_cell(query.pixels, _describe(query), f'query<br>{escape(query.class_name)}', 'query')]
        for item in found:
            mark = '✓' if item.correct else '✗'
            text = f'<b>{mark}</b> {item.similarity:.3f}<br>{escape(item.picture.class_name)}'
            kind = 'good' if item.correct else 'bad'
            cells.append(_cell(item.picture.pixels, _describe(item.picture), text, kind))
        rows.append(_row(cells))
    if not rows:
        return ''
    half = [f'<div class="card">{row}</div>' for row in rows]
    return _section('Nearest neighbours', CAPTIONS['neighbours'], f'<div class="grid">{"".join(half)}</div>')


def _panels(title: str, caption: str, panels: list[tuple[Picture, list[tuple[str, np.ndarray]]]]) -> str:
    if not panels:
        return ''
    cards = []
    for picture, images in panels:
        cells = [_cell(pixels, f'{_describe(picture)} ({name})', escape(name)) for name, pixels in images]
        cards.append(f'<div class="card">{_row(cells)}</div>')
    return _section(title, caption, f'<div class="grid tiles">{"".join(cards)}</div>')


def render_html(data: ReportData) -> str:
    """The whole page; every text from outside is escaped and every picture is inlined."""
    summary = ''.join(f'<div><dt>{escape(k)}</dt><dd>{escape(v)}</dd></div>' for k, v in data.summary)
    notes = ''.join(f'<li>{escape(note)}</li>' for note in data.notes)
    parts = [
        f'<header><h1>{escape(data.title)}</h1><dl class="summary">{summary}</dl></header>',
        _results(data),
        _charts(data),
        _neighbours(data),
        _panels('Label maps', CAPTIONS['labels'], label_panels(data)),
        _panels('Principal components of the patch features', CAPTIONS['pca'], pca_panels(data)),
        f'<section><h2>Not shown</h2><ul class="notes">{notes}</ul></section>' if notes else '',
    ]
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<title>{escape(data.title)}</title><style>{_STYLE}</style></head>\n<body><main>\n'
        + '\n'.join(part for part in parts if part)
        + '\n</main></body></html>\n'
    )
