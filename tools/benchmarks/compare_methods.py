#!/usr/bin/env python
"""Every method on the same data with the same budget: kNN, linear probe, fine-tuning with a tenth of the labels.

    python tools/benchmarks/compare_methods.py                      # the default bench
    python tools/benchmarks/compare_methods.py --quick              # one seed, fewer images
    python tools/benchmarks/compare_methods.py --full               # more images, five seeds
    python tools/benchmarks/compare_methods.py --only surfaces-images-pl_mae   # some rows; a key starts with this
    python tools/benchmarks/compare_methods.py --table              # no training: tables and plot of what is there

Results are one JSON file a run in ``--out``; what is there is not run again.
"""

import argparse
import os
import sys
from pathlib import Path

from tqdm import tqdm

from mmpl.evaluation import compare
from mmpl.utils.config_errors import read_config
from mmpl.utils.user_errors import user_errors

ROOT = Path(__file__).resolve().parents[2]


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--config', type=Path, help='the comparison; default: configs/benchmarks/compare_methods.py')
    form = parser.add_mutually_exclusive_group()
    form.add_argument('--quick', action='store_true', help='one seed, fewer images')
    form.add_argument('--full', action='store_true', help='more images, five seeds')
    parser.add_argument(
        '--out', type=Path, help='folder of the results; default: work_dirs/compare_methods[_quick|_full]'
    )
    parser.add_argument(
        '--only', nargs='+', default=[''], metavar='KEY', help='runs whose key starts with one of these'
    )
    parser.add_argument('--jobs', type=int, default=max(1, os.cpu_count() or 1), help='runs at once; default: cores')
    parser.add_argument('--table', action='store_true', help='only write the tables and the plot')
    parser.add_argument('--run', metavar='KEY', help=argparse.SUPPRESS)  # one run, in this process
    args = parser.parse_args(argv)
    form_name = 'quick' if args.quick else 'full' if args.full else ''
    if args.config is None:
        args.config = ROOT / 'configs/benchmarks' / f'compare_methods{"_" * bool(form_name)}{form_name}.py'
    elif form_name:
        parser.error(f'--{form_name} names a config of its own: leave out --config')
    if args.out is None:
        args.out = Path('work_dirs') / args.config.stem
    if args.jobs < 1:
        parser.error(f'--jobs must be at least 1, but got {args.jobs}')
    return args


@user_errors()
def main(argv: list[str] | None = None) -> int:
    """Run the bench; returns the number of runs that failed."""
    args = parse_args(argv)
    bench = compare.Bench(read_config(args.config), args.out / 'runs', Path('work_dirs') / args.config.stem)
    plan = bench.plan()
    if args.run:
        chosen = [run for run in plan if run.key == args.run]
        if not chosen:
            raise ValueError(f'--run {args.run}: there is no such run; keys are {", ".join(r.key for r in plan)}')
        bench.execute(chosen[0])
        return 0
    wanted = [run for run in plan if run.key.startswith(tuple(args.only))]
    if not wanted:
        raise ValueError(
            f'--only {" ".join(args.only)}: no run has such a key; keys are {", ".join(r.key for r in plan)}'
        )
    failed = 0
    if not args.table:
        failed = run_all(bench, wanted, args)
    table = compare.write_all(bench, args.out) if compare.collect(bench) else ''
    if table:
        print(f'{table}\nwrote {args.out}/table.md, results.csv and curves.png')
    elif not failed:
        raise FileNotFoundError(f'no result in {bench.results} is one of {args.config} as it is now')
    return failed


def run_all(bench: compare.Bench, wanted: list[compare.Run], args: argparse.Namespace) -> int:
    """Train what is missing, with a line for each run that ends and a bar below; returns the number of failures."""
    done = sum(bench.load(run) is not None for run in wanted)
    print(f'{len(wanted)} runs, {done} of them done already, {args.jobs} at once', flush=True)
    command = [compare.python(), str(Path(__file__).resolve()), '--config', str(args.config), '--out', str(args.out)]
    failed = 0
    with tqdm(total=len(wanted), initial=done, unit='run', smoothing=0) as bar:
        for number, (run, code) in enumerate(compare.schedule(bench, wanted, [*command, '--run'], args.jobs), 1):
            if code:
                failed += 1
                bar.write(f'{run.key} FAILED ({code}): see {bench.work_dir / run.key / "log.txt"}')
            else:
                result = bench.load(run) or {}
                figures = '  '.join(f'{metric} {result[metric]:.1f}' for metric in compare.METRICS)
                bar.write(f'{run.key}: {figures}  {result["seconds"]:.0f} s')
            bar.update()
            if number % 5 == 0:
                compare.write_all(bench, args.out)
    return failed


if __name__ == '__main__':
    sys.exit(min(main(), 1))
