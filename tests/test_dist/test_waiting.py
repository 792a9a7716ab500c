"""What rank 0 does alone may take longer than the process group's time-out."""

import datetime
import time

import pytest
import torch.distributed as dist
import torch.multiprocessing as mp

from mmpl.utils.dist import others_wait
from tests.processes import START

TIMEOUT = 3.0  # seconds


def work(rank: int, store: str, patient: bool) -> None:
    dist.init_process_group(
        'gloo', f'file://{store}', rank=rank, world_size=2, timeout=datetime.timedelta(seconds=TIMEOUT)
    )
    for seconds in (TIMEOUT + 2, 0):
        if patient:
            with others_wait():
                time.sleep(seconds if rank == 0 else 0)
        else:
            time.sleep(seconds if rank == 0 else 0)
        dist.barrier()


@pytest.mark.dist
@pytest.mark.parametrize('patient', [True, False])
def test_ranks_wait_for_longer_than_the_time_out(patient, tmp_path):
    def run() -> None:
        mp.start_processes(work, (str(tmp_path / 'store'), patient), nprocs=2, start_method=START)

    if patient:
        run()
    else:  # or the test would show nothing
        with pytest.raises(Exception, match='(?i)timed out|timeout'):
            run()


def test_a_failure_of_rank_0_lets_the_others_go():
    """One process: nothing to wait for, and the error goes through."""
    with pytest.raises(ValueError, match='as it is'), others_wait():
        raise ValueError('as it is')
