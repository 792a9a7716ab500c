"""A run that goes on with another config is the run that was asked for, and its log says what is used."""

import json
from pathlib import Path
from typing import Any

import pytest
from mmengine.runner import Runner

from tests.faults.runs import EVERY, logs_of, run, stopped
from tests.faults.test_accumulation import rates, split


def schedule(end: int) -> list[dict]:
    """A warm-up of one epoch, then a cosine to the end."""
    return [
        dict(type='LinearLR', start_factor=0.1, by_epoch=True, end=1, convert_to_iter_based=True),
        dict(type='CosineAnnealingLR', by_epoch=True, begin=1, end=end, convert_to_iter_based=True),
    ]


STEPS = [
    dict(type='MultiStepLR', by_epoch=True, milestones=[1, 2], gamma=0.5)
]  # another kind, and number, of schedules
FIRST = dict(epochs=2, param_scheduler=schedule(2))
CHANGED: dict[str, tuple[dict, str]] = dict(
    more_epochs=(dict(epochs=4, param_scheduler=schedule(4)), '`train_cfg.max_epochs` 2 -> 4'),
    rate=(
        dict(FIRST, epochs=3, optim_wrapper=dict(optimizer=dict(type='AdamW', lr=2e-3, weight_decay=0.1))),
        'the optimizer has lr 0.001 -> 0.002, weight_decay 0.01 -> 0.1',
    ),
    other_schedules=(dict(epochs=3, param_scheduler=STEPS), '`param_scheduler`'),
    warm_up=(dict(epochs=2, param_scheduler=schedule(3)), '`param_scheduler.1.end` 2 -> 3'),
)


@pytest.mark.parametrize('name', CHANGED)
@pytest.mark.parametrize('at', [9, 12])  # amid the second epoch, and after the end of a finished run
def test_rates_are_those_of_a_run_that_was_so_from_the_start(name: str, at: int, tmp_path: Path) -> None:
    changed, said = CHANGED[name]
    if at == 12:
        run(tmp_path / 'a', **FIRST)
    else:
        stopped(tmp_path / 'a', at, checkpoint=EVERY, **FIRST)
    lr, resumed = rates(tmp_path / 'a', **changed)
    want_lr, whole = rates(tmp_path / 'b', **changed)
    assert lr == want_lr
    assert resumed == pytest.approx({i: rate for i, rate in whole.items() if i >= at}, rel=1e-9)
    assert len(resumed) == changed['epochs'] * 6 - at
    assert said in logs_of(tmp_path / 'a') and 'follows its own' in logs_of(tmp_path / 'a')


def test_the_same_config_changes_nothing(tmp_path: Path) -> None:
    stopped(tmp_path, 9, checkpoint=EVERY, **FIRST)
    run(tmp_path, **FIRST)
    assert 'schedules are made anew' not in logs_of(tmp_path)
    said = [line for line in logs_of(tmp_path).splitlines() if 'follows its own' in line]
    assert len(said) == 1 and 'its own: `custom_hooks` ' in said[0]  # the one that stopped the run
    run(tmp_path, **FIRST)
    assert logs_of(tmp_path).count('follows its own') == 1


def test_without_schedules_the_rate_of_the_config_is_used(tmp_path: Path) -> None:
    stopped(tmp_path, 9, checkpoint=EVERY, **FIRST)
    lr, resumed = rates(tmp_path, epochs=2, param_scheduler=None)
    assert lr == 1e-3 and set(resumed.values()) == {1e-3}


def test_what_else_differs_is_said(tmp_path: Path) -> None:
    stopped(tmp_path, 9, checkpoint=EVERY)
    run(tmp_path, model=dict(masking=dict(mask_ratio=0.5)), optim_wrapper=dict(clip_grad=dict(max_norm=2.0)))
    log = logs_of(tmp_path)
    assert '`model.masking`' in log or '`model.masking.mask_ratio`' in log
    assert '`optim_wrapper.clip_grad.max_norm` 1.0 -> 2.0' in log


def test_a_finished_run_says_that_it_is_finished(tmp_path: Path) -> None:
    run(tmp_path, epochs=1)
    before = logs_of(tmp_path)
    runner = run(tmp_path, epochs=1)
    assert runner.iter == 6
    assert 'at its end already' in logs_of(tmp_path) and 'at its end already' not in before


def logged(runner: Runner, key: str) -> list[Any]:
    """A number of all lines of the run's own log file."""
    lines = (Path(runner.log_dir) / 'vis_data' / 'scalars.json').read_text().splitlines()
    return [row[key] for row in map(json.loads, lines) if key in row]


def test_base_lr_in_the_log_is_the_rate_that_is_used(tmp_path: Path) -> None:
    """All groups, of which mmengine makes one a parameter here, have the base rate."""
    fields = split(4, 2)
    optimizer = dict(type='AdamW', lr=1e-3, weight_decay=0.05)
    fields['optim_wrapper'].update(optimizer=optimizer, paramwise_cfg=dict(norm_decay_mult=0.0))
    runner = run(tmp_path, epochs=1, **fields)
    assert logged(runner, 'base_lr') == logged(runner, 'lr')
    assert logged(runner, 'lr')[0] == pytest.approx(1e-3 * 8 / 16 * 0.1)


@pytest.mark.parametrize(
    ('schedules', 'said'),
    [
        (schedule(2), '`param_scheduler` ends at iteration 12 of 18'),
        ([dict(type='PolyLR', by_epoch=True, end=2)], '`param_scheduler` ends at epoch 2 of 3'),
        (schedule(3), ''),
        (schedule(3)[:1], ''),  # a warm-up to a constant rate
        (STEPS, ''),
        (None, ''),
    ],
)
def test_schedules_that_end_before_the_run(schedules: list[dict] | None, said: str, tmp_path: Path) -> None:
    run(tmp_path, param_scheduler=schedules)
    assert (said or '`param_scheduler` ends') in logs_of(tmp_path) or not said
    assert ('`param_scheduler` ends' in logs_of(tmp_path)) is bool(said)


def test_a_warmup_of_one_step_is_warned_of(tmp_path: Path) -> None:
    """mmengine's LinearLR from 0 to 1 leaves the rate at its start, here a tenth, for the whole run."""
    short = dict(type='LinearLR', start_factor=0.1, by_epoch=False, begin=0, end=1)
    for name, end, last in (('short', 1, 1e-4), ('long', 2, 1e-3)):
        fields = split(8, 1)
        fields['optim_wrapper'].update(optimizer=dict(type='AdamW', lr=1e-3))
        runner = run(tmp_path / name, epochs=1, **fields, param_scheduler=[dict(short, end=end)])
        assert runner.optim_wrapper.get_lr()['lr'][0] == pytest.approx(last * 8 / 16)
        warned = 'less than two steps, so that it stays at `start_factor` 0.1' in logs_of(tmp_path / name)
        assert warned is (name == 'short')
