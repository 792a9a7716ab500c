"""The benchmarks: what they count, and that they run from the command line on."""

import json
import re
from argparse import Namespace
from pathlib import Path

import pytest
import torch
from mmpretrain.registry import MODELS
from torch import nn

import data_speed
import pretrain_speed
from bench.photos import write_photos
from pretrain_speed import PartTimer, Side, Teacher, load_side, matmul_gflops, parse_args, wrap_parts
from tests.test_models.helpers import plmae_cfg

TINY = ['--threads', '1', '--photo-size', '16', '16', '--views', '4', '--device', 'cpu']
K = 16


@pytest.fixture
def tiny_plmae_config(tmp_path: Path) -> Path:
    path = tmp_path / 'tiny_plmae.py'
    model = plmae_cfg(
        masking=dict(num_masks=2),
        data_preprocessor=dict(type='SelfSupDataPreprocessor', mean=[127.0] * 3, std=[60.0] * 3),
    )
    path.write_text(f"""
default_scope = 'mmpretrain'
model = {model}
pipeline = [dict(type='LoadImageFromFile'), dict(type='PackInputs')]
train_dataloader = dict(dataset=dict(pipeline=pipeline))
optim_wrapper = dict(type='OptimWrapper', optimizer=dict(type='AdamW', lr=1e-3))
""")
    return path


def test_inner_parts_are_not_counted_twice(monkeypatch):
    now = iter(range(100))
    timer = PartTimer(False, lambda: next(now))
    with timer('outer'):  # 0
        with timer('inner'):  # 1
            pass  # 2
        with timer('inner'):  # 3
            pass  # 4
    with timer('outer'):  # 5 to 6; from 4 to 5 outer goes on, 5 is its end
        pass
    assert timer.collect() == dict(outer=1 + 1 + 1 + 1, inner=2)
    assert timer.collect() == {}


def test_a_method_is_wrapped_once():
    now = iter(range(100))
    timer, module = PartTimer(False, lambda: next(now)), nn.Identity()
    timer.wrap(module, 'forward', 'part')
    timer.wrap(module, 'forward', 'part')
    assert module(3) == 3
    assert timer.collect() == dict(part=1)


def test_parts_are_found_in_any_model():
    """Two teachers that do more than encode, heads in a ModuleDict and without a forward pass, no decoder."""

    class Encoder(nn.Module):
        def forward(self, x):
            return x

        encode = forward

    class Head(nn.Module):
        def loss(self, x):
            return x

    class Labels(Teacher):
        def __init__(self):
            nn.Module.__init__(self)
            self.backbone = Encoder()

        def assign(self, x):
            return self.backbone.encode(x)

    model, optimizer = nn.Module(), Namespace(backward=int, step=int, zero_grad=int)
    model.backbone, model.heads = Encoder(), nn.ModuleDict(dict(a=Head(), b=Head()))
    model.first_teacher, model.second_teacher = Labels(), Labels()
    now = iter(range(100))
    timer = PartTimer(False, lambda: next(now))
    wrap_parts(timer, model, optimizer)
    x = model.backbone(torch.ones(1))
    for head in model.heads.values():
        head.loss(model.first_teacher.assign(x) + model.second_teacher.backbone.encode(x))
    optimizer.backward()
    seconds = {'first_teacher': 2, 'first_teacher.assign': 4, 'second_teacher': 2}
    assert timer.collect() == seconds | dict(backbone=1, heads=2, backward=1)


def test_flops_of_mae_are_those_of_its_layers(tiny_mae_config, tmp_path):
    """Forward by hand: 2 x tokens x in x out a linear layer, 4 x length² x width an attention."""
    write_photos(tmp_path / 'photos', 4, (16, 16))
    side = Side(load_side(str(tiny_mae_config)), parse_args(TINY), str(tmp_path / 'photos'))
    counted = side.count_flops()
    total = patches = 0

    def add(module, args, output):
        nonlocal total, patches
        if isinstance(module, nn.Linear):
            total += 2 * args[0].numel() * module.out_features
        elif isinstance(module, nn.Conv2d):
            patches = 2 * output.numel() * module.weight[0].numel()
            total += patches
        elif type(module).__name__ == 'MultiheadAttention':
            batch, length, width = args[0].shape
            total += 4 * batch * length**2 * width

    for module in side.inner.modules():
        module.register_forward_hook(add)
    side.step(1)
    assert counted['forward'] == pytest.approx(total / 1e9, rel=1e-6)
    assert counted['backward'] == pytest.approx((2 * total - patches) / 1e9)  # the images need no gradient
    assert counted['total'] == pytest.approx(counted['forward'] + counted['backward'])


def test_every_part_of_a_step_is_timed(tiny_plmae_config, tmp_path):
    write_photos(tmp_path / 'photos', 4, (16, 16))
    side = Side(load_side(str(tiny_plmae_config)), parse_args(TINY), str(tmp_path / 'photos'))
    assert (side.images, side.views) == (2, 4)
    before = [p.clone() for p in side.inner.recon_teacher.parameters()]
    result = side.round(2)
    forward = ['data_preprocessor', 'masking', 'backbone', 'neck', 'head', 'label_heads']
    forward += ['label_teacher', 'label_teacher.label', 'recon_teacher']
    names = ['data', *forward, 'backward', 'optimizer', 'ema']
    assert sorted(result['parts']) == sorted([*names, 'rest'])
    assert all(result['parts'][name] > 0 for name in names)
    assert sum(result['parts'].values()) == pytest.approx(result['seconds'])
    assert any(not torch.equal(a, b) for a, b in zip(before, side.inner.recon_teacher.parameters(), strict=True))
    operators = side.profile()
    shares = [float(share) for share in re.findall(r'^ *aten::\S+ +(\S+)%', operators, re.MULTILINE)]
    assert 'aten::addmm ' in operators and shares == sorted(shares, reverse=True) and sum(shares) < 100
    images = Side(load_side(str(tiny_plmae_config)), parse_args([*TINY, '--same', 'images']), str(tmp_path / 'photos'))
    assert (images.images, images.views) == (4, 8)


@pytest.mark.slow
@pytest.mark.dist
def test_two_processes_a_side(tiny_plmae_config, tiny_mae_config, capfd):
    """Moving the teachers sends nothing but the labels' statistics, and leaves them equal in both processes."""
    argv = ['--a', str(tiny_plmae_config), '--b', str(tiny_mae_config), '--rounds', '2', '--processes', '2', *TINY]
    result = pretrain_speed.main(argv)
    printed = json.loads(capfd.readouterr().out.splitlines()[-1])
    assert printed['ratio'] == pytest.approx(result['ratio'])
    assert {'ratio', 'gflop_per_view', 'gflops', 'peak_share', 'memory_ratio'} <= set(printed)
    a, b = result['a'], result['b']
    rounds = [y / x for x, y in zip(a['rounds'], b['rounds'], strict=True)]
    assert min(rounds) <= result['ratio'] <= max(rounds)
    model = MODELS.build(load_side(str(tiny_plmae_config)).model)
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    teachers = sum(p.numel() for m in model.children() if isinstance(m, Teacher) for p in m.parameters())
    assert a['bytes_per_step']['gradients'] == 4 * trained
    assert a['bytes_per_step']['statistics, at the update of the teachers'] == 2 * 4 * (K + 1) < teachers
    assert set(b['bytes_per_step']) <= {'gradients', 'statistics'}  # whether all gradients are finite: a number
    assert b['bytes_per_step'].get('statistics', 0) <= 16
    assert result['teachers_differ_between_processes']['a'] == 0


def test_data_speed(capsys):
    result = data_speed.main(['--photos', '2', '--rounds', '1', '--photo-size', '80', '60', '--batch', '2'])
    printed = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert printed['ratio'] == pytest.approx(result['ratio'])
    assert printed['ratio'] == pytest.approx(printed['images_per_s']['a'] / printed['images_per_s']['b'])


def test_data_speed_of_loaders(capsys):
    """From shards, from a folder, and the other side's: each photo once a turn."""
    argv = ['--photos', '5', '--rounds', '2', '--photo-size', '80', '60', '--batch', '2', '--workers', '1']
    result = data_speed.main(argv)['workers'][1]
    printed = json.loads(capsys.readouterr().out.splitlines()[-1])['workers']['1']
    assert printed == result and list(result['images_per_s']) == list(data_speed.SOURCES)
    assert all(rate > 0 for rate in result['images_per_s'].values())
    assert list(result['ratios']) == ['A from a folder', 'B from a folder']


def test_the_rate_of_a_product_is_plausible():
    assert 0.01 < matmul_gflops('float32', 'cpu', 1, 'cpu', size=64, seconds=0.01) < 1e5


@pytest.mark.parametrize(
    ('argv', 'message'),
    [
        (['--views', '0'], '--views: must be at least 1, but got 0'),
        (['--clock', 'cpu', '--threads', '2'], '--clock cpu needs --threads 1'),
    ],
)
def test_refuses(argv, message, capsys):
    with pytest.raises(SystemExit):
        parse_args(argv)
    assert message in capsys.readouterr().err


def test_refuses_views_that_are_no_multiple_of_the_masks(tiny_plmae_config):
    argv = ['--a', str(tiny_plmae_config), '--b', str(tiny_plmae_config), '--views', '3']
    with pytest.raises(SystemExit, match='--views must be a multiple of `masking.num_masks` 2 of side a, but got 3'):
        pretrain_speed.main(argv)
