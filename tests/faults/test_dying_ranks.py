"""A rank that is killed under torchrun: the others end too, and the restarted run goes on from its checkpoint."""

import contextlib
import os
import re
import signal
import socket
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


def _end_group(process: 'subprocess.Popen[bytes]') -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def _environment(folder: Path, machines: int) -> dict[str, str]:
    """Of launchers that restart three times, whose code lies in a folder; with 0 machines torchrun finds a port."""
    env = {k: v for k, v in os.environ.items() if not k.startswith('TORCHELASTIC') and k not in ('RANK', 'WORLD_SIZE')}
    env.update(CUDA_VISIBLE_DEVICES='-1', OMP_NUM_THREADS='1', PYTHON=sys.executable, MAX_RESTARTS='3')
    env.update(PYTHONPATH=str(folder))
    if machines:
        with socket.socket() as free:
            free.bind(('127.0.0.1', 0))
            env.update(MASTER_ADDR='127.0.0.1', PORT=str(free.getsockname()[1]), NNODES=str(machines))
    return env


@pytest.mark.slow
@pytest.mark.dist
@pytest.mark.parametrize(
    ('machines', 'processes', 'wrapper'),
    [(0, 2, None), (1, 2, None), (2, 1, None), (2, 2, dict(type='mmpl.FullySharded', shard_size=2))],
    ids=['any port', 'one machine', 'two machines', 'two machines, a split copy each'],
)
def test_a_killed_rank_is_restarted_and_the_run_resumes(
    machines: int, processes: int, wrapper: dict | None, tmp_path: Path
) -> None:
    (tmp_path / 'kill_rank_one.py').write_text(HOOK)
    cfg = fault_cfg(
        tmp_path / 'work',
        loader=dict(batch_size=4 // (processes * max(machines, 1))),
        model_wrapper_cfg=wrapper,
        checkpoint=dict(iter_interval=4),
        hooks=(dict(type='mmengine.KillRankOne', _scope_='mmengine'),),
        custom_imports=dict(imports=['tests.faults.runs', 'kill_rank_one']),
        resume=False,
        log_level='INFO',
    )
    cfg.dump(tmp_path / 'config.py')
    env = _environment(tmp_path, machines)
    command = [TOOLS / 'dist_train.sh', tmp_path / 'config.py', str(processes)]
    logs = [tmp_path / f'{node}.txt' for node in range(max(machines, 1))]
    begin = time.monotonic()
    with contextlib.ExitStack() as stack:
        nodes = [
            subprocess.Popen(
                command,
                cwd=tmp_path,
                env=env | dict(NODE_RANK=str(node)),
                stdout=stack.enter_context(log.open('w')),
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            for node, log in enumerate(logs)
        ]
        for node in nodes:
            stack.callback(_end_group, node)
        codes = [node.wait(begin + 600 - time.monotonic()) for node in nodes]
    text = '\n'.join(log.read_text() for log in logs)
    assert codes == [0] * len(nodes), f'{time.monotonic() - begin:.0f} s\n{text[-6000:]}'
    # torchrun names the one that it sees first: the killed rank, or the other, which fails for want of its peer
    assert re.search(r'exitcode: -?\d', text), f'how the first try ended is shown:\n{text[-6000:]}'
    assert 'resumed epoch: 1, iter: 8' in text
    assert ('Each process holds a share' in text) == (wrapper is not None)
    final = load_checkpoint(tmp_path / 'work' / 'epoch_3.pth')
    assert final['meta']['iter'] == 18


NODE_HOOK = """
import os, signal
from mmengine.hooks import Hook
from mmengine.registry import HOOKS

@HOOKS.register_module()
class KillMachineOne(Hook):
    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if runner.iter == 9 and os.environ['RANK'] == '1' and not os.path.exists('killed'):
            open('killed', 'w').close()
            os.kill(os.getppid(), signal.SIGKILL)  # its launcher
            os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.slow
@pytest.mark.dist
def test_a_machine_that_was_lost_comes_back_and_the_run_resumes(tmp_path: Path) -> None:
    """Launcher and rank of the second of two machines are killed, and started again by whoever watches the machine."""
    (tmp_path / 'kill_machine_one.py').write_text(NODE_HOOK)
    cfg = fault_cfg(
        tmp_path / 'work',
        loader=dict(batch_size=2),
        checkpoint=dict(iter_interval=4),
        hooks=(dict(type='mmengine.KillMachineOne', _scope_='mmengine'),),
        custom_imports=dict(imports=['tests.faults.runs', 'kill_machine_one']),
        resume=False,
        log_level='INFO',
    )
    cfg.dump(tmp_path / 'config.py')
    env = _environment(tmp_path, 2)
    command = [TOOLS / 'dist_train.sh', tmp_path / 'config.py', '1']
    with contextlib.ExitStack() as stack:

        def start(node: int, log: str) -> 'subprocess.Popen[bytes]':
            process = subprocess.Popen(
                command,
                cwd=tmp_path,
                env=env | dict(NODE_RANK=str(node)),
                stdout=stack.enter_context((tmp_path / log).open('w')),
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            stack.callback(_end_group, process)
            return process

        first, second = start(0, '0.txt'), start(1, '1.txt')
        assert second.wait(timeout=240) == -signal.SIGKILL
        again = start(1, 'again.txt')
        texts = lambda: '\n'.join((tmp_path / name).read_text()[-2000:] for name in ('0.txt', 'again.txt'))  # noqa: E731
        assert (first.wait(timeout=240), again.wait(timeout=60)) == (0, 0), texts()
    assert 'resumed epoch: 1, iter: 8' in (tmp_path / '0.txt').read_text()
    assert load_checkpoint(tmp_path / 'work' / 'epoch_3.pth')['meta']['iter'] == 18
