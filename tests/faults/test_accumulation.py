"""The learning rate follows the images of an optimizer step: in a new run, and in one that goes on with others."""

from pathlib import Path

import pytest
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from mmpl.compat import load_checkpoint
from mmpl.engine.hooks.position_hook import STATE_KEY, Position, resumed_iteration
from tests.faults.runs import EVERY, fault_cfg, logs_of, own_hook, run, stop_at, stopped


@HOOKS.register_module(force=True)
class LearningRates(Hook):
    """Notes the learning rate of each iteration."""

    seen: dict[int, float] = {}

    def before_train(self, runner) -> None:
        self.seen.clear()

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None) -> None:
        self.seen[runner.iter] = runner.optim_wrapper.get_lr()['lr'][0]


def split(batch_size: int, counts: int, enable: bool = True) -> dict:
    """Fields of a run with that many images an iteration, and iterations an optimizer step; 1e-3 is for 16 images."""
    return dict(
        loader=dict(batch_size=batch_size),
        optim_wrapper=dict(accumulative_counts=counts),
        auto_scale_lr=dict(enable=enable, base_batch_size=16),
    )


def rates(folder: Path, **kwargs) -> tuple[float, dict[int, float]]:
    """The learning rate that schedules start from, and that of each iteration that is run."""
    runner = run(folder, hooks=(own_hook('LearningRates'),), **kwargs)
    return runner.optim_wrapper.optimizer.param_groups[0]['initial_lr'], dict(LearningRates.seen)


@pytest.mark.parametrize(
    ('batch_size', 'counts', 'enable', 'lr'),
    [
        (4, 1, True, 0.25e-3),
        (2, 2, True, 0.25e-3),
        (4, 4, True, 1e-3),
        (4, 3, True, 0.75e-3),
        (4, 4, False, 1e-3),
        (4, 8, True, 2e-3),
    ],
)
def test_images_of_an_optimizer_step_decide(
    batch_size: int, counts: int, enable: bool, lr: float, tmp_path: Path
) -> None:
    cfg = fault_cfg(tmp_path, hooks=stop_at(1), log_level='INFO', **split(batch_size, counts, enable))
    runner = Runner.from_cfg(cfg)
    with pytest.raises(RuntimeError):
        runner.train()
    assert runner.optim_wrapper.optimizer.param_groups[0]['initial_lr'] == pytest.approx(lr, rel=1e-12)
    assert runner.cfg.auto_scale_lr.base_batch_size == 16  # what checkpoints and logs say
    assert (f'An optimizer step sees {batch_size * counts} images' in logs_of(tmp_path)) is (enable and counts > 1)
    assert ('learning rate 2 x that of the config, 0.002, for a batch 2 x' in logs_of(tmp_path)) is (lr > 1e-3)


@pytest.mark.parametrize(
    ('before', 'after', 'first'),
    [
        (split(4, 2), split(2, 4), 16),  # the same steps: half the batch, twice the iterations
        (split(2, 4), split(4, 2), 4),
        (split(4, 2), split(4, 4), 8),  # twice the images in a step, the same iterations
        (split(4, 3), split(4, 4), 8),  # the ninth iteration is done again: it is no step's first
        (split(4, 4), split(4, 1), 8),
        (split(4, 4, enable=False), split(4, 1, enable=False), 8),
    ],
)
def test_resumed_has_the_rates_of_a_run_like_that(before: dict, after: dict, first: int, tmp_path: Path) -> None:
    """It goes on with the learning rates that a run has there which was started with the new numbers."""
    stopped(tmp_path / 'a', 9, checkpoint=EVERY, **before)
    lr, resumed = rates(tmp_path / 'a', **after)
    want_lr, whole = rates(tmp_path / 'b', **after)
    assert lr == pytest.approx(want_lr, rel=1e-9)
    assert min(resumed) == first
    assert resumed == pytest.approx({i: rate for i, rate in whole.items() if i >= first}, rel=1e-9)
    counts = [fields['optim_wrapper']['accumulative_counts'] for fields in (before, after)]
    assert f'accumulative_counts {counts[0]} -> {counts[1]}' in logs_of(tmp_path / 'a')
    assert load_checkpoint(tmp_path / 'a' / 'epoch_3.pth')[STATE_KEY]['accumulative_counts'] == counts[1]


@pytest.mark.parametrize('old', range(1, 9))
def test_a_run_goes_on_behind_the_last_whole_batch_that_it_has_seen(old: int) -> None:
    """Images that were seen, in batches of another number of processes, rounded down."""
    for new in range(1, 33):
        for done in range(1, 200):
            before, after = (Position(0, 0, count, 2, 1, 10_000, 20_000 * 8) for count in (old, new))
            assert resumed_iteration(before, after, 0, done, 10**6) == done * old * 2 // (new * 2)
