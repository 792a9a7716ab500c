"""What is checked on a GPU, where there is none: it runs to its end, goes on, and says what it left out."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import gpu_check

ROOT = Path(__file__).resolve().parents[2]
without_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason='there is a GPU')


def check(out: Path) -> subprocess.CompletedProcess:
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ['PATH']])
    command = ['bash', str(ROOT / 'tools/benchmarks/gpu_check.sh'), '--out', str(out)]
    return subprocess.run(command, env={**os.environ, 'PATH': path}, capture_output=True, text=True, cwd=out)


@without_gpu
@pytest.mark.slow
@pytest.mark.fake_cuda
def test_without_a_gpu_it_says_what_it_left_out_and_runs_nothing_twice(tmp_path) -> None:
    done = check(tmp_path)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-3000:]
    results = json.loads((tmp_path / 'no_GPU' / 'results.json').read_text())
    assert results['device'] == 'no GPU' and sorted(results['parts']) == sorted(gpu_check.LIMITS)
    for name, part in results['parts'].items():
        assert part['outcome'] == 'passed'
        assert ('there is no GPU' in part['left_out']) == (name != 'expected')
        assert (tmp_path / 'no_GPU' / f'{name}.json').is_file()
    assert 'full size, views/s, MFU, memory, waits' in results['parts']['pl_mae_vitb_fast']['left_out']
    assert results['parts']['pl_mae_vitb_fast']['found'].startswith('2 images, 16 masked views a step')
    assert {'passed', 'skipped'} == set(results['parts']['tests']['details']['outcomes'].values())
    table = (tmp_path / 'no_GPU' / 'table.md').read_text()
    assert table in done.stdout and table.count('\n| ') == 1 + len(gpu_check.LIMITS)
    again = check(tmp_path)
    assert again.returncode == 0
    assert all(f'{name}: passed, 0 s' in again.stdout for name in gpu_check.LIMITS)


@without_gpu
@pytest.mark.slow
def test_a_part_that_fails_does_not_stop_the_others(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setattr(gpu_check, 'LIMITS', dict(broken=60, environment=60))  # of the first, the process knows nothing
    assert gpu_check.main(['--out', str(tmp_path)]) == 1
    parts = json.loads((tmp_path / 'no_GPU' / 'results.json').read_text())['parts']
    assert [part['outcome'] for part in parts.values()] == ['failed', 'passed']
    assert 'exit code 2' in parts['broken']['found'] and "invalid choice: 'broken'" in parts['broken']['found']
    assert 'broken failed with exit code 2' in capsys.readouterr().out
    assert not (tmp_path / 'no_GPU' / 'broken.json').exists(), 'it is run again'


@without_gpu
def test_a_gpu_that_torch_cannot_use_is_refused(tmp_path, monkeypatch) -> None:
    (tmp_path / 'nvidia-smi').write_text('#!/bin/sh\necho "GPU 0: NVIDIA A100"\n')
    (tmp_path / 'nvidia-smi').chmod(0o755)
    monkeypatch.setenv('PATH', str(tmp_path), prepend=os.pathsep)
    monkeypatch.delenv('CUDA_VISIBLE_DEVICES', raising=False)
    with pytest.raises(SystemExit, match=r'error: torch .* cannot use GPU 0: NVIDIA A100: '):
        gpu_check.main(['--out', str(tmp_path)])
    monkeypatch.setenv('CUDA_VISIBLE_DEVICES', '')  # none on purpose
    gpu_check.refuse_unusable_gpu()
    monkeypatch.setenv('PATH', '')
    monkeypatch.delenv('CUDA_VISIBLE_DEVICES')
    gpu_check.refuse_unusable_gpu()


def test_what_an_earlier_failure_left_out_is_run_again(tmp_path, monkeypatch) -> None:
    """In the next start: where it was left out it has passed nevertheless."""
    left_out = dict(first=f'MFU: {gpu_check.EARLIER}', second=gpu_check.NO_GPU)
    started = []

    def run_jobs(jobs, *args) -> None:
        for job in jobs:
            if job.load() is None:
                started.append(job.key)
                gpu_check.write_json(tmp_path / f'{job.key}.json', dict(said='', left_out=left_out[job.key]))

    monkeypatch.setattr(gpu_check, 'LIMITS', dict.fromkeys(left_out, 60))
    monkeypatch.setattr(gpu_check, 'run_jobs', run_jobs)
    for _ in range(2):
        rows = gpu_check.check(tmp_path, anew=False)
        assert [(row['outcome'], row['left_out']) for row in rows] == [('passed', text) for text in left_out.values()]
    assert started == ['first', 'second', 'first']


def test_all_parts_fit_into_nine_minutes() -> None:
    assert sum(gpu_check.LIMITS.values()) <= 540
    looks = range(10, 1000, 10)  # iterations at which the presets look at the health, which waits
    first = gpu_check.WARM + gpu_check.STEPS + 1
    assert not set(range(first, first + gpu_check.WATCHED)) & set(looks)
