"""Command lines of the benchmarks."""

import argparse
import os
from collections.abc import Callable
from pathlib import Path

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
    cores = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count() or 1
    parser.add_argument('--jobs', type=at_least(1), default=cores, help='runs at once, one thread each; default: cores')
    parser.add_argument('--run', metavar='KEY', help=argparse.SUPPRESS)
