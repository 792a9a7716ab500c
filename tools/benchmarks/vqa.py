#!/usr/bin/env python
"""Visual question answering on easy-vqa, from checkpoints, from random weights, and from the question alone.

Writes a table (vqa.md, vqa.csv), answers of yes and no apart from all others, and a picture of questions with answers
right and wrong (vqa.png) into the work directory, and prints the table. Every run (a task, an encoder, a seed) is a
process with one thread. Runs that finished are not repeated, one that was killed goes on::

    bash tools/benchmarks/vqa.sh --encoder MAE work_dirs/mae/iter_600.pth --encoder PL-MAE work_dirs/pl_mae/iter_600.pth
"""

import argparse
import sys
from pathlib import Path

from bench.arguments import add_job_arguments, at_least
from mmpl.compat import add_trust_argument, set_load_policy
from mmpl.utils.user_errors import user_errors
from transfer import RANDOM, Run, Runs, Task, folder_name

BLIND = 'question only'
"""Name of the rows of the model that sees no image."""
_PICTURES = 8
_METRICS = dict(other='accuracy_other', yes_no='accuracy_yes_no', all='accuracy')
_ANSWERS = dict(other='other answers', yes_no='yes/no', all='all')


def _task(name: str, title: str) -> Task:
    metrics = {f'{name}_{column}': (f'vqa/{metric}', 1.0) for column, metric in _METRICS.items()}
    return Task(title, f'vqa/vit_{name}_easy_vqa.py', metrics, _PICTURES)


TASKS = dict(
    finetune=_task('finetune', 'Questions, encoder fine-tuned'), frozen=_task('frozen', 'Questions, encoder frozen')
)
COLUMNS = {f'{task}_{column}': f'{task}: {text} (%)' for task in TASKS for column, text in _ANSWERS.items()}


class VQABench(Runs):
    """The controls, and each encoder that is given; ``args`` are those of :func:`parse_args`.

    Raises:
        ValueError: If an encoder has no name of its own, or neither one checkpoint nor one for each seed.
    """

    NAME, TASKS, COLUMNS = 'vqa', TASKS, COLUMNS

    def __init__(self, args: argparse.Namespace) -> None:
        self.encoders: dict[str, list[Path | None]] = {name: [None] * len(args.seeds) for name in (BLIND, RANDOM)}
        folders = {folder_name(name) for name in self.encoders}  # names have no spaces there
        for name, *paths in args.encoder:
            if not name or '/' in name or folder_name(name) in folders:
                raise ValueError(
                    f"--encoder must begin with a name of its own, without '/', other than {BLIND!r} and {RANDOM!r}, "
                    f'but got {name!r}'
                )
            if len(paths) not in (1, len(args.seeds)):
                raise ValueError(
                    f'--encoder {name} must have one checkpoint, or one for each of the {len(args.seeds)} seeds, but '
                    f'got {len(paths)}'
                )
            folders.add(folder_name(name))
            repeats = len(args.seeds) // len(paths)
            self.encoders[name] = [Path(path).resolve() for _ in range(repeats) for path in paths]
        super().__init__(args, [path for paths in self.encoders.values() for path in paths if path])

    def plan(self) -> list[Run]:
        """All runs, in the order in which they are started."""
        return [
            Run(task, name, seed, paths[index], self.out / task / folder_name(name) / f'seed_{seed}')
            for task in self.tasks
            for index, seed in enumerate(self.args.seeds)
            for name, paths in self.encoders.items()
        ]

    def start(self, run: Run) -> list[str]:
        """Options that let a run start from its encoder, or look at no image."""
        if run.checkpoint:
            return super().start(run)
        return ['model.backbone.init_cfg=None', f'model.blind={run.encoder == BLIND}']


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        '--encoder',
        nargs='+',
        action='append',
        default=[],
        metavar=('NAME', 'CHECKPOINT'),
        help='name for the table and one checkpoint, or one for each seed; may be given several times',
    )
    parser.add_argument('--seeds', type=at_least(0), nargs='+', default=[0, 1, 2], help='of all but the encoder')
    parser.add_argument('--tasks', nargs='+', choices=list(TASKS), default=['frozen'], help='default: frozen')
    parser.add_argument('--work-dir', default='work_dirs/vqa', help='folder of all results (default: work_dirs/vqa)')
    parser.add_argument('--cfg-options', nargs='+', default=[], help="override fields of every run's config: key=value")
    add_job_arguments(parser)
    add_trust_argument(parser)
    return parser.parse_args(argv)


@user_errors()
def main(argv: list[str] | None = None) -> None:
    """Run the tool."""
    args = parse_args(argv)
    set_load_policy(args.trust)
    bench = VQABench(args)
    if args.run:
        bench.execute({run.key: run for run in bench.plan()}[args.run])
        return
    bench.run_all([sys.executable, __file__, *(sys.argv[1:] if argv is None else argv)])


if __name__ == '__main__':
    main()
