"""A rank that is killed under torchrun: the others end too, and the restarted run goes on from its checkpoint."""

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mmpl.compat import load_checkpoint
from tests.faults.runs import fault_cfg
from tests.test_tools.test_launch import TOOLS

HOOK = """
import os, signal
from mmengine.hooks import Hook
from mmengine.registry import HOOKS

@HOOKS.register_module()
class KillRankOne(Hook):
    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if runner.iter == 9 and os.environ['RANK'] == '1' and os.environ['TORCHELASTIC_RESTART_COUNT'] == '0':
            os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.slow
@pytest.mark.dist
@pytest.mark.parametrize(
    'address', [{}, dict(MASTER_ADDR='127.0.0.1', PORT='29651', NNODES='1')], ids=['free', 'given']
)
def test_a_killed_rank_is_restarted_and_the_run_resumes(address: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / 'kill_rank_one.py').write_text(HOOK)
    cfg = fault_cfg(
        tmp_path / 'work',
        loader=dict(batch_size=2),
        checkpoint=dict(iter_interval=4),
        hooks=(dict(type='mmengine.KillRankOne', _scope_='mmengine'),),
        custom_imports=dict(imports=['tests.faults.runs', 'kill_rank_one']),
        resume=False,
        log_level='INFO',
    )
    cfg.dump(tmp_path / 'config.py')
    env = {k: v for k, v in os.environ.items() if not k.startswith('TORCHELASTIC') and k not in ('RANK', 'WORLD_SIZE')}
    env.update(CUDA_VISIBLE_DEVICES='-1', OMP_NUM_THREADS='1', PYTHON=sys.executable, MAX_RESTARTS='3')
    env.update(PYTHONPATH=str(tmp_path), **address)
    begin = time.monotonic()
    done = subprocess.run(
        [TOOLS / 'dist_train.sh', tmp_path / 'config.py', '2'],
        cwd=tmp_path,
        env=env,
        capture_output=True,
        text=True,
        timeout=300,
    )
    text = done.stdout + done.stderr
    assert done.returncode == 0, f'{time.monotonic() - begin:.0f} s\n{text[-6000:]}'
    # torchrun names the one that it sees first: the killed rank, or the other, which has lost its peer
    first = re.search(r'exitcode: (-9|1)\b|SIGKILL|Signal 9', text)
    assert first, f'how the first try ended is shown:\n{text[-6000:]}'
    assert 'resumed epoch: 1, iter: 8' in text
    final = load_checkpoint(tmp_path / 'work' / 'epoch_3.pth')
    assert final['meta']['iter'] == 18
