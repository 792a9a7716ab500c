"""FeatureProbeHook: measures the right thing, logs it everywhere and leaves training alone."""

import json
import sys
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmengine.runner import Runner

from mmpl.compat import shutdown_distributed
from mmpl.engine.hooks import FeatureProbeHook, SafeCheckpointHook
from mmpl.evaluation import (
    DenseProbe,
    FeatureProbe,
    evaluate_features,
    extract_features,
    knn_accuracy,
    linear_probe,
)
from mmpl.registry import HOOKS
from tests.test_evaluation.probe_helpers import (
    build_mae,
    loader_cfg,
    mae_cfg,
    run_script,
    scenes_cfg,
    write_images,
    write_roots,
    write_scenes,
)


@pytest.fixture(scope='module')
def roots(tmp_path_factory):
    return write_roots(tmp_path_factory.mktemp('images'))


def hook_cfg(roots, **kwargs):
    return dict(
        type='mmpl.FeatureProbeHook',
        train_dataloader=loader_cfg(roots[0]),
        val_dataloader=loader_cfg(roots[1], batch_size=5),
        **(dict(k=5) | kwargs),
    )


def make_runner(roots, work_dir, hook, by_epoch=True, launcher='none', num_workers=0):
    train = loader_cfg(
        roots[0], sampler=dict(type='DefaultSampler', shuffle=True), collate_fn=dict(type='default_collate')
    )
    # The flip draws numpy's random numbers in the main process, the mask torch's: a hook that moves either shows.
    train['num_workers'] = num_workers
    train['dataset']['pipeline'].insert(1, dict(type='RandomFlip', prob=0.5))
    wrapper = dict(type='MMDistributedDataParallel', device_ids=None, broadcast_buffers=False)
    init_default_scope('mmpretrain')
    return Runner(
        model=mae_cfg(),
        work_dir=str(work_dir),
        train_dataloader=train,
        train_cfg=dict(by_epoch=True, max_epochs=3) if by_epoch else dict(by_epoch=False, max_iters=7),
        optim_wrapper=dict(optimizer=dict(type='AdamW', lr=1e-3)),
        custom_hooks=[hook] if hook else [],
        default_scope='mmpretrain',
        default_hooks=dict(logger=dict(type='LoggerHook', interval=2), checkpoint=None),
        visualizer=dict(
            type='mmengine.Visualizer', vis_backends=[dict(type='LocalVisBackend'), dict(type='TensorboardVisBackend')]
        ),
        randomness=dict(seed=0),
        launcher=launcher,
        cfg={} if launcher == 'none' else dict(model_wrapper_cfg=wrapper),
        experiment_name=f'{Path(work_dir).name}',
        log_level='INFO',
    )


def scalars(work_dir):
    lines = next(Path(work_dir).glob('*/vis_data/scalars.json')).read_text().splitlines()
    return [line for line in map(json.loads, lines) if 'probe/knn_top1' in line]


@pytest.mark.parametrize('by_epoch', [True, False])
def test_training_is_bit_identical_and_everything_is_logged(roots, tmp_path, by_epoch):
    plain = make_runner(roots, tmp_path / 'plain', None, by_epoch)
    plain.train()
    probed = make_runner(
        roots, tmp_path / 'probed', hook_cfg(roots, interval=2, linear='last', by_epoch=by_epoch), by_epoch
    )
    probed.train()
    state = plain.model.state_dict()
    assert all(torch.equal(value, state[key]) for key, value in probed.model.state_dict().items())
    assert probed.model.training

    # 18 images in batches of 4: 5 iterations an epoch. Epochs 2 and 3 (the last), or iterations 2, 4, 6 and 7.
    found = scalars(tmp_path / 'probed')
    expected = [(0, 0), (2, 10), (3, 15)] if by_epoch else [0, 2, 4, 6, 7]
    assert [(line['epoch'], line['step']) if by_epoch else line['step'] for line in found] == expected
    assert ['probe/linear_top1' in line for line in found] == [True] + [False] * (len(found) - 2) + [True]
    for line in found:
        assert line['probe/knn_top1'] == max(line['probe/knn_top1_cls'], line['probe/knn_top1_avg'])
    history, _ = probed.message_hub.get_scalar('probe/knn_top1').data[:2]
    assert list(history) == [line['probe/knn_top1'] for line in found]
    text = next((tmp_path / 'probed').glob('*/*.log')).read_text()
    assert text.count('Probe of student features') == len(found)
    own_json = [
        path for path in (tmp_path / 'probed').glob('*/vis_data/2*.json') if path.stem.replace('_', '').isdigit()
    ]
    assert len(own_json) == 1 and own_json[0].read_text().count('probe/knn_top1"') == len(found)
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(next((tmp_path / 'probed').glob('*/vis_data')))).Reload().Scalars('probe/knn_top1')
    assert [event.step for event in events] == [line['step'] for line in found]

    # the last figures are those of the trained weights
    probe = FeatureProbe(loader_cfg(roots[0]), loader_cfg(roots[1]), k=5)
    assert {f'probe/{name}': value for name, value in probe.run(plain.model).items()} == {
        name: value for name, value in found[-1].items() if name.startswith('probe/')
    }


def test_patches_are_scored_too(roots, tmp_path):
    scenes = [write_scenes(tmp_path / name, 4, seed, size=(16, 16)) for seed, name in enumerate(('train', 'val'))]
    dense = dict(zip(('train_dataloader', 'val_dataloader'), map(scenes_cfg, scenes), strict=True), k=3)
    runner = make_runner(roots, tmp_path / 'run', hook_cfg(roots, interval=3, dense=dense))
    runner.train()
    found = scalars(tmp_path / 'run')
    expected = DenseProbe(**dense).run(runner.model)
    assert set(expected) == {'knn_miou', 'linear_miou'} and len(found) == 2
    assert {name: found[-1][f'probe/patch_{name}'] for name in expected} == expected
    config = Config(dict(model=mae_cfg(), default_scope='mmpretrain', custom_hooks=[hook_cfg(roots, dense=dense)]))
    torch.save(dict(state_dict=runner.model.state_dict()), tmp_path / 'mae.pth')
    results = evaluate_features(config, str(tmp_path / 'mae.pth'), linear=True)['results']
    assert {name: results[f'patch_{name}'] for name in expected} == pytest.approx(expected)
    with pytest.raises(TypeError, match='`dense` must be a dict'):
        HOOKS.build(hook_cfg(roots, dense=True))


def test_refuses_epochs_in_an_iteration_based_loop(roots, tmp_path):
    with pytest.raises(ValueError, match='`by_epoch` must be False'):
        make_runner(roots, tmp_path, hook_cfg(roots), by_epoch=False).train()


def test_refuses_a_second_probe(roots, tmp_path):
    runner = make_runner(roots, tmp_path, hook_cfg(roots))
    runner.register_hook(HOOKS.build(hook_cfg(roots)))
    with pytest.raises(ValueError, match='must hold one FeatureProbeHook'):
        runner.train()


def test_a_probe_that_fails_costs_no_epoch(roots, tmp_path, monkeypatch):
    def fail(self, model, linear):
        raise OSError('a validation image is truncated')

    monkeypatch.setattr(FeatureProbe, 'run', fail)
    runner = make_runner(roots, tmp_path, hook_cfg(roots, before_train=False))
    runner.register_hook(SafeCheckpointHook(interval=1))
    runner.train()
    assert (tmp_path / 'epoch_3.pth').is_file()
    logged = next(tmp_path.glob('*/*.log')).read_text()
    assert logged.count('failed and is left out, the run goes on: OSError: a validation image is truncated') == 3
    assert not list(tmp_path.glob('.unfinished*'))
    with pytest.raises(OSError, match='truncated'):  # before the first step nothing is lost by it
        make_runner(roots, tmp_path / 'new', hook_cfg(roots)).train()


@pytest.mark.parametrize('epoch', [1, 3])
def test_a_probe_that_was_cut_off_is_made_up_for(roots, tmp_path, monkeypatch, epoch):
    """Of the last epoch, with its linear probe, and of one before; tried once, for it may fail whenever it is tried."""
    right, cut = FeatureProbe.run, [epoch]

    def run(self, model, linear):
        if cut and hasattr(runner, 'epoch') and runner.epoch + 1 == cut[0]:
            raise KeyboardInterrupt
        return right(self, model, linear=linear)

    def make():
        runner = make_runner(roots, tmp_path, hook_cfg(roots, linear='last', before_train=False))
        runner.register_hook(SafeCheckpointHook(interval=1))
        return runner

    monkeypatch.setattr(FeatureProbe, 'run', run)
    runner = make()
    with pytest.raises(KeyboardInterrupt):
        runner.train()
    cut.clear()
    runner = make()
    runner._resume = True
    runner.train()
    found = [line for path in tmp_path.glob('*/vis_data/scalars.json') for line in map(json.loads, path.open())]
    linear = {line['epoch']: 'probe/linear_top1' in line for line in found if 'probe/knn_top1' in line}
    assert linear == {1: False, 2: False, 3: True}
    assert not list(tmp_path.glob('.unfinished*'))


def test_a_hook_that_draws_random_numbers_would_be_seen(roots, tmp_path):
    class Disturber(FeatureProbeHook):
        def after_train_epoch(self, runner):
            torch.rand(1)

    plain, disturbed = (make_runner(roots, tmp_path / name, None) for name in ('a', 'b'))
    disturbed.register_hook(Disturber(loader_cfg(roots[0]), loader_cfg(roots[1]), k=5, before_train=False))
    plain.train(), disturbed.train()
    state = plain.model.state_dict()
    assert not all(torch.equal(value, state[key]) for key, value in disturbed.model.state_dict().items())


def test_scores_are_those_of_the_parts(roots):
    model = build_mae()
    probe = FeatureProbe(
        loader_cfg(roots[0]), loader_cfg(roots[1]), k=[3, 7], temperature=0.1, C=0.5, max_train_images=11, seed=4
    )
    scores = probe.run(model)
    train = extract_features(model, probe._loaders['train_dataloader'])
    val = extract_features(model, probe._loaders['val_dataloader'])
    chosen = torch.randperm(18, generator=torch.Generator().manual_seed(4))[:11].sort().values
    full = extract_features(
        model, FeatureProbe(loader_cfg(roots[0]), loader_cfg(roots[1]))._build_loader('train_dataloader')
    )
    assert len(train) == 11 and torch.equal(train.labels, full.labels[chosen])
    torch.testing.assert_close(train.features['avg'], full.features['avg'][chosen], rtol=0, atol=1e-5)
    for pool in ('cls', 'avg'):
        parts = train.features[pool], train.labels, val.features[pool], val.labels
        knn = knn_accuracy(*parts, k=[3, 7], temperature=0.1)
        assert scores[f'knn_top1_{pool}'] == scores[f'knn_top1_{pool}_k3'] == knn[3]
        assert scores[f'knn_top1_{pool}_k7'] == knn[7]
        assert scores[f'linear_top1_{pool}'] == linear_probe(*parts, C=0.5).accuracy
    assert scores['linear_top1'] == max(scores['linear_top1_cls'], scores['linear_top1_avg'])
    assert set(probe.run(model, linear=False)) == {name for name in scores if name.startswith('knn')}


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (dict(interval=0), '`interval` must be'),
        (dict(linear='always'), '`linear` must be one of'),
        (dict(k=0), '`k` must be'),
        (dict(temperature=0), '`temperature` must be'),
        (dict(pool='max'), '`pool` must be one of'),
        (dict(C=-1), r'`C` must be a number in \(0, inf\)'),
        (dict(max_train_images=3), r'`k` must not exceed `max_train_images` \(3\), but got 5'),
        (dict(val_dataloader=None), '`val_dataloader` must be a dataloader config'),
        (dict(train_dataloader=dict(batch_size=2)), '`train_dataloader` must have the field `dataset`'),
        (dict(kk=3), '`kk` is not a field of FeatureProbe: did you mean `k`'),
    ],
)
def test_refuses_at_build_time(roots, change, message):
    with pytest.raises((ValueError, TypeError), match=message):
        HOOKS.build(hook_cfg(roots) | change)


def test_refuses_what_only_the_data_show(roots, tmp_path):
    model = build_mae()
    with pytest.raises(ValueError, match=r'`k` must not exceed the number of training images \(18\), but got 20'):
        FeatureProbe(loader_cfg(roots[0]), loader_cfg(roots[1])).build(model)
    other = write_images(tmp_path / 'other')
    (other / 'red').rename(other / 'green')
    with pytest.raises(ValueError, match="only the first has 'red'; only the second has 'green'"):
        FeatureProbe(loader_cfg(roots[0]), loader_cfg(other), k=5).build(model)
    # Names are given, so they agree; the numbers of the sorted folders do not.
    named = [loader_cfg(root) for root in (roots[0], other)]
    for loader in named:
        loader['dataset']['classes'] = ['one', 'two', 'three']
    with pytest.raises(ValueError, match=r'the folders of `train_dataloader.dataset` has.*those of `val_dataloader'):
        FeatureProbe(*named, k=5).build(model)
    with pytest.raises(ValueError, match=r"`target` must be an encoder of MAE \(\['student'\]\), but got 'teacher'"):
        HOOKS.build(hook_cfg(roots, target='teacher')).probe.build(model)
    with torch.no_grad():
        model.backbone.cls_token.fill_(float('nan'))
    with pytest.raises(ValueError, match='`train_features` must be finite'):
        FeatureProbe(loader_cfg(roots[0]), loader_cfg(roots[1]), k=5).run(model)


def dense_cfg(folder):
    """Of scenes in a folder."""
    loaders = {f'{split}_dataloader': scenes_cfg(folder / split) for split in ('train', 'val')}
    return dict(loaders, k=3)


def _main(train_root, val_root, work_dir):
    """Train with or without the hook on two ranks, then say what came out (run by torchrun)."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group('gloo')
    roots = Path(train_root), Path(val_root)
    states = []
    probe = hook_cfg(roots, interval=1, dense=dense_cfg(Path(work_dir)))
    for name, hook in (('plain', None), ('probed', probe)):
        runner = make_runner(roots, Path(work_dir) / name, hook, launcher='pytorch')
        assert type(runner.model).__name__ == 'MMDistributedDataParallel'
        runner.train()
        states.append(runner.model.module.state_dict())
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
    scores = runner.message_hub.get_scalar('probe/knn_top1').data[0].tolist()
    # two ranks, padded sampler or not: the same figures as one process would get
    if torch.distributed.get_rank() == 0:
        torch.save(states[1], Path(work_dir) / 'state.pth')
        (Path(work_dir) / 'scores.json').write_text(json.dumps(scores))
    # an error on rank 0 reaches the other rank instead of hanging it
    with torch.no_grad():
        runner.model.module.backbone.cls_token.fill_(float('nan'))
    with pytest.raises(ValueError if torch.distributed.get_rank() == 0 else RuntimeError, match='must be finite'):
        FeatureProbe(loader_cfg(roots[0]), loader_cfg(roots[1]), k=5).run(runner.model.module)
    shutdown_distributed()  # without waiting for the other, one may abort at its exit


@pytest.mark.dist
def test_two_ranks(roots, tmp_path):
    for seed, name in enumerate(('train', 'val')):
        write_scenes(tmp_path / name, 4, seed, size=(16, 16))
    done = run_script(__file__, *roots, tmp_path, processes=2)
    assert done.returncode == 0, done.stderr[-4000:]
    found = scalars(tmp_path / 'probed')
    assert [line['epoch'] for line in found] == [0, 1, 2, 3]  # written by rank 0 only
    assert [line['probe/knn_top1'] for line in found] == json.loads((tmp_path / 'scores.json').read_text())
    model = build_mae()
    model.load_state_dict(torch.load(tmp_path / 'state.pth'))
    alone = FeatureProbe(loader_cfg(roots[0]), loader_cfg(roots[1]), k=5).run(model)
    patches = DenseProbe(**dense_cfg(tmp_path)).run(model)
    alone |= {f'patch_{name}': value for name, value in patches.items()}
    assert {f'probe/{name}': value for name, value in alone.items()} == {
        name: value for name, value in found[-1].items() if name.startswith('probe/')
    }


if __name__ == '__main__':
    _main(*sys.argv[1:])
