"""Table of the runs in WORK_DIR/seed_*: kNN and linear probe before and after pre-training, mean ± sd over the seeds.

python tools/benchmarks/summarise_seeds.py work_dirs/pl_mae_demo
"""

import argparse
from pathlib import Path

import pandas as pd

from bench.results import write_json
from bench.tables import as_markdown, as_rows, over_seeds
from mmpl.utils.user_errors import user_errors
from mmpl.visualization import read_scalars

COLUMNS = dict(knn='kNN top-1 (%)', linear='linear top-1 (%)')


def seed_dirs(work_dir: str | Path) -> list[Path]:
    """The work directories ``seed_*`` below a folder, in order; files beside them do not count."""
    return sorted(path for path in Path(work_dir).glob('seed_*') if path.is_dir())


def probes(work_dir: str | Path, name: str = 'PL-MAE') -> pd.DataFrame:
    """What the runs in ``work_dir/seed_*`` logged of their probes, accuracies in percent.

    A run's first probe is the encoder as it was initialised, its last one the pre-trained encoder.

    Args:
        work_dir: Folder that holds the runs' work directories.
        name: What the pre-trained encoder is called.

    Raises:
        FileNotFoundError: If there is no run.
        ValueError: If a run was not probed before and after its training.
    """
    rows: dict[str, list[dict]] = {'random init': [], name: []}
    for run in seed_dirs(work_dir):
        series = read_scalars(run).series
        points = {metric: series.get(f'probe/{metric}_top1', []) for metric in COLUMNS}
        for metric, values in points.items():
            if len(values) < 2:
                raise ValueError(
                    f'{run} holds {len(values)} values of probe/{metric}_top1, but one from before and one from after '
                    f'training are needed: was the run stopped, or FeatureProbeHook without `before_train=True`?'
                )
        for encoder, index in zip(rows, (0, -1), strict=True):
            rows[encoder].append(
                dict(name=encoder, **{metric: round(values[index][1], 4) for metric, values in points.items()})
            )
    if not rows[name]:
        raise FileNotFoundError(f'{work_dir} holds no work directory `seed_*`')
    return pd.DataFrame([row for encoder in rows.values() for row in encoder])


@user_errors()
def main(argv: list[str] | None = None) -> None:
    """Collect, write results.json into WORK_DIR and into each run, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('work_dir', help='folder that holds the work directories seed_*')
    parser.add_argument('--name', default='PL-MAE', help='what the pre-trained encoder is called (default: PL-MAE)')
    args = parser.parse_args(argv)
    runs = probes(args.work_dir, args.name)
    for folder in (Path(args.work_dir), *seed_dirs(args.work_dir)):
        write_json(folder / 'results.json', as_rows(runs))
    print(as_markdown(over_seeds(runs, COLUMNS)))


if __name__ == '__main__':
    main()
