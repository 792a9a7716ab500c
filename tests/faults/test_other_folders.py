"""Work folders that were copied, moved or resumed from, and files that no run can go on from."""

import shutil
from pathlib import Path

import pytest
import torch
from mmengine.hooks import Hook
from mmengine.registry import DATASETS, HOOKS
from mmengine.runner import Runner
from mmpretrain.structures import DataSample

from mmpl.checkpoints.files import candidates
from mmpl.checkpoints.fit import CheckpointMismatchError
from mmpl.compat import load_checkpoint
from mmpl.utils.preemption import Preempted
from tests.faults.runs import AugmentedNoise, differences, fault_cfg, final_state, logs_of, own_hook, run


@DATASETS.register_module(force=True)
class LabelledNoise(AugmentedNoise):
    """With labels, one of three."""

    metainfo = dict(classes=('a', 'b', 'c'))

    def __getitem__(self, index: int) -> dict:
        return dict(super().__getitem__(index), data_samples=DataSample().set_gt_label(index % 3))


@HOOKS.register_module(force=True)
class Cut(Hook):
    """Lets a signal be received in a validation, or a process die in it."""

    def __init__(self, epoch: int, dies: bool, after: int = 1) -> None:
        self.epoch, self.dies, self.left = epoch, dies, after

    def before_val_iter(self, runner, batch_idx, data_batch=None) -> None:
        self.left -= runner.epoch == self.epoch
        if runner.epoch == self.epoch and self.left < 0:
            if self.dies:
                raise InterruptedError
            (hook,) = (hook for hook in runner.hooks if hasattr(hook, '_signals'))
            hook._signals.received = lambda: 15


@HOOKS.register_module(force=True)
class Validated(Hook):
    """Notes the epochs after which a validation ended."""

    seen: list = []

    def after_val_epoch(self, runner, metrics=None) -> None:
        self.seen.append(runner.epoch)


def classify(work_dir: Path, hooks: tuple = (), epochs: int = 3, **fields):
    """Train a classifier that is validated after each epoch."""
    fields = dict(checkpoint=dict(interval=1, save_best='auto')) | fields
    loader = dict(batch_size=4, num_workers=0, collate_fn=dict(type='default_collate'))
    noise = dict(type='mmengine.LabelledNoise', _scope_='mmengine', size=24, side=16)
    model = dict(
        type='ImageClassifier',
        backbone=dict(
            type='VisionTransformer',
            arch=dict(embed_dims=32, num_layers=2, num_heads=2, feedforward_channels=64),
            img_size=16,
            patch_size=4,
        ),
        head=dict(type='LinearClsHead', num_classes=3, in_channels=32, topk=(1,)),
        data_preprocessor=dict(type='ClsDataPreprocessor', num_classes=3),
    )
    cfg = fault_cfg(
        work_dir,
        epochs=epochs,
        dataset=noise,
        val_dataloader=dict(loader, sampler=dict(type='DefaultSampler', shuffle=False), dataset=noise),
        val_evaluator=dict(type='Accuracy', topk=(1,)),
        val_cfg={},
        custom_hooks=[dict(type='mmpl.NonFiniteHook'), *hooks],
        **fields,
    )
    cfg.model = model
    runner = Runner.from_cfg(cfg)
    runner.train()
    return runner


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob('*.pth'))


def test_a_branch_leaves_the_best_file_of_the_first_run_alone(tmp_path: Path) -> None:
    classify(tmp_path / 'first', epochs=1)
    before = names(tmp_path / 'first')
    assert before == ['best_accuracy_top1_epoch_1.pth', 'epoch_1.pth']
    shutil.copytree(tmp_path / 'first', tmp_path / 'copy')
    for folder, fields in (('branch', dict(load_from=str(tmp_path / 'first' / 'epoch_1.pth'))), ('copy', {})):
        runner = classify(tmp_path / folder, epochs=3, hooks=(own_hook('BetterEachTime'),), **fields)
        assert names(tmp_path / 'first') == before
        assert [name for name in names(tmp_path / folder) if 'best' in name] == ['best_accuracy_top1_epoch_3.pth']
        best = Path(runner.message_hub.get_info('best_ckpt'))
        assert best == tmp_path / folder / 'best_accuracy_top1_epoch_3.pth'


@HOOKS.register_module(force=True)
class BetterEachTime(Hook):
    priority = 'HIGHEST'

    def after_val_epoch(self, runner, metrics=None) -> None:
        metrics['accuracy/top1'] = 100.0 + runner.epoch


def test_a_renamed_folder_goes_on_from_its_own_files(tmp_path: Path) -> None:
    run(tmp_path / 'run', epochs=1)
    (tmp_path / 'run').rename(tmp_path / 'kept')
    run(tmp_path / 'run', epochs=1, randomness=dict(seed=7, deterministic=True))
    assert candidates(tmp_path / 'kept')[0] == tmp_path / 'kept' / 'epoch_1.pth'


@pytest.mark.parametrize('interval', [1, 5])  # with and without a checkpoint of that epoch
def test_a_signal_amid_a_validation_of_an_average(interval: int, tmp_path: Path) -> None:
    """The average that is validated stands in the place of the student; what is saved then has both in their places."""
    ema = dict(type='EMAHook', momentum=0.02, priority='ABOVE_NORMAL')
    checkpoint = dict(interval=interval)
    classify(tmp_path / 'whole', hooks=(ema,), checkpoint=checkpoint)
    with pytest.raises(Preempted):
        classify(tmp_path / 'cut', hooks=(ema, own_hook('Cut', epoch=2, dies=False)), checkpoint=checkpoint)
    classify(tmp_path / 'cut', hooks=(ema,), checkpoint=checkpoint)
    states = [load_checkpoint(tmp_path / name / 'epoch_3.pth') for name in ('whole', 'cut')]
    for part in ('state_dict', 'ema_state_dict', 'optimizer'):
        assert differences(*(state[part] for state in states)) == []


@pytest.mark.parametrize('second', [False, True])
def test_a_signal_amid_the_two_validations_of_mmpretrains_average(second: bool, tmp_path: Path) -> None:
    """It validates the average, and then the student."""
    ema = dict(type='mmpretrain.EMAHook', momentum=0.02, evaluate_on_ema=True, evaluate_on_origin=True)
    checkpoint = dict(interval=5)
    classify(tmp_path / 'whole', hooks=(ema,), checkpoint=checkpoint)
    cut = own_hook('Cut', epoch=2, dies=False, after=8 if second else 0)
    with pytest.raises(Preempted):
        classify(tmp_path / 'cut', hooks=(ema, cut), checkpoint=checkpoint)
    classify(tmp_path / 'cut', hooks=(ema,), checkpoint=checkpoint)
    states = [load_checkpoint(tmp_path / name / 'epoch_3.pth') for name in ('whole', 'cut')]
    for part in ('state_dict', 'ema_state_dict', 'optimizer'):
        assert differences(*(state[part] for state in states)) == []


@pytest.mark.parametrize('dies', [True, False])
@pytest.mark.parametrize('epochs', [2, 3])
def test_a_validation_that_was_cut_off_is_made_up_for(dies: bool, epochs: int, tmp_path: Path) -> None:
    """Of the last epoch and of one before; once, and never where none was cut off."""
    with pytest.raises(InterruptedError if dies else Preempted):
        classify(tmp_path, epochs=epochs, hooks=(own_hook('Cut', epoch=2, dies=dies),))
    Validated.seen.clear()
    classify(tmp_path, epochs=epochs, hooks=(own_hook('Validated'),))
    assert Validated.seen == [2, 3][: epochs - 1]
    assert 'The validation after epoch 2 was cut off' in logs_of(tmp_path)
    classify(tmp_path, epochs=epochs, hooks=(own_hook('Validated'),))
    assert Validated.seen == [2, 3][: epochs - 1]


def test_a_validation_that_is_cut_off_again_is_made_up_for_again(tmp_path: Path) -> None:
    """By a signal, not by an error; the best score that it gives is in the checkpoint."""
    cut = own_hook('Cut', epoch=2, dies=False)
    for _ in range(2):
        with pytest.raises(Preempted):
            classify(tmp_path, epochs=2, hooks=(own_hook('BetterEachTime'), cut))
    Validated.seen.clear()
    classify(tmp_path, epochs=2, hooks=(own_hook('BetterEachTime'), own_hook('Validated')))
    assert Validated.seen == [2]
    hub = load_checkpoint(tmp_path / 'epoch_2.pth')['message_hub']['runtime_info']
    assert hub['best_score'] == 102.0 and hub['best_ckpt'] == str(tmp_path / 'best_accuracy_top1_epoch_2.pth')


def test_a_full_disk_costs_no_validation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path, text):
        raise OSError('No space left on device')

    monkeypatch.setattr('mmpl.engine.hooks.unfinished.write_text', full)
    assert classify(tmp_path, epochs=1).epoch == 1


def test_weights_alone_are_not_resumed_from(tmp_path: Path) -> None:
    classify(tmp_path / 'first', epochs=1)
    whole = tmp_path / 'first' / 'epoch_1.pth'
    best = tmp_path / 'first' / 'best_accuracy_top1_epoch_1.pth'
    content = load_checkpoint(whole)
    torch.save(content['state_dict'], tmp_path / 'bare.pth')
    torch.save(content | dict(meta={}), tmp_path / 'nowhere.pth')
    for path, lacks in (
        (best, 'optimizer'),
        (tmp_path / 'bare.pth', 'epoch, iter, mess'),
        (tmp_path / 'nowhere.pth', 'epoch, iter, as'),
    ):
        with pytest.raises(CheckpointMismatchError, match=f'does not hold: {lacks}.*`resume=False`'):
            classify(tmp_path / 'other', load_from=str(path))


def test_a_damaged_file_is_not_resumed_from_when_it_is_named(tmp_path: Path) -> None:
    run(tmp_path / 'first', epochs=1)
    path = tmp_path / 'first' / 'epoch_1.pth'
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(RuntimeError, match=r'cannot be resumed from .*epoch_1.pth: its SHA-256 is'):
        run(tmp_path / 'other', epochs=2, load_from=str(path))


@pytest.mark.parametrize(('first', 'second'), [('SGD', 'AdamW'), ('AdamW', 'SGD')])
def test_another_kind_of_optimizer_is_refused(first: str, second: str, tmp_path: Path) -> None:
    own = dict(constructor='mmpl.StrictOptimWrapperConstructor')
    run(tmp_path, epochs=1, optim_wrapper=dict(own, optimizer=dict(type=first, lr=1e-3)))
    with pytest.raises(ValueError, match=r'`optim_wrapper.optimizer.type` has changed.*`resume=False`'):
        run(tmp_path, epochs=2, optim_wrapper=dict(own, optimizer=dict(type=second, lr=1e-3)))


@pytest.mark.parametrize('at', [0, 1])
def test_a_schedule_of_the_momentum_may_come_and_go(at: int, tmp_path: Path) -> None:
    own = dict(constructor='mmpl.StrictOptimWrapperConstructor')
    momentum = dict(type='LinearMomentum', start_factor=0.9, by_epoch=False, begin=0, end=4)
    for epochs in (1, 2):
        schedules = {} if epochs == at + 1 else dict(param_scheduler=[momentum])
        run(tmp_path, epochs=epochs, optim_wrapper=own, **schedules)


def test_a_stop_at_the_end_of_an_epoch_saves_the_iteration_that_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where what an iteration found is read after the next one, as on CUDA."""
    monkeypatch.setattr('mmpl.utils.transfer.reading_waits', lambda device: True)
    with pytest.raises(RuntimeError, match='2 steps in a row'):
        run(tmp_path, epochs=2, non_finite=dict(max_skips=2), hooks=(own_hook('BadFrom', iteration=4),))
    assert candidates(tmp_path)[0].name == 'iter_6.pth'
    assert final_state(tmp_path / 'iter_6.pth')['iter'] == 6


@HOOKS.register_module(force=True)
class BadFrom(Hook):
    def __init__(self, iteration: int) -> None:
        self.iteration = iteration

    def before_train_iter(self, runner, batch_idx, data_batch=None) -> None:
        if runner.iter >= self.iteration:
            data_batch['inputs'].fill_(float('nan'))
