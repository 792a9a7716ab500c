"""Jobs in processes of their own, some at once, each with a log file; what has a result is not run again."""

import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mmpl

GRACE = 30.0  # seconds that a process has to end by itself


@dataclass(frozen=True)
class Job:
    """A process that leaves a result.

    Attributes:
        key: Its name.
        command: Its command line.
        log: File that its output is appended to.
        load: Reads its result; None as long as there is none.
    """

    key: str
    command: Sequence[str]
    log: Path
    load: Callable[[], Any]


@dataclass(frozen=True)
class Ended:
    """A job that has ended; ``result`` is None if it failed."""

    job: Job
    code: int
    seconds: float
    result: Any

    @property
    def failure(self) -> str:
        """What went wrong: the exit code, the end of the log, and where the rest of it is."""
        end = '\n'.join(self.job.log.read_text(errors='replace').splitlines()[-15:])
        return f'{self.job.key} failed with exit code {self.code}:\n{end}\nThe whole log is in {self.job.log}'


def run_jobs(
    jobs: Sequence[Job],
    at_once: int,
    on_end: Callable[[Ended], None],
    threads: int = 1,
    timeout: float = math.inf,
) -> None:
    """Run the jobs that have no result yet, in their order.

    An exception, from ``on_end`` or because this process is stopped (Ctrl-C, SIGTERM), ends all that run.

    Args:
        jobs: What is wanted.
        at_once: Processes at once.
        on_end: Called with each job that has ended.
        threads: Of each process.
        timeout: Seconds after which a process is killed.
    """
    waiting = [job for job in jobs if job.load() is None]
    active: list[tuple[Job, subprocess.Popen, float]] = []
    with _stop_at_sigterm():
        try:
            while waiting or active:
                while waiting and len(active) < at_once:
                    job = waiting.pop(0)
                    active.append((job, _start(job, threads), time.monotonic()))
                time.sleep(0.1)
                for entry in list(active):
                    job, process, start = entry
                    seconds = time.monotonic() - start
                    if seconds > timeout:
                        process.kill()
                        process.wait()
                    if process.poll() is not None:
                        active.remove(entry)
                        result = job.load() if process.returncode == 0 else None
                        on_end(Ended(job, process.returncode, seconds, result))
        finally:
            _end([process for _, process, _ in active])


def _start(job: Job, threads: int) -> subprocess.Popen:
    job.log.parent.mkdir(parents=True, exist_ok=True)
    # The mmpl of this process, installed or not.
    path = os.pathsep.join(filter(None, [str(Path(mmpl.__file__).parents[1]), os.environ.get('PYTHONPATH', '')]))
    variables = dict(OMP_NUM_THREADS=str(threads), MKL_NUM_THREADS=str(threads), PYTHONWARNINGS='ignore')
    variables['PYTHONUNBUFFERED'] = '1'  # the log is in the order of what was printed
    with open(job.log, 'a', encoding='utf-8') as log:
        environment = {**os.environ, **variables, 'PYTHONPATH': path}
        return subprocess.Popen(job.command, stdout=log, stderr=subprocess.STDOUT, env=environment)


def _end(processes: Sequence[subprocess.Popen]) -> None:
    for process in processes:
        process.terminate()
    for process in processes:
        try:
            process.wait(GRACE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@contextmanager
def _stop_at_sigterm() -> Iterator[None]:
    """Make SIGTERM an exception, so that what was started is ended, too."""
    previous = signal.signal(signal.SIGTERM, lambda *_: sys.exit('stopped'))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)
