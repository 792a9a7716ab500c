"""A run that starts from another run's weights, and goes on from its own checkpoints when it is started again."""

from pathlib import Path

import pytest
import torch
from mmengine.hooks import Hook
from mmengine.registry import HOOKS

from mmpl.apis.train import train
from mmpl.checkpoints.fit import CheckpointMismatchError
from mmpl.compat import load_checkpoint
from tests.faults.runs import EVERY, StopAt, differences, fault_cfg, final_state, logs_of, own_hook, run, stop_at

PIXELS = dict(head=dict(target='pixel'), loss_weights=dict(label_cls=0, label_data=0))  # MAE: no teachers


@HOOKS.register_module(force=True)
class FirstWeights(Hook):
    """Notes where the run begins, and with which encoders."""

    priority = 'LOWEST'
    seen: list = []

    def before_train_epoch(self, runner) -> None:
        model = runner.model
        encoders = [model.backbone, *(teacher.backbone for teacher in model.teachers.values())]
        self.seen.append((runner.iter, [{k: v.clone() for k, v in e.state_dict().items()} for e in encoders]))


@pytest.fixture(scope='module')
def finished(tmp_path_factory) -> dict[str, Path]:
    """Checkpoints of finished runs."""
    root = tmp_path_factory.mktemp('finished')
    run(root / 'plmae', epochs=1, randomness=dict(seed=5, deterministic=True))
    run(root / 'mae', epochs=1, model=PIXELS, randomness=dict(seed=6, deterministic=True))
    return {name: root / name / 'epoch_1.pth' for name in ('plmae', 'mae')}


def command(folder: Path, name: str, start: Path, *options: str, hooks: tuple = ()) -> None:
    """`tools/train.py CONFIG --cfg-options load_from=START`, with a config like ours."""
    config = folder / f'{name}.py'
    hooks = (own_hook('FirstWeights'), *hooks)
    fault_cfg(folder / name, epochs=1, checkpoint=EVERY, hooks=hooks).dump(config)
    train([str(config), '--cfg-options', f'load_from={start}', *options])


@pytest.mark.parametrize('kind', ['plmae', 'mae'])
def test_starts_from_the_weights_and_repeated_goes_on(kind: str, finished: dict[str, Path], tmp_path: Path) -> None:
    FirstWeights.seen.clear()
    with pytest.raises(StopAt.Stopped):
        command(tmp_path, 'stopped', finished[kind], hooks=stop_at(3))
    command(tmp_path, 'stopped', finished[kind])
    command(tmp_path, 'whole', finished[kind])
    command(tmp_path, 'whole', finished[kind])  # it is at its end: nothing happens
    assert [begin for begin, _ in FirstWeights.seen] == [0, 3, 0]
    loaded = load_checkpoint(finished[kind])['state_dict']
    first = FirstWeights.seen[0][1]
    assert len(first) == 3
    sources = ['', 'label_teacher.', 'recon_teacher.'] if kind == 'plmae' else [''] * 3
    for encoder, source in zip(first, sources, strict=True):
        assert all(torch.equal(value, loaded[f'{source}backbone.{key}']) for key, value in encoder.items())
    states = [final_state(tmp_path / name / 'epoch_1.pth') for name in ('stopped', 'whole')]
    assert states[0]['iter'] == 6 and differences(*states) == []


def test_resuming_from_a_finished_run_is_refused(finished: dict[str, Path], tmp_path: Path) -> None:
    """As another project's train.py does with our config, and `--resume PATH`: no run of no iterations."""
    given = dict(epochs=1, load_from=str(finished['plmae']))
    with pytest.raises(RuntimeError, match=r'epoch 1, iteration 6, .* nothing would be trained.*`resume=False`'):
        run(tmp_path / 'a', **given)
    assert run(tmp_path / 'b', **given | dict(epochs=2)).iter == 12  # a longer run
    assert f'resumes from {finished["plmae"]}: weights, optimizer, epoch and iteration' in logs_of(tmp_path / 'b')
    own = str(tmp_path / 'b' / 'epoch_2.pth')
    run(tmp_path / 'b', epochs=2, load_from=own)  # its own: it is at its end, as without `load_from`
    with pytest.raises(RuntimeError, match='nothing would be trained'):
        run(tmp_path / 'b', **given)
    assert f'The checkpoints in {tmp_path / "b"} are left aside' in logs_of(tmp_path / 'b')


def test_resuming_from_a_plain_mae_says_what_to_do(finished: dict[str, Path], tmp_path: Path) -> None:
    message = r'missing from the checkpoint(.|\n)*set `load_from` to it and `resume=False`'
    with pytest.raises(CheckpointMismatchError, match=message):
        run(tmp_path, epochs=1, load_from=str(finished['mae']))
