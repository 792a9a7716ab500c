"""Table of the runs in WORK_DIR/seed_*: kNN and linear probe before and after pre-training, mean ± sd over the seeds.

python tools/benchmarks/summarise_seeds.py work_dirs/demo/mae_surfaces_20e work_dirs/demo/pl_mae_surfaces
"""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from bench.results import write_json
from bench.tables import as_markdown, as_rows, over_seeds
from mmpl.utils.user_errors import user_errors
from mmpl.visualization import read_scalars

COLUMNS = dict(knn='kNN top-1 (%)', linear='linear top-1 (%)')


def seed_dirs(work_dir: str | Path, seeds: Sequence[int] | None = None) -> list[Path]:
    """The work directories ``seed_*`` below a folder, in order, or those of some seeds; files do not count."""
    if seeds is not None:
        return [Path(work_dir) / f'seed_{seed}' for seed in seeds]
    return sorted(path for path in Path(work_dir).glob('seed_*') if path.is_dir())


def probes(folders: Mapping[str, str | Path], seeds: Sequence[int] | None = None) -> pd.DataFrame:
    """What the runs in ``FOLDER/seed_*`` logged of their probes, accuracies in percent.

    A run's first probe is the encoder as it was initialised, its last one the pre-trained encoder. Random
    initialisation is that of the last folder's runs.

    Args:
        folders: What a pre-trained encoder is called -> folder that holds the runs' work directories.
        seeds: Which of them; None: all.

    Raises:
        FileNotFoundError: If a folder holds no run.
        ValueError: If a run was not probed before and after its training, or one for longer than another.
    """
    rows: list[dict] = []
    for name, folder in folders.items():
        dirs = seed_dirs(folder, seeds)
        runs = [_first_and_last(run) for run in dirs]
        if not runs:
            raise FileNotFoundError(f'{folder} holds no work directory `seed_*`')
        ends = {run.name: end for run, (*_, end) in zip(dirs, runs, strict=True)}
        if len(set(ends.values())) > 1:
            raise ValueError(f'the runs in {folder} were last probed at different iterations, {ends}: was one stopped?')
        rows += [dict(name=name, **last) for _, last, _ in runs]
    return pd.DataFrame([*(dict(name='random init', **first) for first, *_ in runs), *rows])


def _first_and_last(run: Path) -> tuple[dict[str, float], dict[str, float], float]:
    series = read_scalars(run).series
    points = {metric: series.get(f'probe/{metric}_top1', []) for metric in COLUMNS}
    for metric, values in points.items():
        if len(values) < 2 or values[0][0] != 0:
            raise ValueError(
                f'{run} holds {len(values)} values of probe/{metric}_top1, but one from before and one from after '
                f'training are needed: was the run stopped, or FeatureProbeHook without `before_train=True`?'
            )
    first, last = ({metric: round(values[i][1], 4) for metric, values in points.items()} for i in (0, -1))
    return first, last, max(values[-1][0] for values in points.values())


@user_errors()
def main(argv: list[str] | None = None) -> None:
    """Collect, write results.json into each WORK_DIR and into each run, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        'work_dirs', nargs='+', metavar='WORK_DIR', help='folder that holds the work directories seed_*'
    )
    parser.add_argument(
        '--names', nargs='+', help="what the pre-trained encoders are called (default: the folders' names)"
    )
    parser.add_argument('--seeds', nargs='+', type=int, help='which of the runs (default: all)')
    args = parser.parse_args(argv)
    names = args.names or [Path(folder).name for folder in args.work_dirs]
    if len(names) != len(args.work_dirs) or len(set(names)) != len(names):
        raise ValueError(
            f'--names must be {len(args.work_dirs)} names, one for each WORK_DIR and all different, but got {names}'
        )
    runs = probes(dict(zip(names, args.work_dirs, strict=True)), args.seeds)
    for work_dir in args.work_dirs:
        for folder in (Path(work_dir), *seed_dirs(work_dir, args.seeds)):
            write_json(folder / 'results.json', as_rows(runs))
    print(as_markdown(over_seeds(runs, COLUMNS)))


if __name__ == '__main__':
    main()
