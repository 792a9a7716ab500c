"""NaN in inputs, losses, gradients, a teacher, the centre: found in the same step, kept out of weights and teachers."""

import copy
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.optim import OptimWrapper
from mmengine.registry import HOOKS

from mmpl.compat import load_checkpoint
from mmpl.engine import NonFiniteError, NonFiniteHook
from tests.faults.runs import run

NAN = float('nan')


@HOOKS.register_module(force=True)
class Poison(Hook):
    """Injects NaN (or Inf) before some iterations, and keeps the model's state from before and after each of them."""

    priority = 'VERY_HIGH'

    def __init__(self, place: str, iterations: tuple, value: float = NAN, rank: int = 0) -> None:
        self.place, self.iterations, self.value, self.rank = place, iterations, value, rank
        self.before: dict[int, dict] = {}
        self.undo = lambda: None

    def before_train_iter(self, runner, batch_idx, data_batch=None) -> None:
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        iteration = runner.iter + 1
        self.before[iteration] = copy.deepcopy(model.state_dict())
        if iteration not in self.iterations or runner.rank != self.rank:
            return
        if self.place == 'input':
            data_batch['inputs'][1, 0, 3, 4] = self.value
        elif self.place == 'loss':
            real = model.head.loss
            model.head.loss = lambda *args: real(*args) * self.value
            self.undo = lambda: delattr(model.head, 'loss')
        elif self.place == 'gradient':
            handle = model.backbone.layers[0].attn.qkv.weight.register_hook(lambda g: torch.full_like(g, self.value))
            self.undo = handle.remove
        else:
            target = dict(
                teacher=lambda: model.recon_teacher.backbone.layers[1].ffn.layers[1].weight,
                centre=lambda: model.label_teacher.assigners['cls'].center,
                codebook=lambda: model.head.codebook.codes,
            )[self.place]()
            with torch.no_grad():
                target.view(-1)[0] = self.value

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None) -> None:
        self.undo()
        self.undo = lambda: None


def poison(place: str, iterations: tuple, **kwargs) -> tuple[dict]:
    return (dict(type='mmengine.Poison', _scope_='mmengine', place=place, iterations=iterations, **kwargs),)


def hook_of(runner, kind: type):
    return next(hook for hook in runner.hooks if isinstance(hook, kind))


CAUSES = dict(
    input="the input data_batch['inputs']; then the output of layer",
    loss='the loss loss_recon',
    gradient='the gradients of backbone.layers.0.attn.qkv.weight',
)


@pytest.mark.parametrize(
    ('place', 'value', 'accumulate'),
    [('input', NAN, 1), ('input', NAN, 2), ('loss', NAN, 1), ('loss', float('inf'), 2), ('gradient', NAN, 1)],
)
def test_a_bad_step_is_not_taken(
    place: str, value: float, accumulate: int, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    runner = run(
        tmp_path,
        hooks=poison(place, (4,), value=value),
        epochs=1,
        optim_wrapper=dict(accumulative_counts=accumulate),
    )
    before = hook_of(runner, Poison).before
    for name, value in before[5].items():
        if name != 'masking.step':
            assert torch.equal(value, before[4][name]), f'{name} moved in a step with NaN'
    moved = [name for name in before[3] if not torch.equal(before[7 - 2 * accumulate][name], before[3][name])]
    assert any(name.startswith('label_teacher.backbone') for name in moved) == (accumulate == 1)
    final = runner.model.state_dict()
    assert all(torch.isfinite(value).all() for value in final.values())
    parts = ['backbone', 'label_teacher.assigners.cls.center']
    parts += ['label_teacher.backbone', 'recon_teacher.backbone'] if accumulate == 1 else []  # at the end momenta are 1
    for part in parts:
        assert any(not torch.equal(final[n], before[5][n]) for n in final if n.startswith(part)), 'the run went on'
    assert hook_of(runner, NonFiniteHook).skipped == 1
    text = capsys.readouterr().out
    assert 'Non-finite numbers at iteration 4: the step is skipped' in text
    assert CAUSES[place] in text


@pytest.mark.parametrize('place', CAUSES)
def test_it_stops_after_some_in_a_row(place: str, tmp_path: Path) -> None:
    with pytest.raises(NonFiniteError, match='3 steps in a row .* since iteration 8') as stop:
        run(tmp_path, hooks=poison(place, (3, 8, 9, 10, 11)), non_finite=dict(max_skips=3), epochs=2)
    assert CAUSES[place] in str(stop.value)
    assert str(stop.value).endswith(f'Checkpoint from before: {tmp_path / "iter_10.pth"}')
    checkpoint = load_checkpoint(tmp_path / 'iter_10.pth')
    assert all(torch.isfinite(value).all() for value in checkpoint['state_dict'].values())
    assert checkpoint['message_hub']['runtime_info']['skipped_steps'] == 4


STATE = dict(
    teacher='recon_teacher.backbone.layers.1.ffn.layers.1.weight',
    centre='label_teacher.assigners.cls.center',
    codebook='head.codebook.codes',
)


@pytest.mark.parametrize(
    ('place', 'on_bad_state'),
    [('teacher', 'stop'), ('centre', 'stop'), ('centre', 'reload'), ('codebook', 'stop'), ('teacher', 'reload')],
)
def test_bad_state_is_found_in_the_same_step(
    place: str, on_bad_state: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    kwargs = dict(
        hooks=poison(place, (8,)),
        model=dict(head=dict(target='discrete')) if place == 'codebook' else {},
        non_finite=dict(on_bad_state=on_bad_state),
        epochs=2,
    )
    if on_bad_state == 'stop':
        with pytest.raises(NonFiniteError, match=f'non-finite at iteration 8: {STATE[place]}') as stop:
            run(tmp_path, **kwargs)
        assert str(stop.value).endswith(f'Checkpoint from before: {tmp_path / "epoch_1.pth"}')
        return
    runner = run(tmp_path, **kwargs)
    text = capsys.readouterr().out
    assert f'reloaded from {tmp_path / "epoch_1.pth"}' in text
    assert all(torch.isfinite(value).all() for value in runner.model.state_dict().values())
    reloaded = hook_of(runner, Poison).before[9][STATE[place]]
    assert torch.equal(reloaded, load_checkpoint(tmp_path / 'epoch_1.pth')['state_dict'][STATE[place]])


def test_the_search_leaves_no_trace(tmp_path: Path) -> None:
    """A skipped step that is explained changes nothing but what skipping it changes."""
    explained = run(tmp_path / 'a', hooks=poison('input', (4,)), epochs=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr('mmpl.engine.hooks.non_finite_hook.first_bad_layer', lambda *args: '')
        silent = run(tmp_path / 'b', hooks=poison('input', (4,)), epochs=1)
    for (name, a), b in zip(explained.model.state_dict().items(), silent.model.state_dict().values(), strict=True):
        assert torch.equal(a, b), name


def test_the_wrapper_must_guard() -> None:
    wrapper = OptimWrapper(torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0))
    with pytest.raises(TypeError, match='optim_wrapper.type.*GuardedOptimWrapper.*OptimWrapper'):
        NonFiniteHook().before_train(SimpleNamespace(optim_wrapper=wrapper))


@pytest.mark.parametrize(
    ('field', 'value', 'error'),
    [('max_skips', 0, ValueError), ('on_bad_state', 'ignore', ValueError)],
)
def test_fields_are_checked(field: str, value, error: type) -> None:
    with pytest.raises(error, match=field):
        NonFiniteHook(**{field: value})
