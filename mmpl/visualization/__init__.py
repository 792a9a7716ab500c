"""What the user sees of a run: one page with curves, neighbours, label maps, components and attention."""

from .data import ReportData, ResultRow, read_results
from .page import render_report
from .pictures import (
    Neighbour,
    Picture,
    label_colours,
    nearest_neighbours,
    overlay_labels,
    pca_rgb,
)
from .report import ReportOptions, build_report, collect_report
from .scalars import Scalars, read_scalars

__all__ = [
    'Neighbour',
    'Picture',
    'ReportData',
    'ReportOptions',
    'ResultRow',
    'Scalars',
    'build_report',
    'collect_report',
    'label_colours',
    'nearest_neighbours',
    'overlay_labels',
    'pca_rgb',
    'read_results',
    'read_scalars',
    'render_report',
]
