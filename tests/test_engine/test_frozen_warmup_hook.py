"""Parts that stay as they are in the first epochs, to the bit."""

import pytest
import torch
from mmengine.hooks import Hook
from mmengine.runner import Runner

from tests.test_engine.runs import run_cfg

HELD = ['label_heads.*.prototypes']


class Snapshots(Hook):
    """Prototypes, student's and teacher's, and the rest of the heads, at the start and after each epoch."""

    priority = 'VERY_LOW'

    def __init__(self) -> None:
        self.seen: list[dict] = []

    def before_train(self, runner) -> None:
        self.after_train_epoch(runner)

    def after_train_epoch(self, runner) -> None:
        state = {name: value.clone() for name, value in runner.model.state_dict().items() if 'head' in name}
        self.seen.append(state)


def run(tmp_path, *, parts: list[str], epochs: int = 2, **fields) -> tuple[Runner, list[dict]]:
    hooks = run_cfg(tmp_path).custom_hooks + [dict(type='mmpl.FrozenWarmupHook', parts=parts, epochs=epochs)]
    wrapper = dict(
        type='mmpl.GuardedOptimWrapper',
        optimizer=dict(type='AdamW', lr=1e-3, weight_decay=0.1),
        clip_grad=dict(max_norm=3.0),
    )
    loop = dict(type='EpochBasedTrainLoop', max_epochs=3)
    runner = Runner.from_cfg(run_cfg(tmp_path, custom_hooks=hooks, optim_wrapper=wrapper, train_cfg=loop, **fields))
    snapshots = Snapshots()
    runner.register_hook(snapshots)
    runner.train()
    return runner, snapshots.seen


def test_prototypes_of_student_and_teacher_stay_for_so_many_epochs(tmp_path):
    fast = dict(momentum_label=dict(start=0.5, end=0.5))
    _, seen = run(tmp_path, parts=HELD, model=fast)
    prototypes = [name for name in seen[0] if name.endswith('prototypes')]
    assert {name.split('.')[0] for name in prototypes} == {'label_heads', 'label_teacher'} and len(prototypes) == 4
    others = [name for name in seen[0] if name.startswith('label_heads') and name not in prototypes]
    for before, after in zip(seen, seen[1:], strict=False):
        for name in others:
            assert not torch.equal(before[name], after[name]), name
    for name in prototypes:
        # the teacher's are an average of equal numbers, which may round
        torch.testing.assert_close(seen[2][name], seen[0][name], rtol=0, atol=1e-6 if 'teacher' in name else 0)
        assert not torch.allclose(seen[3][name], seen[0][name], rtol=0, atol=1e-5), name


def test_a_run_that_is_resumed_holds_them_as_long(tmp_path):
    cfg = dict(parts=HELD)
    _, whole = run(tmp_path / 'whole', **cfg)
    (tmp_path / 'again').mkdir()
    (tmp_path / 'whole' / 'epoch_1.pth').rename(tmp_path / 'again' / 'epoch_1.pth')
    runner, again = run(tmp_path / 'again', **cfg, resume=True, load_from=str(tmp_path / 'again' / 'epoch_1.pth'))
    assert len(again) == 3 and runner.epoch == 3
    for name, value in whole[0].items():
        if name.startswith('label_heads') and name.endswith('prototypes'):
            assert torch.equal(again[1][name], value) and not torch.equal(again[2][name], value)


@pytest.mark.parametrize(
    'parts, message',
    [
        (['heads'], r"must be among \['data_preprocessor', .*\], or names of parameters .*, but .* trains no 'heads'"),
        (['label_teacher'], "trains no 'label_teacher'"),
        (['label_heads.*.prototype'], r"trains no 'label_heads\.\*\.prototype'"),
        (['*'], r"`FrozenWarmupHook.parts` \['\*'\] holds all that is trained"),
    ],
)
def test_refuses(parts, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        run(tmp_path, parts=parts)
