"""Runs that differ only in their seed, side by side."""

import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

METRICS = ('knn', 'linear')


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


def as_markdown(rows: Sequence[Mapping]) -> str:
    """The rows as a Markdown table, mean ± standard deviation (of the sample) over the seeds.

    Args:
        rows (Sequence[Mapping]): From :func:`summarise_seeds`.

    Returns:
        str: The table.
    """
    lines = ['| encoder | kNN top-1 (%) | linear top-1 (%) | seeds |', '| --- | --- | --- | --- |']
    for row in rows:
        cells = []
        for metric in METRICS:
            values = row[metric]
            spread = f' ± {statistics.stdev(values):.1f}' if len(values) > 1 else ''
            cells.append(f'{statistics.mean(values):.1f}{spread}')
        lines.append(f'| {row["name"]} | {" | ".join(cells)} | {len(row[METRICS[0]])} |')
    return '\n'.join(lines)


def write_summary(rows: Sequence[Mapping], *folders: str | Path) -> None:
    """Write ``results.json``, which the report reads, into folders.

    Args:
        rows (Sequence[Mapping]): From :func:`summarise_seeds`.
        *folders (str | Path): Where to.
    """
    for folder in folders:
        (Path(folder) / 'results.json').write_text(json.dumps(dict(rows=list(rows)), indent=2) + '\n')
