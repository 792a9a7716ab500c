"""The scripts of tools/ as a user calls them."""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

TOOLS = Path(__file__).resolve().parents[2] / 'tools'


def call(*command: str | Path, cwd: Path, check: bool = True, **env: str) -> subprocess.CompletedProcess:
    environ = {key: value for key, value in os.environ.items() if not key.startswith(('TORCHELASTIC', 'SLURM'))}
    for name in ('OMP_NUM_THREADS', 'RANK', 'WORLD_SIZE', 'LOCAL_RANK', 'MASTER_ADDR', 'MASTER_PORT'):
        environ.pop(name, None)
    environ.update(CUDA_VISIBLE_DEVICES='-1', PYTHON=sys.executable, **env)
    done = subprocess.run(
        [str(part) for part in command], cwd=cwd, env=environ, capture_output=True, text=True, timeout=300
    )
    assert not check or done.returncode == 0, done.stdout[-3000:] + done.stderr[-30000:]
    return done


def losses(work_dir: Path) -> list[float]:
    (log,) = work_dir.glob('*/vis_data/scalars.json')
    return [entry['loss'] for line in log.read_text().splitlines() if 'loss' in (entry := json.loads(line))]


@pytest.mark.slow
@pytest.mark.dist
@pytest.mark.smoke
def test_dist_train_on_cpu(tiny_mae_config: Path, tmp_path: Path) -> None:
    """Two ranks share one epoch: half the iterations, one checkpoint, equal weights, a clean end."""
    done = call(TOOLS / 'dist_train.sh', tiny_mae_config, '2', '--auto-scale-lr', cwd=tmp_path)
    assert len(losses(tmp_path / 'work')) == 4  # 16 images, batch 2 x 4, 2 epochs
    checkpoint = torch.load(tmp_path / 'work' / 'epoch_2.pth', weights_only=True)
    assert checkpoint['meta']['iter'] == 4
    assert not any(key.startswith('module.') for key in checkpoint['state_dict'])
    text = done.stdout + done.stderr
    assert 'destroy_process_group() was not called' not in text
    config = (tmp_path / 'work' / 'tiny_mae.py').read_text()
    assert "backend='gloo'" in config

    # One more epoch, resumed, on the other way to start processes: an address and a port.
    call(
        TOOLS / 'dist_train.sh',
        tiny_mae_config,
        '2',
        '--resume',
        '--cfg-options',
        'train_cfg.max_epochs=3',
        cwd=tmp_path,
        NNODES='1',
        NODE_RANK='0',
        MASTER_ADDR='127.0.0.1',
        PORT='29641',
    )
    assert torch.load(tmp_path / 'work' / 'epoch_3.pth', weights_only=True)['meta']['iter'] == 6


@pytest.mark.slow
@pytest.mark.dist
def test_one_rank_fails_and_all_stop(tiny_mae_config: Path, tmp_path: Path) -> None:
    """The error of the rank that failed is shown, and the other does not wait for ever."""
    hook = tmp_path / 'failing_hook.py'
    hook.write_text("""
import os
from mmengine.hooks import Hook
from mmengine.registry import HOOKS

@HOOKS.register_module()
class FailingHook(Hook):
    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if runner.iter == 1 and os.environ['RANK'] == '1':
            raise RuntimeError('this rank gave up')
""")
    tiny_mae_config.write_text(
        tiny_mae_config.read_text()
        + "custom_imports = dict(imports=['failing_hook'])\ncustom_hooks = [dict(type='mmengine.FailingHook')]\n"
    )
    done = call(TOOLS / 'dist_train.sh', tiny_mae_config, '2', cwd=tmp_path, check=False, PYTHONPATH=str(tmp_path))
    assert done.returncode != 0
    assert 'this rank gave up' in done.stderr
    assert re.search(r'Root Cause.*rank\s*: 1', done.stderr, re.DOTALL)


@pytest.mark.slow
@pytest.mark.dist
def test_dist_test_on_cpu(noise_images: Path, write_tiny_classifier: Callable[[int], Path], tmp_path: Path) -> None:
    """A classifier is tested with two ranks; metrics are written once."""
    shutil.copytree(noise_images, tmp_path / 'images' / 'noise')
    config = write_tiny_classifier(1)
    from mmengine.config import Config
    from mmengine.registry import DefaultScope, init_default_scope
    from mmpretrain.registry import MODELS

    scope = DefaultScope.get_current_instance()
    init_default_scope('mmpretrain')
    model = MODELS.build(Config.fromfile(config).model)
    if scope is not None:
        init_default_scope(scope.scope_name)
    torch.save({'state_dict': model.state_dict()}, tmp_path / 'model.pth')
    out = tmp_path / 'metrics.json'
    options = ('--out', out, '--out-item', 'metrics', '--work-dir', tmp_path / 'work')
    call(TOOLS / 'dist_test.sh', config, tmp_path / 'model.pth', '2', *options, cwd=tmp_path)
    assert json.loads(out.read_text())['accuracy/top1'] == 100.0


def test_usage_is_shown(tmp_path: Path) -> None:
    for script in ('dist_train.sh', 'dist_test.sh', 'slurm_train.sh', 'slurm_test.sh'):
        done = call(TOOLS / script, cwd=tmp_path, check=False)
        assert done.returncode == 2 and f'tools/{script} ' in done.stderr and '#' not in done.stderr


@pytest.mark.parametrize('gpus', [0, 8])
def test_slurm_command_line(tmp_path: Path, gpus: int) -> None:
    """A stand-in for srun shows what Slurm would be asked for."""
    srun = tmp_path / 'srun'
    srun.write_text('#!/usr/bin/env bash\nprintf "%s\\n" "$@"\n')
    srun.chmod(0o755)
    command = (TOOLS / 'slurm_train.sh', 'part', 'job', 'a config.py', 'work', '--amp')
    env = dict(PATH=f'{tmp_path}:{os.environ["PATH"]}', GPUS='16', GPUS_PER_NODE=str(gpus), SRUN_ARGS='--quiet --x=1')
    lines = call(*command, cwd=tmp_path, **env).stdout.splitlines()
    assert {'--partition=part', '--job-name=job', '--ntasks=16', '--kill-on-bad-exit=1', '--quiet', '--x=1'} <= {*lines}
    assert ('--gres=gpu:8' in lines) == (gpus == 8) and ('--ntasks-per-node=8' in lines) == (gpus == 8)
    assert lines[-4:] == ['a config.py', '--work-dir=work', '--launcher=slurm', '--amp']


@pytest.mark.parametrize('script', ['dist_train.sh', 'dist_test.sh'])
def test_what_cannot_be_launched_ends_in_one_line(script: str, tmp_path: Path) -> None:
    """Each is said before torchrun starts anything."""
    (tmp_path / 'a.py').touch()
    with socket.create_server(('127.0.0.1', 0)) as server:
        taken = str(server.getsockname()[1])
        for config, processes, env, message in [
            ('a.py', '0', {}, "NPROC, the number of processes, must be an integer of at least 1, but got '0'"),
            ('a.py', 'x', {}, "NPROC, .* but got 'x'"),
            ('a.py', '-1', {}, "NPROC, .* but got '-1'"),
            ('a.py', '1.5', {}, "NPROC, .* but got '1.5'"),
            ('no.py', '1', {}, "config 'no.py' does not exist"),
            ('a.py', '1', dict(PORT=taken), f'port {taken} is in use'),
            ('a.py', '1', dict(PORT='70000'), "PORT must be at most 65535, but got '70000'"),
            ('a.py', '1', dict(NNODES='2', NODE_RANK='2'), "NODE_RANK must be below NNODES 2, but got '2'"),
        ]:
            more = ['no.pth'] if script == 'dist_test.sh' else []
            done = call(TOOLS / script, config, *more, processes, cwd=tmp_path, check=False, **env)
            assert done.returncode == 2 and re.fullmatch(f'error: {message}.*\n', done.stderr), done.stderr
