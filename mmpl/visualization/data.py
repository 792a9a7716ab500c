"""What a report shows, independent of how it is drawn."""

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from mmpl.utils.figures import Figure

from .pictures import Neighbour, Picture
from .scalars import Scalars

METRIC_NAMES = {'knn': 'kNN top-1 (%)', 'linear': 'linear probe top-1 (%)'}


@dataclass(frozen=True)
class ResultRow:
    """One line of the table of results.

    Attributes:
        name: Of the method.
        scores: Metric -> its value for each seed, in percent.
    """

    name: str
    scores: dict[str, tuple[float, ...]]

    def mean_sd(self, metric: str) -> tuple[float, float | None] | None:
        """Mean and sample standard deviation (None with one seed), or None if the metric was not measured."""
        values = self.scores.get(metric, ())
        if not values:
            return None
        return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None

    def cell(self, metric: str) -> str:
        """The metric as text."""
        stats = self.mean_sd(metric)
        if stats is None:
            return '–'
        mean, deviation = stats
        return f'{mean:.1f}' if deviation is None else f'{mean:.1f} ± {deviation:.1f}'


@dataclass
class ReportData:
    """Everything on the page; whatever is empty is left out.

    Attributes:
        title: Of the page.
        summary: (label, value) pairs.
        scalars: What the run logged.
        figures: Declarations of logged numbers, by the names that they are logged by.
        losses: Titles of losses by key; a loss without one is called what its key says.
        neighbours: (query, its nearest training images) pairs.
        label_maps: (image, (h, w) prototype indices) pairs.
        pca: (image, {'trained' | 'random init' | 'given weights': (h, w, 3) colours in [0, 1]}) pairs.
        attention: The same with (h, w) shares of the class token's attention.
        results: Rows of the table.
        notes: What is missing and why.
    """

    title: str
    summary: list[tuple[str, str]] = field(default_factory=list)
    scalars: Scalars = field(default_factory=lambda: Scalars({}))
    figures: Mapping[str, Figure] = field(default_factory=dict)
    losses: Mapping[str, str] = field(default_factory=dict)
    neighbours: list[tuple[Picture, list[Neighbour]]] = field(default_factory=list)
    label_maps: list[tuple[Picture, np.ndarray]] = field(default_factory=list)
    pca: list[tuple[Picture, dict[str, np.ndarray]]] = field(default_factory=list)
    attention: list[tuple[Picture, dict[str, np.ndarray]]] = field(default_factory=list)
    results: list[ResultRow] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def read_results(path: str | Path) -> list[ResultRow]:
    """Read ``results.json``: ``{"rows": [{"name": "PL-MAE", "knn": [..seeds], "linear": [..seeds]}, ...]}``.

    Raises:
        ValueError: If the file does not follow the schema; names the field.
    """
    content = json.loads(Path(path).read_text(encoding='utf-8'))
    rows = content.get('rows') if isinstance(content, dict) else None
    if not isinstance(rows, list):
        raise ValueError(f'{Path(path).name}: "rows" must be a list, got {type(rows).__name__}')
    return [_result_row(row, f'{Path(path).name}: rows[{index}]') for index, row in enumerate(rows)]


def _result_row(row: Any, where: str) -> ResultRow:
    if not isinstance(row, dict) or not isinstance(row.get('name'), str):
        raise ValueError(f'{where} must be an object with a text "name", got {row!r}')
    scores = {metric: values for metric, values in row.items() if metric != 'name'}
    for metric, values in scores.items():
        if not isinstance(values, Sequence) or any(
            isinstance(value, bool) or not isinstance(value, int | float) for value in values
        ):
            raise ValueError(f'{where}[{metric!r}] must be a list of numbers, one per seed, got {values!r}')
    return ResultRow(row['name'], {metric: tuple(map(float, values)) for metric, values in scores.items()})
