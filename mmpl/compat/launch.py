"""Starting and ending distributed runs, on CPU as on GPUs.

mmengine's own start calls ``torch.cuda.set_device`` and hands GPU ids to DistributedDataParallel, so it dies on a
machine without a GPU. Here the process group is started before the Runner, which then leaves it alone.
"""

import datetime
import os
import subprocess
import time
from contextlib import suppress
from pathlib import Path

import torch
import torch.distributed as dist
from mmengine.config import Config
from mmengine.dist import init_dist

LAUNCHERS = ('none', 'pytorch', 'slurm', 'mpi')
_RANK_VARIABLES = dict(
    pytorch=('RANK', 'WORLD_SIZE', 'LOCAL_RANK'),
    slurm=('SLURM_PROCID', 'SLURM_NTASKS', 'SLURM_LOCALID'),
    mpi=('OMPI_COMM_WORLD_RANK', 'OMPI_COMM_WORLD_SIZE', 'OMPI_COMM_WORLD_LOCAL_RANK'),
)
_DRIVER = Path('/proc/driver/nvidia/version')  # is there if a driver of NVIDIA is loaded
_STARTED_BY = dict(pytorch='torchrun (tools/dist_train.sh)', slurm='srun (tools/slurm_train.sh)', mpi='mpirun')


def _set_rank_environment(launcher: str) -> None:
    """Translate what the launcher says into torch's variables (RANK, WORLD_SIZE, LOCAL_RANK, MASTER_*)."""
    env = os.environ
    wanted = _RANK_VARIABLES[launcher]
    missing = [name for name in wanted if name not in env]
    if missing:
        raise RuntimeError(
            f'launcher={launcher!r} needs {", ".join(missing)} in the environment: start the run with '
            f'{_STARTED_BY[launcher]}'
        )
    env['RANK'], env['WORLD_SIZE'], env['LOCAL_RANK'] = (env[name] for name in wanted)
    if 'MASTER_ADDR' not in env:
        if launcher == 'slurm':
            hosts = subprocess.run(
                ['scontrol', 'show', 'hostname', env['SLURM_NODELIST']], check=True, capture_output=True, text=True
            )
            env['MASTER_ADDR'] = hosts.stdout.split()[0]
        elif launcher == 'mpi' and env.get('OMPI_COMM_WORLD_LOCAL_SIZE') != env['WORLD_SIZE']:
            raise RuntimeError("launcher='mpi' over several machines needs MASTER_ADDR in the environment")
        else:
            env['MASTER_ADDR'] = '127.0.0.1'
    env.setdefault('MASTER_PORT', '29500')


def check_gpu(backend: str) -> None:
    """Refuse to train on the CPU where a run is meant for GPUs that are there and that torch cannot use.

    Args:
        backend: ``env_cfg.dist_cfg.backend`` of the config; only with ``'nccl'`` the run is meant for GPUs.

    Raises:
        RuntimeError: There is a driver, no one has switched GPUs off by ``CUDA_VISIBLE_DEVICES``, and torch finds none.
    """
    hidden = os.environ.get('CUDA_VISIBLE_DEVICES') in ('', '-1')
    if backend != 'nccl' or hidden or torch.cuda.is_available() or not _DRIVER.is_file():
        return
    driver = _DRIVER.read_text().splitlines()[0]
    built = f'is built for CUDA {torch.version.cuda}' if torch.version.cuda else 'is built without CUDA'
    raise RuntimeError(
        f'this machine has a GPU ({driver}), but torch {torch.__version__}, which {built}, cannot use it: install a '
        'driver for that CUDA version, or a torch for that driver (https://pytorch.org/get-started). To train on the '
        'CPU on purpose, set CUDA_VISIBLE_DEVICES=-1'
    )


def init_distributed(launcher: str, cfg: Config | None = None) -> bool:
    """Start the process group, with gloo where there is no GPU and mmengine's own way where there is one.

    Set ``CUDA_VISIBLE_DEVICES=-1`` to run on the CPU of a machine with GPUs. Nothing is done for ``'none'``, when a
    group exists already, or for a ``FlexibleRunner`` on GPUs, whose strategy starts its own.

    Args:
        launcher: One of :data:`LAUNCHERS`.
        cfg: The run's config. ``env_cfg.dist_cfg`` is read (``backend``, ``timeout`` in seconds). On CPU its
            ``backend`` becomes ``gloo`` and its ``model_wrapper_cfg`` is made to name no GPU.

    Returns:
        Whether a process group exists now.

    Raises:
        RuntimeError: The launcher's environment variables are missing, or torch cannot use the GPUs; see
            :func:`check_gpu`.
    """
    if launcher not in LAUNCHERS:
        raise ValueError(f'launcher={launcher!r}: allowed are {", ".join(LAUNCHERS)}')
    cfg = Config() if cfg is None else cfg
    dist_cfg = dict(cfg.get('env_cfg', {}).get('dist_cfg', {}))
    check_gpu(dist_cfg.get('backend', ''))
    if launcher == 'none':
        return False
    on_gpu = torch.cuda.is_available()
    if not on_gpu:
        dist_cfg['backend'] = 'gloo'
        cfg.merge_from_dict({'env_cfg': {'dist_cfg': {'backend': 'gloo'}}})
        given = cfg.get('model_wrapper_cfg') or {}
        wrapper = dict(
            type='MMDistributedDataParallel',
            broadcast_buffers=False,
            find_unused_parameters=cfg.get('find_unused_parameters', False),
        )
        if 'FullySharded' not in str(given.get('type')):  # which knows nothing of DDP's fields
            cfg.model_wrapper_cfg = wrapper | dict(given, device_ids=None)
    if dist.is_initialized():
        return True
    if launcher == 'slurm':  # two jobs on a machine, of which each would take the port of the other
        os.environ.setdefault('MASTER_PORT', str(20000 + int(os.environ.get('SLURM_JOB_ID', 9500)) % 10000))
    if on_gpu:
        if cfg.get('runner_type') == 'FlexibleRunner':
            return False
        dist_cfg.setdefault('backend', 'nccl')
        if launcher == 'mpi':
            _set_rank_environment(launcher)  # mmengine asks for MASTER_ADDR, and gives every process GPU 0 to wrap
        init_dist(launcher, **dist_cfg)
        return True
    _set_rank_environment(launcher)
    timeout = dist_cfg.get('timeout')
    dist.init_process_group('gloo', timeout=None if timeout is None else datetime.timedelta(seconds=timeout))
    return True


def shutdown_distributed() -> None:
    """Wait for all ranks and end the process group, if there is one. For the end of a run that went well."""
    if dist.is_available() and dist.is_initialized():
        dist.barrier()
        dist.destroy_process_group()
        for _ in range(500):
            time.sleep(0.01)
            if not _gloo_is_busy():
                return


def _gloo_is_busy() -> bool:
    """Whether a thread of gloo, which outlives the process group, still runs (seen on Linux).

    It lets go of the tensors of the last collectives when these are over, for which it wants Python. While Python ends,
    it cannot have it: "terminate called without an active exception", and a run that went well has failed (torch 2.14).
    """
    states = []
    for task in Path('/proc/self/task').glob('*/stat'):
        with suppress(OSError):  # one that has just ended
            name, _, rest = task.read_text().partition('(')[2].rpartition(')')
            states += [rest.split()[0]] if 'gloo' in name else []
    return 'R' in states
