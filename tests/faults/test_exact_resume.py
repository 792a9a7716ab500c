"""Stopped at any iteration and resumed, a run ends in the bits of one that was never stopped."""

from pathlib import Path

import pytest

from mmpl.compat import load_checkpoint
from tests.faults.runs import EVERY, VARIANTS, differences, final_state, run, stopped


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
    stopped(tmp_path, 7, checkpoint=EVERY, **VARIANTS['bf16_accumulation_masks'])
    iterations = sorted(int(path.stem.split('_')[1]) for path in tmp_path.glob('iter_*.pth'))
    assert iterations == [4, 6]
    four = dict(optim_wrapper=dict(accumulative_counts=4))
    stopped(tmp_path / 'odd', 7, **four)
    assert not list((tmp_path / 'odd').glob('*.pth'))  # six iterations an epoch: the step comes with the eighth
    stopped(tmp_path / 'odd', 8, **four)
    meta = load_checkpoint(tmp_path / 'odd' / 'epoch_1.pth')['meta']
    assert (meta['epoch'], meta['iter']) == (1, 8)
    for name in ('odd', 'whole'):
        run(tmp_path / name, **four)
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
