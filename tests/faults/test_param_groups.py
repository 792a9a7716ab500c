"""Checkpoints with a parameter group for each tensor, as early versions wrote them, are resumed to the same bits."""

from pathlib import Path

import pytest
from mmengine.optim import DefaultOptimWrapperConstructor

from mmpl.compat import load_checkpoint
from mmpl.engine import StrictOptimWrapperConstructor
from tests.faults.runs import differences, run
from tests.faults.test_exact_resume import EVERY, stopped

PARAMWISE = dict(
    norm_decay_mult=0.0, bias_decay_mult=0.0, custom_keys=dict(cls_token=dict(lr_mult=0.5), neck=dict(lr_mult=3.0))
)


def fields(counts: int = 1, **paramwise) -> dict:
    optimizer = dict(type='AdamW', lr=1e-3, weight_decay=0.05)
    wrapper = dict(constructor='mmpl.StrictOptimWrapperConstructor', optimizer=optimizer, accumulative_counts=counts)
    return dict(checkpoint=EVERY, optim_wrapper=dict(wrapper, paramwise_cfg=PARAMWISE | paramwise))


def weights_and_moments(path: Path) -> dict:
    """Of a final checkpoint: the model, and what the optimizer holds of each tensor, by its name and settings."""
    checkpoint = load_checkpoint(path)
    saved = checkpoint['optimizer']
    held = [
        (saved['state'][index], {key: value for key, value in group.items() if key != 'params'})
        for group in saved['param_groups']
        for index in group['params']
    ]
    held.sort(key=lambda entry: (str(entry[1]), entry[0]['exp_avg'].double().sum().item()))
    return dict(model=checkpoint['state_dict'], held=held)


@pytest.fixture(scope='module')
def early(tmp_path_factory) -> tuple[Path, Path]:
    """Work folders of a stopped and of a whole run with a group for each tensor."""
    root = tmp_path_factory.mktemp('early')
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(StrictOptimWrapperConstructor, 'add_params', DefaultOptimWrapperConstructor.add_params)
        stopped(root / 'stopped', 9, **fields())
        run(root / 'whole', **fields())
    groups = load_checkpoint(root / 'stopped' / 'iter_9.pth')['optimizer']['param_groups']
    assert len(groups) > 50 and all(len(group['params']) == 1 for group in groups)
    return root / 'stopped', root / 'whole'


def test_resumed_and_whole_runs_end_in_the_bits_of_those_with_many_groups(early, tmp_path: Path) -> None:
    left, whole = early
    start = str(left / 'iter_9.pth')
    resumed = run(tmp_path / 'resumed', load_from=start, **fields())
    assert len(resumed.optim_wrapper.optimizer.param_groups) < 10
    run(tmp_path / 'new', **fields())
    want = weights_and_moments(whole / 'epoch_3.pth')
    for name in ('resumed', 'new'):
        assert differences(weights_and_moments(tmp_path / name / 'epoch_3.pth'), want) == []
    schedulers = [load_checkpoint(tmp_path / name / 'epoch_3.pth')['param_schedulers'] for name in ('resumed', 'new')]
    assert differences(*schedulers) == []


def test_other_settings_are_refused(early, tmp_path: Path) -> None:
    start = str(early[0] / 'iter_9.pth')
    with pytest.raises(ValueError, match=r'parameter groups of \[1, 1, 1, 1, 1, \.\.\.\] tensors.*`resume=False`'):
        run(tmp_path, load_from=start, **fields(custom_keys=dict(cls_token=dict(lr_mult=0.5))))
