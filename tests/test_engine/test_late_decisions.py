"""What is decided on a device and read later ends in the same bits as what the host decides at once.

The CPU plays the device: with a fused optimizer the same code runs on both.
"""

import math
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from mmengine.logging import MessageHub
from torch import nn

from mmpl.engine import GuardedOptimWrapper, NonFiniteError, NonFiniteHook, StrictOptimWrapperConstructor
from mmpl.engine.hooks import DualTeacherHook
from mmpl.engine.hooks.log_history_hook import fetch_late
from mmpl.models import Teacher
from mmpl.utils import transfer
from tests.faults.runs import EVERY, differences, final_state, run, stopped
from tests.faults.test_non_finite import CAUSES, hook_of, poison

FUSED = dict(optim_wrapper=dict(optimizer=dict(type='AdamW', lr=1e-3, fused=True)))


@pytest.fixture
def late(monkeypatch):
    """Call to let the CPU be a device whose numbers are read late."""
    return lambda: monkeypatch.setattr(transfer, 'reading_waits', lambda device: True)


@pytest.mark.parametrize(
    ('method', 'place'), [('plmae', 'input'), ('plmae', 'loss'), ('plmae', 'gradient'), ('msa', 'gradient')]
)
def test_a_bad_step_leaves_the_same_bits(method, place, late, tmp_path: Path, capsys) -> None:
    fields = dict(method=method, epochs=1, **FUSED)
    run(tmp_path / 'at_once', hooks=poison(place, (2, 4)), **fields)
    capsys.readouterr()
    late()
    runner = run(tmp_path / 'late', hooks=poison(place, (2, 4)), **fields)
    assert not differences(final_state(tmp_path / 'at_once/epoch_1.pth'), final_state(tmp_path / 'late/epoch_1.pth'))
    assert hook_of(runner, NonFiniteHook).skipped == 2
    text = capsys.readouterr().out
    for iteration in (2, 4):
        assert f'Non-finite numbers at iteration {iteration}: the step is skipped' in text
    assert text.count(CAUSES[place]) == 2


@pytest.mark.parametrize('momentum', [0.0, 0.9])
def test_a_first_step_of_sgd_that_is_left_out_leaves_nothing(momentum, late) -> None:
    late()
    weight = nn.Parameter(torch.zeros(1000))
    wrapper = GuardedOptimWrapper(torch.optim.SGD([weight], lr=0.1, momentum=momentum, fused=True))
    for value in (float('nan'), 1.0, 1.0):
        weight.grad = torch.full((1000,), value)
        wrapper.step()
    torch.testing.assert_close(weight.detach(), torch.full((1000,), -0.1 - 0.1 * (1 + momentum)))


def test_killed_and_resumed_it_ends_in_the_same_bits(late, tmp_path: Path) -> None:
    late()
    run(tmp_path / 'whole', epochs=1, hooks=poison('loss', (4,)), **FUSED)
    stopped(tmp_path / 'parts', 3, epochs=1, checkpoint=EVERY, **FUSED)
    run(tmp_path / 'parts', epochs=1, hooks=poison('loss', (4,)), checkpoint=EVERY, **FUSED)
    assert not differences(final_state(tmp_path / 'whole/epoch_1.pth'), final_state(tmp_path / 'parts/epoch_1.pth'))


def test_bad_state_is_never_saved(late, tmp_path: Path) -> None:
    late()
    with pytest.raises(NonFiniteError, match='non-finite at iteration 8: label_teacher.assigners.cls.center') as stop:
        run(tmp_path, hooks=poison('centre', (8,)), epochs=2, checkpoint=EVERY, **FUSED)
    assert str(stop.value).endswith(f'Checkpoint from before: {tmp_path / "iter_7.pth"}')
    assert not (tmp_path / 'iter_8.pth').exists()


def test_bad_state_is_reloaded_with_what_it_has_spoilt(late, tmp_path: Path) -> None:
    late()
    non_finite = dict(on_bad_state='reload')
    runner = run(tmp_path, hooks=poison('centre', (8,)), non_finite=non_finite, epochs=2, **FUSED)
    assert all(torch.isfinite(value).all() for value in runner.model.state_dict().values())


def test_it_stops_after_some_in_a_row(late, tmp_path: Path) -> None:
    late()
    with pytest.raises(NonFiniteError, match='3 steps in a row .* since iteration 8'):
        run(tmp_path, hooks=poison('loss', (3, 8, 9, 10, 11)), non_finite=dict(max_skips=3), epochs=2, **FUSED)


def test_a_checkpoint_of_another_form_of_the_optimizer_goes_on() -> None:
    def built(**form) -> torch.optim.Optimizer:
        torch.manual_seed(0)
        model = nn.Linear(3, 5)
        cfg = dict(type='OptimWrapper', optimizer=dict(type='AdamW', lr=0.1, **form))
        optimizer = StrictOptimWrapperConstructor(cfg)(model).optimizer
        for parameter in model.parameters():
            parameter.grad = torch.ones_like(parameter)
        return optimizer

    plain, fused = built(), built(fused=True)
    plain.step()
    fused.load_state_dict(plain.state_dict())
    assert all(group['fused'] for group in fused.param_groups)
    fused.found_inf = torch.ones(())  # only the fused form takes it
    fused.step()
    for one, other in zip(plain.state.values(), fused.state.values(), strict=True):
        assert torch.equal(one['exp_avg'], other['exp_avg']) and one['step'] == other['step'] == 1


@pytest.mark.parametrize('taken', [True, False])
def test_a_teacher_moves_only_with_its_student(taken: bool) -> None:
    student = nn.Linear(3, 5)
    teacher = Teacher(dict(start=0.9, end=1.0, every='epoch'), backbone=student)
    teacher.init_copies = None
    before = [parameter.clone() for parameter in teacher.parameters()]
    with torch.no_grad():
        for parameter in student.parameters():
            parameter += 1
    teacher.after_step(0.0, 1, torch.tensor(taken))
    for old, new, theirs in zip(before, teacher.parameters(), student.parameters(), strict=True):
        assert torch.equal(new, old.lerp(theirs, 1 - 0.9) if taken else old)
    assert teacher.epoch == taken
    teacher.rewind()
    assert teacher._epoch == taken  # a move that was left out is made after the next step


@pytest.mark.parametrize('overflow', [0.0, 1.0])
def test_a_step_that_a_loss_scaler_leaves_to_a_fused_optimizer_counts_as_it_went(overflow: float) -> None:
    """torch's GradScaler calls such a step in any case, with ``found_inf``."""
    hook, told = DualTeacherHook(), []
    weights = nn.Parameter(torch.ones(3))
    optimizer = torch.optim.AdamW([weights], fused=True)
    optimizer.register_step_post_hook(hook._note_step)
    model = SimpleNamespace(
        set_progress=lambda progress: None, after_step=lambda *args: told.append(args[2]), scheduled=lambda progress: {}
    )
    runner = SimpleNamespace(model=model, iter=0, max_iters=10, train_dataloader=[0] * 5, optim_wrapper=None)
    hook.before_train_iter(runner, 0)
    weights.grad = torch.ones(3)
    optimizer.found_inf, optimizer.grad_scale = torch.full((), overflow), None
    optimizer.step()
    del optimizer.found_inf
    model.track_health = False
    hook.after_train_iter(runner, 0)
    assert [bool(taken) for taken in told] == [overflow == 0] == [not torch.equal(weights, torch.ones(3))]


def test_numbers_of_a_device_are_fetched_together(late, monkeypatch) -> None:
    hub = MessageHub.get_instance('late_numbers')
    fetch_late(hub)
    late()
    fetched = []
    stack = torch.stack
    monkeypatch.setattr(torch, 'stack', lambda tensors: fetched.append(len(tensors)) or stack(tensors))
    for value in (1.5, math.nan, 3.25):
        hub.update_scalar('train/loss', torch.tensor(value))
        hub.update_scalar('train/lr', value)
    assert hub.get_scalar('train/lr').current() == 3.25 and not fetched
    assert hub.get_scalar('train/loss').current() == 3.25 and fetched == [3]
    assert hub.log_scalars['train/loss'].data[0].tolist()[::2] == [1.5, 3.25] and fetched == [3]
    hub.update_scalar('train/loss', torch.tensor(2.0))
    assert len(hub.state_dict()['log_scalars']['train/loss'].data[0]) == 4
