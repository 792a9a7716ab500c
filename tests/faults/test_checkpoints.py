"""Checkpoint files: kills while saving, damage, signals, full disks."""

import errno
import gc
import os
import signal
import time
import weakref
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from mmengine.hooks import Hook
from mmengine.registry import HOOKS

from mmpl.checkpoints import files as checkpoint_files
from mmpl.engine import SafeCheckpointHook
from tests.faults.runs import VARIANTS, differences, final_state, own_hook, run, stopped


@HOOKS.register_module(force=True)
class SignalAt(Hook):
    """Sends this process a signal amid an iteration."""

    def __init__(self, iteration: int, number: int = signal.SIGTERM) -> None:
        self.iteration, self.number = iteration, number

    def before_train_iter(self, runner, batch_idx, data_batch=None) -> None:
        if runner.iter + 1 == self.iteration:
            os.kill(os.getpid(), self.number)


def save(folder: Path, name: str, value: float) -> None:
    """What the hook does, without a run."""
    torch.save({'value': torch.tensor(value)}, folder / f'.{name}.tmp')
    checkpoint_files.publish(folder / f'.{name}.tmp', folder / name)
    checkpoint_files.write_text(folder / 'last_checkpoint', str(folder / name))


class Kill(BaseException):
    pass


@pytest.mark.parametrize('moment', range(5))
@pytest.mark.parametrize('same_name', [False, True])
def test_a_kill_between_any_two_steps_leaves_a_whole_checkpoint(
    moment: int, same_name: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tmp_path, 'iter_1.pth', 1.0)
    calls = []
    real = os.replace

    def replace(source, target) -> None:
        calls.append(target)
        if len(calls) == moment + 1:
            raise Kill
        real(source, target)

    monkeypatch.setattr(os, 'replace', replace)
    # a kill runs no clean-up
    monkeypatch.setattr(Path, 'unlink', lambda *args, **kwargs: None)
    second = 'iter_1.pth' if same_name else 'iter_2.pth'
    try:
        save(tmp_path, second, 2.0)
    except Kill:
        assert moment < 4
    found, passed = checkpoint_files.find_whole_checkpoint(tmp_path)
    assert found is not None and not passed
    value = torch.load(found, weights_only=True)['value'].item()
    assert value == (1.0 if moment < 2 else 2.0), 'the newest whole file counts, wherever the pointer is'


@pytest.mark.parametrize('harm', ['truncated', 'flipped', 'empty', 'removed'])
@pytest.mark.parametrize('recorded', [True, False])
def test_damage_is_seen(harm: str, recorded: bool, tmp_path: Path) -> None:
    for number in (1, 2):
        save(tmp_path, f'iter_{number}.pth', float(number))
        if not recorded:
            (tmp_path / f'iter_{number}.pth.sha256').unlink()
    path = tmp_path / 'iter_2.pth'
    assert checkpoint_files.find_whole_checkpoint(tmp_path) == (str(path), [])
    data = bytearray(path.read_bytes())
    place = data.index(torch.tensor(2.0).numpy().tobytes())
    data[place] ^= 1
    if harm == 'removed':
        path.unlink()
    else:
        path.write_bytes(dict(truncated=data[: len(data) // 2], flipped=data, empty=b'')[harm])
    found, passed = checkpoint_files.find_whole_checkpoint(tmp_path)
    assert found == str(tmp_path / 'iter_1.pth')
    assert [str(path) in line for line in passed] == ([] if harm == 'removed' else [True])


def test_the_pointer_may_be_edited(tmp_path: Path) -> None:
    for number in (1, 2):
        save(tmp_path, f'iter_{number}.pth', float(number))
    checkpoint_files.write_text(tmp_path / 'last_checkpoint', str(tmp_path / 'iter_1.pth'))
    assert checkpoint_files.find_whole_checkpoint(tmp_path)[0] == str(tmp_path / 'iter_1.pth')
    (tmp_path / 'other').mkdir()
    save(tmp_path / 'other', 'iter_2.pth', 3.0)  # of another folder, which has one of that name too
    checkpoint_files.write_text(tmp_path / 'last_checkpoint', str(tmp_path / 'other' / 'iter_2.pth'))
    assert checkpoint_files.candidates(tmp_path)[0] == tmp_path / 'iter_2.pth'  # the folder may have had that name
    save(tmp_path / 'other', 'iter_3.pth', 3.0)
    checkpoint_files.write_text(tmp_path / 'last_checkpoint', str(tmp_path / 'other' / 'iter_3.pth'))
    assert checkpoint_files.candidates(tmp_path)[0] == tmp_path / 'other' / 'iter_3.pth'
    # and a work folder may be moved
    checkpoint_files.write_text(tmp_path / 'last_checkpoint', '/elsewhere/iter_1.pth')
    assert checkpoint_files.find_whole_checkpoint(tmp_path)[0] == str(tmp_path / 'iter_1.pth')


def test_a_copy_without_its_times_goes_on_from_the_pointer(tmp_path: Path) -> None:
    run(tmp_path / 'run', epochs=3)
    now = time.time()
    for age, name in enumerate(['epoch_1.pth', 'epoch_2.pth', 'epoch_3.pth', 'last_checkpoint']):
        os.utime(tmp_path / 'run' / name, (now - age, now - age))  # the older a file, the later it was copied
    found = checkpoint_files.candidates(tmp_path / 'run')
    assert [path.name for path in found] == ['epoch_3.pth', 'epoch_1.pth', 'epoch_2.pth']


def test_a_copy_of_files_of_two_kinds_goes_on_from_the_pointer(tmp_path: Path) -> None:
    """As a preempted run leaves them; the files inside of epochs were copied last."""
    for value, name in enumerate(['epoch_5.pth', 'iter_12.pth', 'iter_14.pth', 'epoch_6.pth']):
        save(tmp_path, name, float(value))
    for age, name in enumerate(['iter_14.pth', 'iter_12.pth', 'last_checkpoint', 'epoch_6.pth', 'epoch_5.pth']):
        os.utime(tmp_path / name, (1e9 - age, 1e9 - age))
    assert checkpoint_files.candidates(tmp_path)[0].name == 'epoch_6.pth'


@pytest.mark.parametrize('on_save_error', ['raise', 'continue'])
def test_the_best_file_stays_until_the_next_is_there(
    on_save_error: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runner = run(tmp_path, epochs=1, checkpoint=dict(on_save_error=on_save_error))
    (hook,) = (hook for hook in runner.hooks if isinstance(hook, SafeCheckpointHook))
    hook.save_best, hook.key_indicators, hook.rules = ['loss'], ['loss'], ['less']
    hook.is_better_than, hook.best_ckpt_path = dict(loss=lambda new, old: new < old), None
    hook.after_val_epoch(runner, dict(loss=0.5))
    first = tmp_path / 'best_loss_epoch_1.pth'
    assert checkpoint_files.damage(first) == '' and 'optimizer' not in torch.load(first, weights_only=False)
    assert torch.load(tmp_path / 'epoch_1.pth', weights_only=False)['message_hub']['runtime_info']['best_score'] == 0.5
    runner.train_loop._epoch = 2

    def full(path) -> None:
        raise OSError(errno.ENOSPC, 'No space left on device')

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint_files, 'sync_file', full)
        with nullcontext() if on_save_error == 'continue' else pytest.raises(OSError, match='No space'):
            hook.after_val_epoch(runner, dict(loss=0.3))
    assert first.is_file() and not list(tmp_path.glob('*best_loss_epoch_2*'))
    assert (runner.message_hub.get_info('best_score'), hook.best_ckpt_path) == (0.5, str(first))
    hook.after_val_epoch(runner, dict(loss=0.6))
    assert first.is_file()
    hook.after_val_epoch(runner, dict(loss=0.4))
    assert [path.name for path in sorted(tmp_path.glob('best*'))] == [
        'best_loss_epoch_2.pth',
        'best_loss_epoch_2.pth.sha256',
    ]
    assert runner.message_hub.get_info('best_ckpt') == str(tmp_path / 'best_loss_epoch_2.pth')


def test_a_damaged_newest_checkpoint_is_passed_over(whole, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    every = dict(iter_interval=4)
    stopped(tmp_path, 9, checkpoint=every)
    newest = tmp_path / 'iter_8.pth'
    assert (tmp_path / 'last_checkpoint').read_text() == str(newest)
    newest.write_bytes(newest.read_bytes()[:-100])
    run(tmp_path, checkpoint=every)
    assert differences(final_state(tmp_path / 'epoch_3.pth'), whole['plain']) == []
    assert f'Damaged checkpoint passed over: {newest}' in capsys.readouterr().out
    for path in tmp_path.glob('*.pth'):
        path.write_bytes(b'')
    with pytest.raises(RuntimeError, match=r'(?s)all of its checkpoints are damaged.*epoch_3'):
        run(tmp_path)


def test_old_files_and_cyclic_garbage_go_when_the_new_file_is_there(tmp_path: Path) -> None:
    class Node:
        pass

    node = Node()
    node.itself = node
    node, ref = None, weakref.ref(node)
    gc.disable()
    try:
        run(tmp_path, checkpoint=dict(iter_interval=1, max_keep_ckpts=1))
    finally:
        gc.enable()
    assert ref() is None
    names = {path.name for path in tmp_path.iterdir() if path.is_file()}
    wanted = {f'{stem}.pth{end}' for stem in ('epoch_3', 'iter_17', 'iter_18') for end in ('', '.sha256')}
    assert wanted | {'last_checkpoint'} <= names and not [n for n in names - wanted if '.pth' in n]


@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_saves_and_leaves(number: int, whole, tmp_path: Path) -> None:
    variant = VARIANTS['bf16_accumulation_masks']
    before = signal.getsignal(number)
    with pytest.raises(SystemExit) as left:
        run(tmp_path, hooks=(own_hook('SignalAt', iteration=7, number=number),), **variant)
    signal.signal(number, before)
    assert left.value.code == 75
    assert (tmp_path / 'last_checkpoint').read_text() == str(tmp_path / 'iter_8.pth')  # the optimizer's next step
    if number == signal.SIGTERM:
        run(tmp_path, **variant)
        assert differences(final_state(tmp_path / 'epoch_3.pth'), whole['bf16_accumulation_masks']) == []
        assert signal.getsignal(number) == before


@pytest.mark.parametrize('on_save_error', ['raise', 'continue'])
def test_full_disk(
    on_save_error: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    real = checkpoint_files.sync_file

    def full(path) -> None:
        if 'iter_3' in str(path):
            raise OSError(errno.ENOSPC, 'No space left on device')
        real(path)

    monkeypatch.setattr(checkpoint_files, 'sync_file', full)
    kwargs = dict(checkpoint=dict(iter_interval=1, on_save_error=on_save_error), epochs=1)
    if on_save_error == 'raise':
        with pytest.raises(OSError, match='No space left'):
            run(tmp_path, **kwargs)
        assert (tmp_path / 'last_checkpoint').read_text() == str(tmp_path / 'iter_2.pth')
        assert checkpoint_files.damage(tmp_path / 'iter_2.pth') == ''
    else:
        run(tmp_path, **kwargs)
        assert (tmp_path / 'epoch_1.pth').is_file()
    assert not list(tmp_path.glob('*iter_3.pth*'))
    text = capsys.readouterr().out
    assert 'could not be written' in text and f'The last good one is {tmp_path / "iter_2.pth"}' in text


@pytest.mark.parametrize(
    ('field', 'value', 'error'),
    [
        ('interval', 1.5, TypeError),
        ('iter_interval', -2, ValueError),
        ('max_keep_ckpts', 'all', TypeError),
        ('max_kept_ckpts', 3, ValueError),
        ('on_save_error', 'ignore', ValueError),
        ('out_dir', 's3://bucket', ValueError),
    ],
)
def test_fields_are_checked(field: str, value, error: type) -> None:
    with pytest.raises(error, match=field):
        SafeCheckpointHook(**{field: value})
    with pytest.raises(ValueError, match='iter_interval'):
        SafeCheckpointHook(by_epoch=False, iter_interval=5)


def test_by_iteration(tmp_path: Path) -> None:
    run(tmp_path, checkpoint=dict(interval=5, by_epoch=False, max_keep_ckpts=2), epochs=2)
    assert sorted(path.name for path in tmp_path.glob('*.pth')) == ['iter_10.pth', 'iter_12.pth']
