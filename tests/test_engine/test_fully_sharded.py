"""What cannot be trained in shards is refused by name; and a group of one process, whose shard is the whole."""

from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist
from mmengine.hooks import CheckpointHook, EMAHook
from mmengine.optim import OptimWrapper
from torch import nn

from mmpl.compat import init_distributed, load_checkpoint
from mmpl.engine import AutocastOptimWrapper, ContinueGuardHook, FullySharded, SafeCheckpointHook, sharded
from mmpl.engine.sharded import check_run
from mmpl.engine.shards import load_whole
from mmpl.utils.dist import is_sharded, local_shard
from tests.faults.runs import differences, fault_cfg, final_state, run
from tests.test_models.helpers import build_plmae

WRAPPER = dict(type='mmpl.FullySharded')


@pytest.fixture
def group(tmp_path, monkeypatch):
    """A group of this process alone."""
    for name, value in dict(RANK='0', WORLD_SIZE='1', LOCAL_RANK='0').items():
        monkeypatch.setenv(name, value)
    dist.init_process_group('gloo', init_method=f'file://{tmp_path}/group', rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.slow
def test_a_run_in_shards_is_that_run(group, tmp_path):
    run(tmp_path / 'plain', epochs=1)
    runner = run(tmp_path / 'shards', epochs=1, launcher='pytorch', model_wrapper_cfg=dict(WRAPPER))
    model = runner.model.module
    assert isinstance(runner.model, FullySharded) and all(is_sharded(p) for p in model.parameters())
    whole, shards = (final_state(tmp_path / part / 'epoch_1.pth') for part in ('plain', 'shards'))
    assert differences(whole, shards) == []
    # what is bad in shards can be taken from a checkpoint, and nothing else is
    name, other = 'backbone.layers.0.attn.proj.weight', 'backbone.layers.1.attn.proj.weight'
    own = model.state_dict()
    for key in (name, other):
        local_shard(own[key]).fill_(float('nan'))
    load_whole(own, whole['state_dict'], [name])
    assert torch.equal(local_shard(model.get_parameter(name)), whole['state_dict'][name])
    assert local_shard(model.get_parameter(other)).isnan().all()


@pytest.mark.slow
def test_the_best_checkpoint_of_shards_is_whole(group, tmp_path):
    """And so is the one that is saved once more inside."""
    runner = run(tmp_path / 'shards', epochs=1, launcher='pytorch', model_wrapper_cfg=dict(WRAPPER))
    (hook,) = [hook for hook in runner.hooks if isinstance(hook, SafeCheckpointHook)]
    hook.save_best, hook.key_indicators, hook.rules = 'loss', ['loss'], ['less']
    hook.is_better_than, hook.best_ckpt_path = dict(loss=lambda new, old: new < old), None
    hook._save_best_checkpoint(runner, dict(loss=0.5))
    saved = load_checkpoint(tmp_path / 'shards' / 'best_loss_epoch_1.pth')['state_dict']
    whole = load_checkpoint(tmp_path / 'shards' / 'epoch_1.pth')['state_dict']
    assert saved.keys() == whole.keys() and not any(is_sharded(value) for value in saved.values())
    assert all(torch.equal(value, whole[name]) for name, value in saved.items())


@pytest.mark.slow
def test_the_guard_of_a_continued_run_sees_whole_weights(group, tmp_path, monkeypatch):
    images = torch.randn(4, 3, 20, 20, generator=torch.Generator().manual_seed(0))
    monkeypatch.setattr(ContinueGuardHook, '_load', lambda self, runner: [images])
    figures = []
    for name, fields in dict(plain={}, shards=dict(launcher='pytorch', model_wrapper_cfg=dict(WRAPPER))).items():
        runner = run(tmp_path / name, epochs=1, hooks=(dict(type='mmpl.ContinueGuardHook'),), **fields)
        scalars = runner.message_hub.log_scalars
        figures.append([float(scalars[f'continue/{key}'].current()) for key in ('rank', 'consistency')])
    assert figures[0] == figures[1] and min(figures[0]) > 0


def test_only_a_loop_that_cuts_the_model_trains_it(group):
    with pytest.raises(RuntimeError, match="set `train_cfg.type` to 'mmpl.ExactEpochLoop'"):
        FullySharded(build_plmae()).train_step({}, None)


def test_what_has_no_blocks_is_refused():
    with pytest.raises(TypeError, match='Linear has no TransformerEncoderLayer to shard by: leave `model_wrapper_cfg`'):
        FullySharded(nn.Linear(2, 2))


@pytest.mark.parametrize('size', [3, 5, 8])
def test_a_copy_takes_a_share_of_the_processes(size, monkeypatch):
    monkeypatch.setattr(sharded, 'get_world_size', lambda: 4)
    with pytest.raises(ValueError, match=f'shard_size` must divide the number of processes 4, but got {size}'):
        FullySharded(build_plmae(), shard_size=size)


def test_a_copy_on_one_process_is_refused():
    with pytest.raises((TypeError, ValueError), match='model_wrapper_cfg.shard_size` must be .*2'):
        FullySharded(build_plmae(), shard_size=1)


@pytest.mark.parametrize(
    ('parts', 'message'),
    [
        (dict(wrapper=OptimWrapper), '`optim_wrapper.type` must be mmpl.Guarded.* but got OptimWrapper'),
        (dict(optimizer=torch.optim.Adagrad), '`optim_wrapper.optimizer.type` must be one of SGD, .* but got Adagrad'),
        (dict(hook=CheckpointHook(interval=1)), '`default_hooks.checkpoint.type` must be mmpl.SafeCheckpointHook'),
        (dict(hook=EMAHook()), '`custom_hooks` must not hold EMAHook'),
        (dict(hook=SafeCheckpointHook(interval=1)), None),
    ],
)
def test_parts_that_would_do_something_wrong_are_refused(parts, message):
    optimizer = parts.get('optimizer', torch.optim.AdamW)([nn.Parameter(torch.ones(2))], lr=0.1)
    wrapper = parts.get('wrapper', AutocastOptimWrapper)(optimizer=optimizer)
    runner = SimpleNamespace(optim_wrapper=wrapper, hooks=[parts['hook']] if 'hook' in parts else [])
    if message is None:
        check_run(runner)
        return
    with pytest.raises(TypeError, match=message):
        check_run(runner)


def test_the_start_on_a_cpu_leaves_its_config_alone(group, tmp_path):
    cfg = fault_cfg(tmp_path, model_wrapper_cfg=dict(WRAPPER, shard_size=2))
    init_distributed('pytorch', cfg)
    assert dict(cfg.model_wrapper_cfg) == dict(WRAPPER, shard_size=2)
    cfg = fault_cfg(tmp_path)
    init_distributed('pytorch', cfg)
    assert cfg.model_wrapper_cfg.type == 'MMDistributedDataParallel' and cfg.model_wrapper_cfg.device_ids is None
