#!/usr/bin/env python
"""Visual question answering on easy-vqa, from checkpoints, from random weights, and from the question alone.

Random weights are the encoder of a pre-training config before its first step, loaded as checkpoints are.

Writes a table (vqa.md, vqa.csv), answers of yes and no apart from all others, and a picture of questions with answers
right and wrong (vqa.png) into the work directory, and prints the table. Every run (a task, an encoder, a seed) is a
process with one thread. Runs that finished are not repeated, one that was killed goes on::

    bash tools/benchmarks/vqa.sh --encoder MAE work_dirs/mae/iter_600.pth --encoder MSA work_dirs/msa/iter_1200.pth
"""

import argparse
import sys
from pathlib import Path

from bench.arguments import CONFIGS
from mmpl.compat import set_load_policy
from mmpl.utils.user_errors import user_errors
from transfer import RANDOM, Run, Runs, Task, add_run_arguments

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
    """The controls, and each encoder that is given; ``args`` are those of :func:`parse_args`."""

    NAME, TASKS, COLUMNS, CONTROLS = 'vqa', TASKS, COLUMNS, (BLIND, RANDOM)

    def start(self, run: Run) -> list[str]:
        """Options that let a run start from its encoder, or look at no image."""
        return super().start(run) if run.checkpoint else ['model.backbone.init_cfg=None', 'model.blind=True']


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--tasks', nargs='+', choices=list(TASKS), default=['frozen'], help='default: frozen')
    parser.add_argument('--work-dir', default='work_dirs/vqa', help='folder of all results (default: work_dirs/vqa)')
    parser.add_argument(
        '--pretrain-config',
        type=Path,
        default=CONFIGS / 'benchmarks/vqa/pl_mae.py',
        help='a config that made checkpoints, for random initialisation (default: configs/benchmarks/vqa/pl_mae.py)',
    )
    add_run_arguments(parser)
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
