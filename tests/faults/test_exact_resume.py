"""Stopped at any iteration and resumed, a run ends in the bits of one that was never stopped."""

from pathlib import Path

import pytest

from mmpl.compat import load_checkpoint
from tests.faults.runs import VARIANTS, StopAt, differences, final_state, run

EVERY = dict(iter_interval=1)


def stop_at(iteration: int) -> tuple:
    return (dict(type='mmengine.StopAt', _scope_='mmengine', iteration=iteration),)


def stopped(work_dir: Path, iteration: int, **kwargs) -> None:
    with pytest.raises(StopAt.Stopped):
        run(work_dir, hooks=stop_at(iteration), **kwargs)


@pytest.fixture(scope='module')
def whole(tmp_path_factory) -> dict[str, dict]:
    """The final states of uninterrupted runs, made when they are first asked for."""

    class Runs(dict):
        def __missing__(self, name: str) -> dict:
            folder = tmp_path_factory.mktemp(name)
            run(folder, **VARIANTS[name])
            self[name] = final_state(folder / 'epoch_3.pth')
            return self[name]

    return Runs()


# Inside an epoch, at an epoch's last iteration (before what follows it), amid an accumulation, before the last step.
@pytest.mark.parametrize(
    ('variant', 'iteration'),
    [
        ('plain', 3),
        ('plain', 6),
        ('bf16_accumulation_masks', 7),
        ('bf16_accumulation_masks', 17),
        ('sinkhorn_discrete', 4),
        ('msa', 9),
    ],
)
def test_resumed_is_uninterrupted(variant: str, iteration: int, whole, tmp_path: Path) -> None:
    stopped(tmp_path, iteration, checkpoint=EVERY, **VARIANTS[variant])
    runner = run(tmp_path, checkpoint=EVERY, **VARIANTS[variant])
    assert runner.iter == 18
    assert differences(final_state(tmp_path / 'epoch_3.pth'), whole[variant]) == []


def test_checkpoints_wait_for_the_optimizer_step(tmp_path: Path) -> None:
    """Amid an accumulation gradients are held, and what centres have seen; both are in no checkpoint."""
    stopped(tmp_path, 7, checkpoint=EVERY, epochs=3, **VARIANTS['bf16_accumulation_masks'])
    iterations = sorted(int(path.stem.split('_')[1]) for path in tmp_path.glob('iter_*.pth'))
    assert iterations == [4, 6]
    stopped(tmp_path / 'odd', 7, optim_wrapper=dict(accumulative_counts=4))
    assert not list((tmp_path / 'odd').glob('*.pth'))  # six iterations an epoch: the step comes with the eighth
    stopped(tmp_path / 'odd', 8, optim_wrapper=dict(accumulative_counts=4))
    meta = load_checkpoint(tmp_path / 'odd' / 'epoch_1.pth')['meta']
    assert (meta['epoch'], meta['iter']) == (1, 8)
    run(tmp_path / 'odd', optim_wrapper=dict(accumulative_counts=4))
    run(tmp_path / 'whole', optim_wrapper=dict(accumulative_counts=4))
    assert differences(*(final_state(tmp_path / name / 'epoch_3.pth') for name in ('odd', 'whole'))) == []


@pytest.mark.dist
@pytest.mark.parametrize('workers', [1, 2])
def test_augmentations_do_not_depend_on_workers(workers: int, whole, tmp_path: Path) -> None:
    """Nor does a resumed epoch: its workers begin inside it."""
    loader = dict(num_workers=workers, persistent_workers=True)
    stopped(tmp_path, 9, checkpoint=EVERY, loader=loader)
    run(tmp_path, checkpoint=EVERY, loader=loader)
    assert differences(final_state(tmp_path / 'epoch_3.pth'), whole['plain']) == []


def test_the_comparison_can_fail(whole, tmp_path: Path) -> None:
    run(tmp_path, randomness=dict(seed=1, deterministic=True))
    assert len(differences(final_state(tmp_path / 'epoch_3.pth'), whole['plain'])) > 50
