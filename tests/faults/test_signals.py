"""Being told to stop as schedulers, torchrun and terminals do it: by a signal to all processes of a group."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from mmengine.registry import LOOPS
from mmengine.runner import BaseLoop
from torch.utils.data import DataLoader

from mmpl.checkpoints import files as checkpoint_files
from mmpl.engine.hooks import safe_checkpoint_hook
from mmpl.utils import preemption
from tests.faults.runs import differences, fault_cfg, final_state, own_hook, run
from tests.test_tools.test_launch import TOOLS

HOOK = """
import os, subprocess
from mmengine.hooks import Hook
from mmengine.registry import HOOKS

@HOOKS.register_module()
class SignalGroup(Hook):
    # of this process, or of torchrun, which started it
    def __init__(self, number, of_parent):
        self.number, self.of_parent = number, of_parent

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if runner.iter == 8 and os.environ.get('RANK', '0') == '0':
            group = os.getpgid(os.getppid() if self.of_parent else 0)
            subprocess.run(['kill', f'-{self.number}', '--', f'-{group}'], start_new_session=True)
"""
WORKERS = dict(num_workers=2, persistent_workers=True)


def start(tmp_path: Path, number: int, ranks: int) -> tuple[int, str]:
    """Exit code and log of a run all of whose processes get a signal in iteration 9 of 18."""
    (tmp_path / 'signal_group.py').write_text(HOOK)
    cfg = fault_cfg(
        tmp_path / 'work',
        loader=dict(batch_size=4 // ranks, **WORKERS),
        hooks=(own_hook('SignalGroup', number=int(number), of_parent=ranks > 1),),
        custom_imports=dict(imports=['tests.faults.runs', 'signal_group']),
    )
    cfg.dump(tmp_path / 'config.py')
    env = {k: v for k, v in os.environ.items() if not k.startswith('TORCHELASTIC') and k not in ('RANK', 'WORLD_SIZE')}
    env.update(CUDA_VISIBLE_DEVICES='-1', OMP_NUM_THREADS='1', PYTHON=sys.executable)
    env.update(PYTHONPATH=f'{tmp_path}:{TOOLS.parent}')
    command = [sys.executable, TOOLS / 'train.py'] if ranks == 1 else [TOOLS / 'dist_train.sh']
    command += [tmp_path / 'config.py'] + ([] if ranks == 1 else [str(ranks)])
    done = subprocess.run(
        command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=300, start_new_session=True
    )
    return done.returncode, done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(('number', 'code'), [(signal.SIGTERM, 75), (signal.SIGINT, 130)])
def test_a_group_with_data_loader_workers_saves_and_goes_on(number: int, code: int, whole, tmp_path: Path) -> None:
    left, text = start(tmp_path, number, ranks=1)
    assert left == code, text[-3000:]
    assert 'Traceback' not in text, text[-3000:]
    assert 'saved at iteration 9, leaving' in text
    assert (tmp_path / 'work' / 'last_checkpoint').read_text().endswith('iter_9.pth')
    run(tmp_path / 'work', loader=WORKERS)
    assert differences(final_state(tmp_path / 'work' / 'epoch_3.pth'), whole['plain']) == []


@pytest.mark.slow
@pytest.mark.dist
def test_two_ranks_with_workers_under_torchrun(tmp_path: Path) -> None:
    left, text = start(tmp_path, signal.SIGTERM, ranks=2)
    assert left != 0
    saved = Path((tmp_path / 'work' / 'last_checkpoint').read_text())
    assert checkpoint_files.damage(saved) == '' and saved.name in ('iter_9.pth', 'iter_10.pth'), text[-3000:]
    assert 'exited unexpectedly' not in text and 'leaving with exit code 75' in text


@LOOPS.register_module(force=True)
class SignalledValidation(BaseLoop):
    """A validation of three iterations without a model; the signal comes in its second, after the second epoch."""

    def __init__(self, runner, dataloader, evaluator) -> None:
        super().__init__(runner, dataloader)

    def run(self) -> None:
        for index in range(3):
            self.runner.call_hook('before_val_iter', batch_idx=index, data_batch=None)
            if index == 1 and self.runner.epoch == 2:
                os.kill(os.getpid(), signal.SIGTERM)
            self.runner.call_hook('after_val_iter', batch_idx=index, data_batch=None, outputs=None)
            seen.append((self.runner.epoch, index))


seen: list[tuple[int, int]] = []


@pytest.mark.parametrize('interval', [1, 5])  # with and without a checkpoint of that epoch
def test_a_signal_amid_a_validation(interval: int, whole, tmp_path: Path) -> None:
    validation = dict(
        val_cfg=dict(type='mmengine.SignalledValidation', _scope_='mmengine'),
        val_dataloader=fault_cfg(tmp_path).train_dataloader,
        val_evaluator=dict(type='Accuracy'),
        checkpoint=dict(interval=interval),
    )
    before = signal.getsignal(signal.SIGTERM)
    seen.clear()
    with pytest.raises(SystemExit) as left:
        run(tmp_path, **validation)
    signal.signal(signal.SIGTERM, before)
    assert left.value.code == 75 and seen == [(1, 0), (1, 1), (1, 2), (2, 0)]
    name = 'epoch_2.pth' if interval == 1 else 'iter_12.pth'
    assert (tmp_path / 'last_checkpoint').read_text() == str(tmp_path / name)
    run(tmp_path)
    assert differences(final_state(tmp_path / 'epoch_3.pth'), whole['plain']) == []


def test_a_worker_outlives_a_signal_and_ends_with_its_loader() -> None:
    preemption.shelter_workers()
    batches = iter(DataLoader(range(100), batch_size=1, num_workers=1))
    next(batches)
    worker = batches._workers[0]
    for number in preemption.SIGNALS:
        subprocess.run(['kill', f'-{int(number)}', str(worker.pid)], check=True)
    assert [int(batch) for batch in batches] == list(range(1, 100)) and worker.exitcode in (None, 0)
    del batches
    worker.join(10)
    assert worker.exitcode == 0


def test_on_several_gpus_a_signal_is_heard_of_a_step_later(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits for the device; and each process hears of it in the same step."""
    monkeypatch.setattr(preemption, 'get_world_size', lambda: 2)
    monkeypatch.setattr(preemption, 'all_reduce', lambda told, kind: None)
    for waits, heard in ((False, [0, signal.SIGUSR1]), (True, [0, 0, signal.SIGUSR1])):
        monkeypatch.setattr(preemption.transfer, 'reading_waits', lambda device, waits=waits: waits)
        signals = preemption.StopSignals()
        signals.listen()
        try:
            got = [signals.received()]
            os.kill(os.getpid(), signal.SIGUSR1)
            got += [signals.received() for _ in heard[1:]]
        finally:
            signals.release()
        assert got == heard


def test_a_process_with_a_batch_more_to_validate_asks_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """As `round_up=False` of a sampler deals them: the others are not there to answer."""
    monkeypatch.setattr(safe_checkpoint_hook, 'all_gather_object', lambda count: [count, 2])
    hook = safe_checkpoint_hook.SafeCheckpointHook(interval=1)
    asked: list[int] = []
    hook._signals = SimpleNamespace(listening=True, received=lambda: asked.append(1) or 0)
    runner = SimpleNamespace(val_dataloader=[0, 1, 2], optim_wrapper=None)
    hook.before_val(runner)
    for index in range(3):
        hook.after_val_iter(runner, index)
    assert len(asked) == 2


def test_the_second_ctrl_c_leaves_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    signals = preemption.StopSignals()
    assert signals.listen()
    try:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)  # as the terminal and torchrun send it: one Ctrl-C
        assert signals.received() == signal.SIGINT
        monkeypatch.setattr(preemption, '_SAME_INTERRUPT', 0.0)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    finally:
        signals.release()
