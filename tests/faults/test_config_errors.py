"""An error of another library names the part of the config that led to it."""

import pytest
import torch
from mmengine.config import Config
from mmengine.optim import OptimWrapper
from mmengine.runner import Runner

from mmpl.engine import AutocastOptimWrapper
from mmpl.engine.optimizers.strict_constructor import StrictOptimWrapperConstructor
from mmpl.utils.config_errors import ConfigError, explained_by
from tests.faults.runs import fault_cfg, logs_of


@pytest.mark.parametrize(
    ('path', 'value', 'part'),
    [
        ('model.data_preprocessor.mean', 2.5, 'model.data_preprocessor'),
        ('model.data_preprocessor.mean', [0.0, dict(a=1), 0.0], 'model.data_preprocessor'),
        ('optim_wrapper.optimizer.betas', 'wrong', 'optim_wrapper.optimizer'),
        ('param_scheduler', [dict(type='LinearLR', start_factor=-1)], 'param_scheduler[0]'),
        ('default_hooks.logger.interval_', 3, 'default_hooks.logger'),
        ('custom_hooks', [['x']], 'custom_hooks[0]'),
    ],
)
def test_the_part_is_named(path: str, value, part: str, tmp_path) -> None:
    cfg = fault_cfg(tmp_path)
    cfg.model.data_preprocessor.update(mean=[0.0] * 3, std=[1.0] * 3)
    cfg.merge_from_dict({path: value})
    with pytest.raises(ConfigError) as error, explained_by(cfg.copy()):
        Runner.from_cfg(cfg).train()
    assert f'in `{part}` of the config: ' in str(error.value)
    assert path.split('.')[-1] in str(error.value) and error.value.__cause__ is not None


@pytest.mark.parametrize(
    ('field', 'value'),
    [
        ('drop_last', 'wrong'),
        ('persistent_workers', True),
        ('pin_memory', 'wrong'),
        ('batch_size', 0),
        ('sampler', None),
        ('sampler', dict(type='InfiniteSampler')),
        ('sampler', dict(type='mmpretrain.RepeatAugSampler')),
    ],
)
def test_loader_fields(field: str, value, tmp_path) -> None:
    runner = Runner.from_cfg(fault_cfg(tmp_path, loader={field: value}))
    with pytest.raises(ValueError, match=f'train_dataloader.{field}'):
        runner.train()


def test_a_missing_section_is_named(tmp_path) -> None:
    cfg = fault_cfg(tmp_path).to_dict()
    del cfg['model']
    with pytest.raises(TypeError, match='`model` must be a dict .* but the config has none'), explained_by(cfg):
        Runner.from_cfg(Config(cfg))


@pytest.mark.parametrize('field', ['model', 'optim_wrapper', 'custom_hooks'])
def test_a_section_of_the_wrong_kind_is_named(field: str) -> None:
    with pytest.raises(TypeError, match=f'`{field}` must be a .*, but got -3'), explained_by({field: -3}):
        pass


@pytest.mark.parametrize('field', ['backbone', 'neck', 'head'])
def test_a_part_that_is_no_config_is_named(field: str, tmp_path) -> None:
    cfg = fault_cfg(tmp_path)
    cfg.model[field] = None
    with pytest.raises(TypeError, match=f'`{field}` must be a dict'), explained_by(cfg.copy()):
        Runner.from_cfg(cfg)


def test_a_missing_type_is_named(tmp_path) -> None:
    cfg = fault_cfg(tmp_path).to_dict()
    del cfg['train_cfg']['type']
    with pytest.raises(ConfigError, match=r'`train_cfg.type` is not given'), explained_by(cfg):
        Runner.from_cfg(Config(cfg)).train()


def test_our_own_errors_pass(tmp_path) -> None:
    cfg = fault_cfg(tmp_path, loop=dict(max_epochs=1.5))
    with pytest.raises(TypeError, match='train_cfg.max_epochs.*1.5'), explained_by(cfg):
        Runner.from_cfg(cfg).train()
    with pytest.raises(OSError, match='disk'), explained_by(dict(model=dict(type='any'))):
        raise OSError('disk')
    with pytest.raises(RuntimeError, match='out of memory'), explained_by(dict(model=dict(b=1))):
        part = dict(b=1)  # no registry was building
        raise RuntimeError(f'out of memory {part}')


@pytest.mark.parametrize(
    ('fields', 'named'),
    [
        (dict(clip_grad=dict(max_norm='wrong')), 'clip_grad.max_norm'),
        (dict(clip_grad=dict(max_norm=-1.0)), 'clip_grad.max_norm'),
        (dict(clip_grad=dict(max=1.0)), 'clip_grad.max_norm'),
        (dict(clip_grad=dict(max_norm=1.0, typo=1)), 'typo'),
        (dict(clip_grad=3.0), 'clip_grad'),
        (dict(accumulative_counts=1.5), 'accumulative_counts'),
        (dict(clip=1.0), 'did you mean `optim_wrapper.clip_grad`'),
    ],
)
def test_optim_wrapper_fields(fields: dict, named: str) -> None:
    with pytest.raises((TypeError, ValueError), match=named):
        AutocastOptimWrapper(optimizer=torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0), **fields)


@pytest.mark.parametrize('fields', [dict(lr=[1, 2]), dict(lr=-1.0), dict(lr=0.1, weight_decay='wrong')])
def test_optimizer_fields(fields: dict) -> None:
    with pytest.raises((TypeError, ValueError), match=f'`optim_wrapper.optimizer.{list(fields)[-1]}`'):
        StrictOptimWrapperConstructor(dict(type=OptimWrapper, optimizer=dict(type='SGD', **fields)), {})


@pytest.mark.parametrize(
    ('paramwise_cfg', 'named'),
    [
        (dict(norm_decay_mult='wrong'), 'norm_decay_mult'),
        (dict(norm_decay=0.0), 'norm_decay'),
        (dict(custom_keys=[1]), 'custom_keys'),
        (dict(bias_decay_mult=0.1), 'optimizer.weight_decay'),
        (dict(custom_keys=dict(weight=0.1)), 'custom_keys.weight'),
        (dict(custom_keys=dict(weight=dict(decay=0.1))), 'custom_keys.weight'),
        (dict(custom_keys=dict(weight=dict(decay_mult=float('nan')))), 'custom_keys.weight.decay_mult'),
    ],
)
def test_paramwise_fields(paramwise_cfg: dict, named: str) -> None:
    cfg = dict(type=OptimWrapper, optimizer=dict(type='SGD', lr=0.1))
    with pytest.raises((TypeError, ValueError), match=named):
        StrictOptimWrapperConstructor(cfg, paramwise_cfg)(torch.nn.Linear(2, 2))


@pytest.mark.parametrize('where', ['data', 'iteration', 'validation'])
def test_what_no_part_is_at_fault_for(where: str, tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error while data are loaded, in an iteration or while validating is not blamed on what a frame holds."""
    cfg = fault_cfg(tmp_path, epochs=1)
    cfg.val_dataloader, cfg.val_cfg, cfg.val_evaluator = cfg.train_dataloader.copy(), {}, dict(type='Accuracy')

    def fail(*args, **kwargs):
        arch = dict(cfg.model.backbone.arch)
        raise KeyError('iscrowd', arch)

    place = dict(
        data='mmpl.datasets.GuardedDataset.__getitem__',
        iteration='mmengine.model.BaseModel.train_step',
        validation='mmengine.runner.ValLoop.run_iter',
    )[where]
    monkeypatch.setattr(place, fail)
    with pytest.raises(KeyError, match='iscrowd') as error, explained_by(cfg.copy()):
        Runner.from_cfg(cfg).train()
    assert type(error.value) is KeyError


def test_an_assertion_without_a_text_ends_with_its_source(tmp_path) -> None:
    path = tmp_path / 'theirs.py'
    path.write_text('def check(size):\n    assert size == 2\n')
    names: dict = {}
    exec(compile(path.read_text(), str(path), 'exec'), names)
    message = rf'^assert size == 2 \(line 2 of {path}\)$'
    with pytest.raises(AssertionError, match=message), explained_by(dict(model=dict(b=1))):
        names['check'](1)


def test_the_part_that_is_built_is_named_not_what_it_holds(tmp_path) -> None:
    """Two parts that are alike are told apart by what is around them."""
    cfg = fault_cfg(tmp_path)
    cfg.model.backbone.no_such_field = 1
    with pytest.raises(ConfigError, match='in `model.backbone` of the config') as error, explained_by(cfg.copy()):
        Runner.from_cfg(cfg)
    assert '`model.backbone.arch' not in str(error.value) and 'is not given' not in str(error.value)

    cfg = fault_cfg(tmp_path)
    broken = dict(type='mmengine.NoSuchData', size=3)
    cfg.val_dataloader = dict(batch_size=2, num_workers=0, sampler=dict(type='DefaultSampler'), dataset=broken)
    cfg.val_cfg, cfg.val_evaluator = {}, dict(type='Accuracy')
    cfg.test_dataloader = dict(cfg.val_dataloader, batch_size=3)
    cfg.test_cfg, cfg.test_evaluator = {}, dict(type='Accuracy')
    with pytest.raises(ConfigError, match='in `val_dataloader.dataset` of the config'), explained_by(cfg.copy()):
        Runner.from_cfg(cfg).train()


def test_the_log_says_what_is_trained_on(tmp_path) -> None:
    """And that a `max_epochs` at the top has no effect where another project's train.py read the config."""
    Runner.from_cfg(fault_cfg(tmp_path, epochs=1, max_epochs=7, log_level='INFO')).train()
    log = logs_of(tmp_path)
    assert 'Training on 24 images, 6 iterations an epoch.' in log
    assert '`max_epochs` 7 at the top of the config has no effect: this run has the 1 epochs of `train_cfg.max_e' in log
