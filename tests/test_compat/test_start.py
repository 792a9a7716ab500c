"""Starting distributed runs on machines that are not here: GPUs that torch cannot use, and mpirun with GPUs."""

import os
from pathlib import Path

import pytest
import torch
from mmengine.config import Config

from mmpl.compat import launch

NCCL = Config(dict(env_cfg=dict(dist_cfg=dict(backend='nccl'))))


@pytest.fixture
def driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with a driver whose GPUs torch does not find."""
    (tmp_path / 'version').write_text('NVRM version: NVIDIA UNIX x86_64 Kernel Module  450.51\nGCC version\n')
    monkeypatch.setattr(launch, '_DRIVER', tmp_path / 'version')
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    monkeypatch.delenv('CUDA_VISIBLE_DEVICES', raising=False)


@pytest.mark.parametrize('launcher', ['none', 'pytorch'])
def test_a_gpu_that_torch_cannot_use_is_no_reason_to_train_on_the_cpu(launcher: str, driver: None) -> None:
    with pytest.raises(RuntimeError, match=r'Kernel Module  450.51.*cannot use it.*CUDA_VISIBLE_DEVICES=-1'):
        launch.init_distributed(launcher, NCCL)


@pytest.mark.parametrize('hidden', ['-1', ''])
def test_the_cpu_may_be_asked_for(hidden: str, driver: None, monkeypatch: pytest.MonkeyPatch) -> None:
    assert launch.init_distributed('none', Config(dict(env_cfg=dict(dist_cfg=dict(backend='gloo'))))) is False
    monkeypatch.setenv('CUDA_VISIBLE_DEVICES', hidden)
    assert launch.init_distributed('none', NCCL) is False


@pytest.mark.parametrize(('given', 'port'), [(None, '23456'), ('29511', '29511')])
def test_jobs_of_slurm_have_ports_of_their_own(given: str | None, port: str, monkeypatch: pytest.MonkeyPatch) -> None:
    started = {}
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    monkeypatch.setattr(launch, 'init_dist', lambda launcher, **kwargs: started.update(os.environ))
    monkeypatch.setenv('MASTER_PORT', given or 'to be restored')
    if given is None:
        monkeypatch.delenv('MASTER_PORT')
    monkeypatch.setenv('SLURM_JOB_ID', '123456')
    assert launch.init_distributed('slurm', NCCL) and started['MASTER_PORT'] == port


def test_mpirun_with_gpus_says_which_gpu_is_whose(monkeypatch: pytest.MonkeyPatch) -> None:
    started = {}
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    monkeypatch.setattr(launch, 'init_dist', lambda launcher, **kwargs: started.update(os.environ, **kwargs))
    for name in ('MASTER_ADDR', 'MASTER_PORT', 'RANK', 'WORLD_SIZE'):
        monkeypatch.setenv(name, 'to be restored')
        monkeypatch.delenv(name)
    monkeypatch.setenv('LOCAL_RANK', '0')  # as tools/train.py leaves it where no launcher has set it
    for name, value in dict(RANK='3', SIZE='4', LOCAL_RANK='3', LOCAL_SIZE='4').items():
        monkeypatch.setenv(f'OMPI_COMM_WORLD_{name}', value)
    assert launch.init_distributed('mpi', NCCL)
    assert started['LOCAL_RANK'] == '3' and started['RANK'] == '3' and started['WORLD_SIZE'] == '4'
    assert started['MASTER_ADDR'] == '127.0.0.1' and started['backend'] == 'nccl'
