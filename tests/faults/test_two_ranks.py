"""The same with two processes (gloo, CPU): one pair of processes runs all scenarios, the tests look at what it left."""

import contextlib
import json
import multiprocessing
import os
import shutil
import signal
import traceback
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.dist import all_gather
from mmengine.hooks import Hook
from mmengine.registry import HOOKS

from mmpl.compat import load_checkpoint
from mmpl.engine import NonFiniteHook
from tests.faults.runs import (
    VARIANTS,
    StopAt,
    differences,
    final_state,
    logs_of,
    own_hook,
    run,
    run_rank,
    stop_at,
    stopped,
)
from tests.faults.test_bad_data import bad_and_odd_files, dataset_cfg
from tests.faults.test_bad_data import folder as folder  # a fixture
from tests.faults.test_checkpoints import SignalAt as SignalAt  # registered
from tests.faults.test_non_finite import hook_of, poison

pytestmark = [pytest.mark.dist, pytest.mark.slow]
VARIANT = VARIANTS['bf16_accumulation_masks']
TWO = dict(loader=dict(batch_size=2), checkpoint=dict(iter_interval=2))


@HOOKS.register_module(force=True)
class Schedules(Hook):
    """Notes iteration, learning rate and the teachers' momenta of each step."""

    steps: list = []

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None) -> None:
        scalars = runner.message_hub.log_scalars
        momenta = [scalars[f'train/momentum_{name}'].current() for name in ('label', 'recon')]
        self.steps.append([runner.iter, runner.optim_wrapper.get_lr()['lr'][0], *momenta])


def scenarios(rank: int, root: Path, images: Path) -> dict:
    """All runs of one rank."""
    found: dict = {}

    def go(name: str, *args, **kwargs):
        return run_rank(rank, 2, str(root / 'group'), root / name, *args, **kwargs)

    go('whole', **TWO, **VARIANT)
    try:
        go('stopped', hooks=stop_at(9), **TWO, **VARIANT)
    except StopAt.Stopped:
        go('stopped', **TWO, **VARIANT)

    runner = go('nan', hooks=poison('input', (3,), rank=1), epochs=1, loader=TWO['loader'])
    own = torch.cat([p.detach().flatten() for p in runner.model.module.state_dict().values() if p.is_floating_point()])
    first, second = all_gather(own)
    found['in_step'] = torch.equal(first, second)
    found['finite'] = bool(torch.isfinite(own).all())
    found['skipped'] = hook_of(runner, NonFiniteHook).skipped
    found['cause'] = hook_of(runner, NonFiniteHook)._cause

    with contextlib.suppress(StopAt.Stopped):  # for one process to go on with
        go('left', hooks=stop_at(9), **TWO, optim_wrapper=VARIANT['optim_wrapper'])

    # a run of one process with twice the batch, and one whose batch stays: half as many steps are left
    go('wider', **TWO, **VARIANT)
    runner = go('fewer_steps', loader=dict(batch_size=4), optim_wrapper=VARIANT['optim_wrapper'])
    found['fewer_steps'] = (runner.iter, runner.max_iters, runner.optim_wrapper.get_lr()['lr'][0])
    fresh = go('fresh', loader=dict(batch_size=4), optim_wrapper=VARIANT['optim_wrapper'])
    found['fresh_lr'] = fresh.optim_wrapper.get_lr()['lr'][0]

    processor = dict(type='SelfSupDataPreprocessor', mean=[127.0] * 3, std=[60.0] * 3, bgr_to_rgb=True)
    go(
        'files',
        dataset=dataset_cfg(images),
        loader=dict(batch_size=10, num_workers=2),
        loop=dict(bad_files=dict(max_share=0.05)),
        model=dict(data_preprocessor=processor),
        epochs=1,
    )
    # last: the signal handlers stay
    hooks = (own_hook('SignalAt', iteration=3, number=signal.SIGTERM),) if rank else ()
    try:
        go('signal', hooks=hooks, epochs=1, loader=TWO['loader'])
    except SystemExit as left:
        found['exit_code'] = left.code
    return found


def rank_main(rank: int, root: Path, images: Path) -> None:
    os.dup2(os.open(root / f'log_{rank}', os.O_CREAT | os.O_WRONLY), 1)
    os.dup2(1, 2)
    torch.set_num_threads(1)
    try:
        (root / f'found_{rank}.json').write_text(json.dumps(scenarios(rank, root, images)))
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(0)


@pytest.fixture(scope='module')
def ranks(tmp_path_factory: pytest.TempPathFactory, folder: Path) -> tuple[Path, list[dict]]:
    root = tmp_path_factory.mktemp('ranks')
    for name in ('wider', 'fewer_steps'):
        stopped(root / name, 9, checkpoint=TWO['checkpoint'], **VARIANT)
    context = multiprocessing.get_context('fork')
    processes = [context.Process(target=rank_main, args=(rank, root, folder)) for rank in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(600)
    logs = ''.join((root / f'log_{rank}').read_text()[-3000:] for rank in range(2))
    assert all((root / f'found_{rank}.json').exists() for rank in range(2)), logs
    return root, [json.loads((root / f'found_{rank}.json').read_text()) for rank in range(2)]


def test_resumed_is_uninterrupted(ranks) -> None:
    root, _ = ranks
    assert differences(*(final_state(root / name / 'epoch_3.pth') for name in ('stopped', 'whole'))) == []


def test_nan_in_one_rank_skips_the_step_of_both(ranks) -> None:
    _, found = ranks
    for rank in found:
        assert rank['in_step'] and rank['finite'] and rank['skipped'] == 1
        assert rank['cause'].startswith("rank 1: the input data_batch['inputs']")


def test_another_world_size(ranks) -> None:
    root, found = ranks
    log = logs_of(root / 'wider')
    assert 'Resumed with world_size 1 -> 2, batch_size 4 -> 2' in log and 'only statistically the same' in log
    # Twice the processes with half the batch: the same steps on the same images.
    final = load_checkpoint(root / 'wider' / 'epoch_3.pth')
    assert (final['meta']['epoch'], final['meta']['iter']) == (3, 18)
    # Twice the processes: half the steps, and the schedule ends where that of a fresh run ends.
    assert 'Resumed with world_size 1 -> 2. ' in logs_of(root / 'fewer_steps')
    assert found[0]['fewer_steps'][:2] == [9, 9]
    assert found[0]['fewer_steps'][2] == pytest.approx(found[0]['fresh_lr'], rel=1e-9)


@pytest.mark.parametrize('batch_size', [2, 4])
def test_one_process_goes_on_with_the_schedules_of_two(ranks, batch_size: int, tmp_path: Path) -> None:
    """With the batch of each of two processes there are twice the steps, with twice that batch the same ones."""
    root, _ = ranks
    shutil.copytree(root / 'left', tmp_path / 'left')
    factor = 4 // batch_size
    steps: dict[str, list] = {}
    for name in ('left', 'whole'):
        steps[name] = Schedules.steps = []
        loader = dict(batch_size=batch_size)
        run(tmp_path / name, hooks=(own_hook('Schedules'),), loader=loader, optim_wrapper=VARIANT['optim_wrapper'])
    assert (len(steps['left']), steps['left'][0][0]) == (10 * factor, 8 * factor)
    assert np.allclose(steps['left'], steps['whole'][8 * factor :], rtol=1e-9, atol=0)


def test_a_bad_file_is_reported_once_by_two_ranks_with_two_workers(ranks) -> None:
    root, _ = ranks
    entries = [json.loads(line) for line in (root / 'files' / 'bad_files.jsonl').read_text().splitlines()]
    names = [Path(entry['path']).name for entry in entries]
    assert sorted(names) == sorted(name for name in bad_and_odd_files() if name.startswith('bad_'))
    logs = logs_of(root / 'files')
    assert all(logs.count(f'Bad file {entry["path"]!r}') == 1 for entry in entries)


def test_a_signal_to_one_rank_stops_both(ranks) -> None:
    root, found = ranks
    assert [rank['exit_code'] for rank in found] == [75, 75]
    assert (root / 'signal' / 'last_checkpoint').read_text().endswith('iter_3.pth')
