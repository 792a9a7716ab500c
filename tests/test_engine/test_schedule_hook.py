"""The rates of a run that goes on: what cannot be made anew stays, and several optimizers are no obstacle."""

import logging
from types import SimpleNamespace

import pytest
import torch
from mmengine.config import Config
from mmengine.optim import ConstantLR, OptimWrapper, OptimWrapperDict, ReduceOnPlateauLR
from torch import nn

from mmpl.engine.hooks import schedule_hook
from mmpl.engine.hooks.schedule_hook import ScheduleHook


def wrapper(lr: float = 0.1) -> OptimWrapper:
    return OptimWrapper(torch.optim.SGD([nn.Parameter(torch.ones(2))], lr=lr))


def runner_of(optim_wrapper, schedulers) -> SimpleNamespace:
    return SimpleNamespace(
        optim_wrapper=optim_wrapper,
        param_schedulers=schedulers,
        cfg=Config(dict(param_scheduler=None)),
        iter=7,
        logger=logging.getLogger('schedules'),
        _resume=True,
    )


def plateau(optim_wrapper: OptimWrapper) -> ReduceOnPlateauLR:
    return ReduceOnPlateauLR(optim_wrapper, monitor='loss', rule='less', factor=0.5, patience=0)


@pytest.mark.parametrize('decay', [0.0, 0.3])  # as in the checkpoint, and another one
def test_a_rate_that_follows_validation_stays_that_of_the_checkpoint(decay, caplog) -> None:
    saved = wrapper()
    schedule = plateau(saved)
    for loss in (1.0, 2.0, 3.0):  # gets worse: the rate is halved twice
        schedule.step(dict(loss=loss))
    assert saved.get_lr()['lr'] == [0.025]
    resumed = wrapper()
    resumed.param_groups[0]['weight_decay'] = decay
    runner, hook = runner_of(resumed, [plateau(resumed)]), ScheduleHook()
    hook.after_load_checkpoint(runner, dict(param_schedulers=[schedule.state_dict()]))
    resumed.load_state_dict(saved.state_dict())
    runner.param_schedulers[0].load_state_dict(schedule.state_dict())
    with caplog.at_level(logging.WARNING, 'schedules'):
        hook._follow_config(runner, hook._asked)
    assert resumed.get_lr()['lr'] == [0.025] and runner.param_schedulers[0].best == 1.0
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == (decay > 0) and all('weight_decay 0 -> 0.3' in text and 'validation' in text for text in said)


def test_several_optimizers_follow_their_config(caplog, monkeypatch) -> None:
    monkeypatch.setattr(schedule_hook.ScheduleHook, '_remake', lambda *args: None)
    both = OptimWrapperDict(a=wrapper(0.1), b=wrapper(0.2))
    runner = runner_of(both, {name: [ConstantLR(part, 1.0)] for name, part in both.items()})
    runner.iter = 0
    hook = ScheduleHook()
    hook._asked = [schedule_hook._numbers(group) for group in schedule_hook._groups(runner)]
    hook._asked[1]['lr'] = 0.4
    with caplog.at_level(logging.WARNING, 'schedules'):
        hook._follow_config(runner, hook._asked)
    assert [part.get_lr()['lr'] for part in both.values()] == [[0.1], [0.4]]
    assert 'lr 0.2 -> 0.4' in caplog.text and 'where the learning rate is 0.1.' in caplog.text
