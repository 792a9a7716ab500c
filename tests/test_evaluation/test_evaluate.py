"""The tool: the whole way from a checkpoint, which must fit, to figures."""

import json

import pytest
import torch
from mmengine.config import Config

from mmpl.checkpoints.fit import CheckpointMismatchError
from mmpl.evaluation import FeatureProbe, build_model, evaluate_features
from mmpl.evaluation.evaluate import find_probe
from tests.test_evaluation.probe_helpers import REPOSITORY, build_mae, loader_cfg, mae_cfg, run_script, write_roots

TOOL = REPOSITORY / 'tools' / 'benchmarks' / 'evaluate_features.py'


@pytest.fixture(scope='module')
def roots(tmp_path_factory):
    return write_roots(tmp_path_factory.mktemp('images'))


@pytest.fixture
def config(roots, tmp_path):
    hook = dict(
        type='mmpl.FeatureProbeHook',
        train_dataloader=loader_cfg(roots[0]),
        val_dataloader=loader_cfg(roots[1]),
        k=5,
        interval=3,
        linear='last',
    )
    path = tmp_path / 'config.py'
    cfg = Config(dict(model=mae_cfg(), custom_hooks=[dict(type='EMAHook'), hook], default_scope='mmpretrain'))
    cfg.dump(path)
    return str(path)


def save(model, path, change=None, **more):
    state = model.state_dict()
    if change:
        change(state)
    torch.save(dict(meta=dict(epoch=1), state_dict=state, **more), path)
    return str(path)


def test_a_random_initialisation_says_nothing(config, capfd):
    build_model(Config.fromfile(config))
    out, err = capfd.readouterr()
    assert 'init_weights' not in out + err


def test_loads_every_key_of_the_encoder_and_nothing_else(config, tmp_path):
    cfg, source = Config.fromfile(config), build_mae(1)
    model = build_model(cfg, save(source, tmp_path / 'a.pth'))
    want, got = source.backbone.state_dict(), model.backbone.state_dict()
    assert all(torch.equal(value, got[key]) for key, value in want.items())
    assert not torch.equal(model.neck.mask_token, source.neck.mask_token)
    with pytest.raises(CheckpointMismatchError, match=r'missing from the checkpoint \(1\):\n    cls_token'):
        build_model(cfg, save(source, tmp_path / 'b.pth', lambda state: state.pop('backbone.cls_token')))
    with pytest.raises(ValueError, match=r"`target` must be an encoder of MAE \(\['student'\]\), but got 'slow'"):
        build_model(cfg, str(tmp_path / 'a.pth'), 'slow')


def test_probe_comes_from_custom_hooks(config):
    cfg = Config.fromfile(config)
    assert find_probe(cfg)['k'] == 5 and not {'type', 'interval', 'linear'} & set(find_probe(cfg))
    for hooks in ([], cfg.custom_hooks[1:] * 2):
        cfg.custom_hooks = hooks
        with pytest.raises(ValueError, match=rf'exactly one mmpl.FeatureProbeHook.* holds {len(hooks)}'):
            find_probe(cfg)


def test_options_override_the_hook(config, roots):
    report = evaluate_features(config, seed=7, k=[3], pool='avg', temperature=0.5, linear=True, C=[1.0])
    assert (report['seed'], report['k'], report['pool'], report['temperature']) == (7, [3], ['avg'], 0.5)
    probe = FeatureProbe(loader_cfg(roots[0]), loader_cfg(roots[1]), k=3, pool='avg', temperature=0.5, C=1.0)
    assert report['results'] == probe.run(build_mae(7))
    other = evaluate_features(config, seed=7, cfg_options={'model.backbone.arch.num_layers': 1})
    assert set(other['results']) == {'knn_top1', 'knn_top1_cls', 'knn_top1_avg'}
    for kind in ('Pretrained', 'mmpl.StrictPretrained'):
        with pytest.raises(ValueError, match="`model` must not have an `init_cfg` of type 'Pretrained'"):
            evaluate_features(config, cfg_options={'model.backbone.init_cfg': dict(type=kind, checkpoint='a.pth')})


@pytest.mark.slow
def test_tool_end_to_end(config, roots, tmp_path):
    model = build_mae(5)
    checkpoint = save(model, tmp_path / 'a.pth')
    out = tmp_path / 'results' / 'probe.json'
    done = run_script(TOOL, config, checkpoint, '--linear', '--k', 5, 9, '--out', out)
    assert done.returncode == 0, done.stderr[-3000:]
    report = json.loads(out.read_text())
    expected = FeatureProbe(loader_cfg(roots[0]), loader_cfg(roots[1]), k=[5, 9]).run(model)
    assert report['results'] == expected and report['checkpoint'] == checkpoint and report['seed'] is None
    assert f'linear_top1              {expected["linear_top1"]:6.2f} %' in done.stdout
    done = run_script(TOOL, config, checkpoint, '--random-init')
    assert done.returncode == 2 and 'goes without a checkpoint' in done.stderr


@pytest.mark.slow
@pytest.mark.dist
def test_tool_on_two_ranks(config, roots, tmp_path):
    out = tmp_path / 'probe.json'
    done = run_script(TOOL, config, '--random-init', '--seed', 3, '--linear', '--out', out, processes=2)
    assert done.returncode == 0, done.stderr[-3000:]
    expected = FeatureProbe(loader_cfg(roots[0]), loader_cfg(roots[1]), k=5).run(build_mae(3))
    assert json.loads(out.read_text())['results'] == expected
    assert done.stdout.count('random initialisation, seed 3') == 1
