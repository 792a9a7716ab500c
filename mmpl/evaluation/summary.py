"""Runs that differ only in their seed, side by side."""

import csv
import io
import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

COLUMNS = {'knn': 'kNN top-1 (%)', 'linear': 'linear top-1 (%)'}
METRICS = tuple(COLUMNS)


def seed_dirs(work_dir: str | Path) -> list[Path]:
    """The work directories ``seed_*`` below a folder, in order; files beside them do not count."""
    return sorted(path for path in Path(work_dir).glob('seed_*') if path.is_dir())


def summarise_seeds(work_dir: str | Path, name: str = 'pre-trained') -> list[dict]:
    """Collect what the runs in ``work_dir/seed_*`` logged of their probes.

    A run's first probe is the encoder as it was initialised, its last one the pre-trained encoder.

    Args:
        work_dir (str | Path): Folder that holds the runs' work directories.
        name (str): What the pre-trained encoder is called.

    Returns:
        list[dict]: Two rows, ``name``, ``knn`` and ``linear``, with one accuracy in percent for each seed.

    Raises:
        FileNotFoundError: If there is no run.
        ValueError: If a run was not probed before and after its training.
    """
    from mmpl.visualization import read_scalars

    runs = seed_dirs(work_dir)
    if not runs:
        raise FileNotFoundError(f'{work_dir} holds no work directory `seed_*`')
    rows: list[dict] = [dict(name='random init'), dict(name=name)]
    for run in runs:
        series = read_scalars(run).series
        for metric in METRICS:
            points = series.get(f'probe/{metric}_top1', [])
            if len(points) < 2:
                raise ValueError(
                    f'{run} holds {len(points)} values of probe/{metric}_top1, but one from before and one from after '
                    f'training are needed: was the run stopped, or FeatureProbeHook without `before_train=True`?'
                )
            for row, (_, value) in zip(rows, (points[0], points[-1]), strict=True):
                row.setdefault(metric, []).append(round(value, 4))
    return rows


def as_markdown(rows: Sequence[Mapping], columns: Mapping[str, str] = COLUMNS) -> str:
    """The rows as a Markdown table, mean ± standard deviation (of the sample) over the seeds.

    Args:
        rows (Sequence[Mapping]): ``name``, and for each metric the values of all seeds.
        columns (Mapping): Heading of each metric that is shown.

    Returns:
        str: The table.
    """
    lines = [f'| encoder | {" | ".join(columns.values())} | seeds |', '| --- ' * (len(columns) + 2) + '|']
    for row in rows:
        cells = []
        for metric in columns:
            values = row[metric]
            spread = f' ± {statistics.stdev(values):.1f}' if len(values) > 1 else ''
            cells.append(f'{statistics.mean(values):.1f}{spread}')
        lines.append(f'| {row["name"]} | {" | ".join(cells)} | {len(row[next(iter(columns))])} |')
    return '\n'.join(lines)


def as_csv(rows: Sequence[Mapping], columns: Mapping[str, str] = COLUMNS) -> str:
    """The rows as CSV: encoder, metric, mean, standard deviation (of the sample; empty with one seed), the values.

    Args:
        rows (Sequence[Mapping]): As for :func:`as_markdown`.
        columns (Mapping): The metrics that are listed.

    Returns:
        str: One line for each encoder and metric, below a line of headings.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator='\n')
    writer.writerow(['encoder', 'metric', 'mean', 'sd', 'seeds', 'values'])
    for row in rows:
        for metric in columns:
            values = row[metric]
            spread = f'{statistics.stdev(values):.4f}' if len(values) > 1 else ''
            listed = ' '.join(f'{value:.4f}' for value in values)
            writer.writerow([row['name'], metric, f'{statistics.mean(values):.4f}', spread, len(values), listed])
    return text.getvalue()


def write_summary(rows: Sequence[Mapping], *folders: str | Path) -> None:
    """Write ``results.json``, which the report reads, into folders.

    Args:
        rows (Sequence[Mapping]): From :func:`summarise_seeds`.
        *folders (str | Path): Where to.
    """
    for folder in folders:
        (Path(folder) / 'results.json').write_text(json.dumps(dict(rows=list(rows)), indent=2) + '\n')
