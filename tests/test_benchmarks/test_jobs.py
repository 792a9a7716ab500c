"""Jobs: how many at once, what is not run again, what a failure says, and that none outlives its bench."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bench.jobs import Ended, Job, run_jobs

# Notes how many of its kind are there, and its end.
PROGRAM = """
import os, sys, time
from pathlib import Path
folder, key = Path(sys.argv[1]), sys.argv[2]
(folder / f'{key}.alive').touch()
(folder / f'{key}.seen').write_text(str(len(list(folder.glob('*.alive')))))
time.sleep(0.4)
(folder / f'{key}.alive').unlink()
(folder / f'{key}.result').write_text(os.environ['OMP_NUM_THREADS'])
"""


def job(folder: Path, key: str, program: str = PROGRAM) -> Job:
    result = folder / f'{key}.result'
    command = [sys.executable, '-c', program, str(folder), key]
    return Job(key, command, folder / 'logs' / key, lambda: result.read_text() if result.exists() else None)


def test_some_at_once_and_none_twice(tmp_path):
    (tmp_path / '1.result').write_text('there')
    ended: list[Ended] = []
    run_jobs([job(tmp_path, str(number)) for number in range(5)], 2, ended.append, threads=3)
    assert sorted(end.job.key for end in ended) == ['0', '2', '3', '4']
    assert {(end.code, end.result) for end in ended} == {(0, '3')}
    assert max(int(path.read_text()) for path in tmp_path.glob('*.seen')) == 2
    assert (tmp_path / '1.result').read_text() == 'there'


@pytest.mark.parametrize(
    'program, code',
    [('print("full"); raise SystemExit(3)', 3), ('print("full")', 0), ('import time; time.sleep(60)', -9)],
)
def test_failures(program, code, tmp_path):
    """With an exit code, without a result, or killed after some seconds."""
    ended: list[Ended] = []
    run_jobs([job(tmp_path, 'a', program)], 1, ended.append, timeout=3)
    assert (ended[0].code, ended[0].result) == (code, None) and ended[0].seconds < 20
    said = 'full\n' if 'full' in program else '\n'
    assert ended[0].failure == f'a failed with exit code {code}:\n{said}The whole log is in {tmp_path}/logs/a'


def test_sigterm_ends_all(tmp_path):
    """As Ctrl-C does."""
    sleep = 'import os, sys, time; open(f"{sys.argv[1]}/pid", "w").write(str(os.getpid())); time.sleep(60)'
    program = (
        'import sys; from pathlib import Path; sys.path[:0] = sys.argv[2:]; from bench.jobs import Job, run_jobs; '
        f'command = [sys.executable, "-c", {sleep!r}, sys.argv[1]]; '
        'run_jobs([Job("a", command, Path(sys.argv[1], "log"), lambda: None)], 1, print)'
    )
    bench = subprocess.Popen([sys.executable, '-c', program, str(tmp_path), *sys.path], stderr=subprocess.PIPE)
    while not (tmp_path / 'pid').exists() or not (tmp_path / 'pid').read_text():
        assert bench.poll() is None
        time.sleep(0.1)
    bench.send_signal(signal.SIGTERM)
    assert b'stopped' in bench.communicate(timeout=20)[1] and bench.returncode == 1
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / 'pid').read_text()), 0)
