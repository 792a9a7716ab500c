"""The notebooks run from the first cell to the last, and hold what such a run showed."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = sorted((ROOT / 'docs' / 'notebooks').glob('*.ipynb'))
by_notebook = pytest.mark.parametrize('path', NOTEBOOKS, ids=lambda path: path.stem)


def code_cells(path: Path) -> list[dict]:
    return [cell for cell in json.loads(path.read_text(encoding='utf-8'))['cells'] if cell['cell_type'] == 'code']


@pytest.mark.slow
@by_notebook
def test_it_runs(path: Path, tmp_path: Path) -> None:
    """With one epoch in place of ten."""
    source = '\n'.join(''.join(cell['source']) for cell in code_cells(path))
    assert source.count('epochs=10') == 1
    env = dict(os.environ, MPLBACKEND='Agg', PYTHONPATH=str(ROOT), OMP_NUM_THREADS='1')
    script = source.replace('epochs=10', 'epochs=1')
    run = subprocess.run([sys.executable, '-c', script], cwd=tmp_path, env=env, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr[-3000:]
    assert 'classes, chance' in run.stdout


@by_notebook
def test_it_was_run_as_it_stands(path: Path) -> None:
    """Every cell, in this order, and none of them failed or said where."""
    cells = code_cells(path)
    assert [cell['execution_count'] for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell['outputs']]
    assert any('image/png' in output.get('data', {}) for output in outputs)
    assert not [output for output in outputs if output['output_type'] == 'error']
    assert '/tmp/' not in json.dumps(outputs) and '/home/' not in json.dumps(outputs)
