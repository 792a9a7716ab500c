"""Command lines of the benchmarks."""

import argparse
from collections.abc import Callable
from pathlib import Path

from mmpl.utils.cores import usable_cores

CONFIGS = Path(__file__).resolve().parents[3] / 'configs'


def at_least(minimum: int) -> Callable[[str], int]:
    """Type of an argument: an integer that is not smaller."""

    def integer(text: str) -> int:
        if int(text) < minimum:
            raise argparse.ArgumentTypeError(f'must be at least {minimum}, but got {text}')
        return int(text)

    return integer


def add_job_arguments(parser: argparse.ArgumentParser) -> None:
    """Add ``--jobs``, by default one a core that this process may use, and ``--run`` for the process of one run."""
    parser.add_argument(
        '--jobs', type=at_least(1), default=usable_cores(), help='runs at once, one thread each; default: cores'
    )
    parser.add_argument('--run', metavar='KEY', help=argparse.SUPPRESS)
