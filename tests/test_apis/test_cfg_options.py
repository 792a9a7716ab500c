"""What is given on the command line is what a run gets, or one line says why not."""

import argparse
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from mmengine.config import Config

from mmpl.apis.train import parse_train_args, train_config
from mmpl.utils.cfg_options import CfgOptions, merge_options
from mmpl.utils.run_length import resolve_length
from mmpl.utils.unknown_fields import check_fields, check_variables

ROOT = Path(__file__).resolve().parents[2]


def merged(*words: str, **fields) -> Config:
    parser = argparse.ArgumentParser()
    parser.add_argument('--cfg-options', nargs='+', action=CfgOptions)
    model = dict(type='Any', arch='b', out_indices=-1, loss_scale='dynamic', init_cfg=dict(), frozen=False)
    dataset = dict(data_root='data/x', split='train', ann_file=['a', 'b'])
    loader = dict(batch_size=4, dataset=dataset)
    base = dict(model=model, train_dataloader=loader, visualizer=dict(name='vis'), load_from=None)
    cfg = Config(base | fields)
    merge_options(cfg, parser.parse_args(['--cfg-options', *words]).cfg_options)
    return cfg


DATASET = 'train_dataloader.dataset'


@pytest.mark.parametrize(
    ('key', 'text', 'value'),
    [
        (f'{DATASET}.data_root', '/tmp/my images', '/tmp/my images'),
        (f'{DATASET}.data_root', 'a,b', 'a,b'),
        (f'{DATASET}.data_root', '2024', '2024'),
        (f'{DATASET}.data_root', '1e3', '1e3'),
        (f'{DATASET}.data_root', 'a=b', 'a=b'),
        (f'{DATASET}.data_root', "it's", "it's"),
        (f'{DATASET}.data_root', '/x/[old] (2)', '/x/[old] (2)'),
        (f'{DATASET}.data_root', '"my images"', 'my images'),
        (f'{DATASET}.data_root', '', ''),
        (f'{DATASET}.data_root', 'None', None),
        (f'{DATASET}.data_prefix.img', '2017', '2017'),  # not in the config
        (f'{DATASET}.ann_file', 'c,d', 'c,d'),
        (f'{DATASET}.ann_file', '[my file,2]', ['my file', '2']),
        (f'{DATASET}.split', 'a b,c', 'a b,c'),
        ('load_from', '2024', '2024'),
        ('load_from', 'my run/a.pth', 'my run/a.pth'),
        ('work_dir', '1,5', '1,5'),
        ('model.init_cfg.checkpoint', '7', '7'),
        ('experiment_name', 'a b', 'a b'),
        ('visualizer.name', '007', '007'),
        ('visualizer.name', '2,3', '2,3'),
        ('model.loss_scale', '512.0', 512.0),
        ('model.frozen', 'true', True),
        ('model.out_indices', '3', 3),
        ('model.out_indices', '2,3', [2, 3]),
        ('model.out_indices', '[2, 3]', [2, 3]),
        ('model.out_indices', '(2,[3,x])', (2, [3, 'x'])),
        ('train_dataloader.batch_size', '1e-3', 1e-3),
        ('model.init_cfg', 'None', None),
    ],
)
def test_values(key: str, text: str, value) -> None:
    found = merged(f'{key}={text}')
    for name in key.split('.'):
        found = found[name]
    assert type(found) is type(value) and found == value


@pytest.mark.parametrize('words', [['a', 'b'], ['load_from=my', 'images'], ['=x']])
def test_a_word_that_is_no_option(words: list[str], capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as error:
        merged(*words)
    text = capsys.readouterr().err
    assert error.value.code == 2 and re.fullmatch(r'error: --cfg-options: .* is not of the form key=value.*\n', text)


LR = dict(type='OptimWrapper', optimizer=dict(type='SGD', lr=0.1))
PIPELINE = [dict(type='LoadImageFromFile')]
HOOK = dict(type='SyncBuffersHook')
SCHEDULE = dict(type='LinearLR', start_factor=0.1)


@pytest.mark.parametrize(
    ('word', 'message'),
    [
        ('model.out_indices=[1,(2]', 'brackets'),
        ('modeel.arch=l', r'no `modeel`.*did you mean `model\.arch`'),
        ('train_dataloder.batch_size=4', r'did you mean `train_dataloader\.batch_size`'),
        ('batch_size=8', r'did you mean `train_dataloader\.batch_size`'),
        ('train_dataloader.batchsize=4', r'`train_dataloader\.batchsize` is not .*`train_dataloader\.batch_size`'),
        ('auto_scale_lr.base_batchsize=4', r'did you mean `auto_scale_lr\.base_batch_size`'),
        ('env_cfg.cudnn_benchmrk=True', r'did you mean `env_cfg\.cudnn_benchmark`'),
        ('nothing=1', r'no `nothing`, and nothing reads it'),
        ('split=val', 'no `split`'),
        ('custom_hooks.1.interval=2', '`custom_hooks` holds 1 items'),
        ('load_from.x=1', r'load_from\.x=1 cannot be set'),
        ('env_cfg.cudnn_benchmark=no', 'it is False now, write True or False'),
        ('optim_wrapper=3', r'it holds optim_wrapper\.type, optim_wrapper\.optimizer, to be set one by one'),
        ('custom_hooks.0=3', r'it holds custom_hooks\.0\.type'),
        ('custom_hooks.0.intervl=2', r'`custom_hooks\.0\.intervl` is not a field of SyncBuffersHook'),
        ('param_scheduler.0.ending=1', r'`param_scheduler\.0\.ending` is not a field of LinearLR'),
        ('optim_wrapper.optimizr.lr=1', r'did you mean `optim_wrapper\.optimizer`'),
        ('lr=1', r'`lr` is only a name in the config file.*set `optim_wrapper\.optimizer\.lr`'),
        ('train_pipeline.0.type=x', r'set `val_dataloader\.dataset\.pipeline\.0\.type`'),
    ],
)
def test_options_that_nothing_reads(word: str, message: str) -> None:
    fields = dict(
        auto_scale_lr=dict(enable=True),
        env_cfg=dict(cudnn_benchmark=False),
        custom_hooks=[HOOK],
        param_scheduler=[SCHEDULE],
        optim_wrapper=LR,
        lr=0.1,
        train_pipeline=PIPELINE,
        val_dataloader=dict(dataset=dict(pipeline=PIPELINE)),
    )
    with pytest.raises(ValueError, match=message):
        merged(word, **fields)


@pytest.mark.parametrize('betas', [(0.9, 0.95), [0.9, 0.95]])
def test_an_item_of_a_list(betas: Any) -> None:
    wrapper = dict(type='OptimWrapper', optimizer=dict(type='AdamW', betas=betas))
    assert merged('optim_wrapper.optimizer.betas.1=0.8', optim_wrapper=wrapper).optim_wrapper.optimizer.betas == type(
        betas
    )([0.9, 0.8])


BASE = """
data_root = 'data/a/'
lr = 0.1
pipeline = [dict(type='LoadImageFromFile')]
early = dict(type='EarlyStoppingHook', monitor='loss')
train_dataloader = dict(batch_size=4, dataset=dict(data_root=data_root, pipeline=pipeline))
optim_wrapper = dict(optimizer=dict(lr=lr))
train_cfg = dict(max_epochs=3)
model = dict(data_preprocessor=dict(mean=[0.0]))
"""


def variables_of(tmp_path: Path, text: str, grandchild: str = '') -> None:
    """Check a file that inherits from the one above, and one that inherits from it in turn."""
    (tmp_path / 'base.py').write_text(BASE)
    (tmp_path / 'child.py').write_text(f"_base_ = './base.py'\n{text}\n")
    (tmp_path / 'grandchild.py').write_text(f"_base_ = ['./child.py']\n{grandchild}\n")
    for name in ('child', 'grandchild') if not grandchild else ('grandchild',):
        check_variables(Config.fromfile(tmp_path / f'{name}.py'), tmp_path / f'{name}.py')


@pytest.mark.parametrize(
    ('text', 'field'),
    [
        ("data_root = '/my/images'", 'train_dataloader.dataset.data_root'),
        ('lr = 0.2', 'optim_wrapper.optimizer.lr'),
        ('pipeline = []', 'train_dataloader.dataset.pipeline'),
        ('batch_size = 8', 'train_dataloader.batch_size'),
        ('batchsize = 8', 'train_dataloader.batch_size'),
        ('max_epoch = 8', 'train_cfg.max_epochs'),
        ('data_preprocessor = dict(mean=[1.0])', 'model.data_preprocessor'),
    ],
)
def test_variables_that_nothing_reads_any_more(text: str, field: str, tmp_path: Path) -> None:
    """They are refused in the file that is run and in one below it, with the field that holds what is used."""
    name = text.split()[0]
    with pytest.raises(ValueError, match=rf'`{name}` in .*child\.py has no effect, .*set `{re.escape(field)}`'):
        variables_of(tmp_path, text)
    with pytest.raises(ValueError, match=rf'`{name}` in .*/child\.py has no effect'):
        variables_of(tmp_path, text, 'resume = True')


@pytest.mark.parametrize(
    ('text', 'grandchild'),
    [
        ("data_root = '/my'\ntrain_dataloader = dict(dataset=dict(data_root=data_root))", ''),
        ("data_root = 'data/a/'", ''),  # as it was
        ("data_root = '/my'\ntrain_dataloader = dict(dataset=dict(data_root='/my/train'))", ''),  # used no more
        ('early = dict(monitor="acc")', ''),  # was not used
        ('my_images = "/my"', 'train_dataloader = dict(dataset=dict(data_root=_base_.my_images))'),
        ('data_root = "/my"', 'train_dataloader = dict(dataset=dict(data_root={{_base_.data_root}}))'),
        ('note = "second try"', ''),
        ('batch_size = 4', ''),  # says what is there
        ('max_epochs = 8', ''),  # which the length of a run follows
    ],
)
def test_variables_that_harm_nothing(text: str, grandchild: str, tmp_path: Path) -> None:
    variables_of(tmp_path, text, grandchild)


def test_names_in_files_of_packages_pass(tmp_path: Path) -> None:
    """A config of mmsegmentation has a `models` that was to be `model`."""
    for folder in (tmp_path / '.mim', tmp_path):
        folder.mkdir(exist_ok=True)
        (folder / 'a.py').write_text('model = dict(type="A")\nmodels = dict(type="B")\n')
    check_fields(Config.fromfile(tmp_path / '.mim' / 'a.py'))
    with pytest.raises(ValueError, match='did you mean `model`'):
        check_fields(Config.fromfile(tmp_path / 'a.py'))


@pytest.mark.parametrize(
    'word',
    [
        'model.with_cp=True',  # of a class that is not known here
        'model.init_cfg.prefix=backbone.',
        'model.train_cfg.assigner.type=X',
        'optim_wrapper.accumulative_counts=2',
        'optim_wrapper.paramwise_cfg.custom_keys.bias.decay_mult=0.0',
        'custom_hooks.0.priority=LOW',
        'param_scheduler.0.convert_to_iter_based=True',
        'train_dataloader.prefetch_factor=2',
        'visualizer.vis_backends=[]',
        'randomness.seed=1',
        'my_own.option=3',
        'log_processor.window_size=3',
    ],
)
def test_options_that_are_read(word: str) -> None:
    fields = dict(custom_hooks=[HOOK], param_scheduler=[SCHEDULE], optim_wrapper=LR, my_own=dict(option=2))
    assert merged(word, **fields) != merged('load_from=None', **fields)


def test_a_part_that_chooses_its_class_by_a_field_says_itself_what_it_takes() -> None:
    """``TokenReconHead`` becomes another class by its ``target``: ``in_channels`` is a field of one of them."""
    options = ['model.head.target=pixel', 'model.head.in_channels=3', 'model.head.loss=None']
    cfg = train_config(parse_train_args([str(ROOT / 'configs/pl_mae_vitb.py'), '--cfg-options', *options]))
    assert cfg.model.head.in_channels == 3


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('train_dataloder = dict(batch_size=2)', '`train_dataloder`.*did you mean `train_dataloader`'),
        ('modeel = dict(neck=None)', 'did you mean `model`'),
        ('auto_scale_lr = dict(base_batchsize=2)', r'did you mean `auto_scale_lr\.base_batch_size`'),
        ('env_cfg = dict(mp_cfg=dict(opencv_threads=2))', r'did you mean `env_cfg\.mp_cfg\.opencv_num_threads`'),
        ('randomness = dict(sed=2)', r'did you mean `randomness\.seed`'),
        ('train_dataloader["num_worker"] = 0', r'did you mean `train_dataloader\.num_workers`'),
        ('default_hooks["checkpoint"]["max_keep_ckpt"] = 1', r'mean `default_hooks\.checkpoint\.max_keep_ckpts`'),
        ('default_hooks["logger"]["intervl"] = 1', r'did you mean `default_hooks\.logger\.interval`'),
        ('custom_hooks = [dict(type="mmpl.NonFiniteHook", max_skip=1)]', r'did you mean `custom_hooks\.0\.max_skips`'),
    ],
)
def test_config_files(text: str, message: str, tiny_mae_config: Path) -> None:
    """A misspelt field ends the run before anything is built, a checkpoint's too."""
    tiny_mae_config.write_text(tiny_mae_config.read_text() + text + '\n')
    with pytest.raises(ValueError, match=message):
        train_config(parse_train_args([str(tiny_mae_config)]))


@pytest.mark.slow
def test_all_our_configs_pass() -> None:
    """Nothing in them is refused, nor changed by the names at their top."""
    for path in sorted((ROOT / 'configs').rglob('*.py')):
        if '_base_' in path.parts:
            continue
        cfg = Config.fromfile(path)
        before = cfg.copy()
        resolve_length(cfg, path)
        check_fields(cfg)
        for section in ('train_cfg', 'param_scheduler'):
            assert cfg.get(section) == before.get(section), path


@pytest.fixture
def child(tmp_path: Path) -> Callable[..., tuple]:
    """Writes a config on top of our pre-training config, and gives its loop and schedule."""

    def write(text: str, *options: str) -> tuple:
        path = tmp_path / 'child.py'
        path.write_text(f"_base_ = '{ROOT}/configs/pl_mae_vitb.py'\n{text}\n")
        words = ['--cfg-options', *options] if options else []
        cfg = train_config(parse_train_args([str(path), *words]))
        return cfg.train_cfg.max_epochs, cfg.max_epochs, *((part.begin, part.end) for part in cfg.param_scheduler)

    return write


@pytest.mark.parametrize(
    ('text', 'options', 'expected'),
    [
        ('', (), (400, 400, (0, 40), (40, 400))),
        ('max_epochs = 100', (), (100, 100, (0, 40), (40, 100))),
        ('max_epochs = 100\nwarmup_epochs = 5', (), (100, 100, (0, 5), (5, 100))),
        ('warmup_epochs = 5', (), (400, 400, (0, 5), (5, 400))),
        ('max_epochs = 40\nwarmup_epochs = 4', (), (40, 40, (0, 4), (4, 40))),
        ('max_epochs = 100', ('max_epochs=50',), (50, 50, (0, 40), (40, 50))),
        ('', ('max_epochs=4', 'warmup_epochs=1'), (4, 4, (0, 1), (1, 4))),
        ('', ('warmup_epochs=0.5',), (400, 400, (0, 0.5), (0.5, 400))),
        ('warmup_epochs = 0', (), (400, 400, (0, 400))),
        ('', ('warmup_epochs=0', 'max_epochs=50'), (50, 50, (0, 50))),
        ('', ('max_epochs=100', 'param_scheduler.1.end=90'), (100, 100, (0, 40), (40, 90))),
        ('', ('train_cfg.max_epochs=4',), (4, 4, (0, 40), (40, 400))),
        ('train_cfg = dict(max_epochs=4)', (), (4, 4, (0, 40), (40, 400))),
        ('max_epochs = 60\ntrain_cfg = dict(max_epochs=60)', (), (60, 60, (0, 40), (40, 60))),
    ],
)
def test_lengths(child: Callable[..., tuple], text: str, options: tuple, expected: tuple) -> None:
    assert child(text, *options) == expected


@pytest.mark.parametrize(
    ('text', 'options', 'message'),
    [
        ('max_epochs = 40', (), '`warmup_epochs` 40 must be less than `max_epochs` 40'),
        ('', ('max_epochs=4',), '`warmup_epochs` 40 must be less than `max_epochs` 4'),
        ('', ('warmup_epochs=400',), '`warmup_epochs` 400 must be less'),
        ('', ('warmup_epochs=-1',), '`warmup_epochs` must be'),
        (
            'warmup_epochs = 0',
            ('warmup_epochs=5',),
            '`warmup_epochs` 5: `param_scheduler` has no warm-up that could last',
        ),
        ('', ('max_epochs=1.5',), '`max_epochs` must be an integer'),
        ('max_epochs = 60\ntrain_cfg = dict(max_epochs=70)', (), '`max_epochs` 60 and .* 70 differ'),
        ('', ('max_epochs=60', 'train_cfg.max_epochs=70'), 'max_epochs=60 and train_cfg.max_epochs=70 differ'),
    ],
)
def test_lengths_that_cannot_be(child: Callable[..., tuple], text: str, options: tuple, message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        child(text, *options)


def test_a_grandchild_follows_its_base(child: Callable[..., tuple], tmp_path: Path) -> None:
    child('max_epochs = 100')
    path = tmp_path / 'grandchild.py'
    path.write_text("_base_ = './child.py'\nwarmup_epochs = 10\n")
    cfg = train_config(parse_train_args([str(path)]))
    assert cfg.train_cfg.max_epochs == 100
    assert [(part.begin, part.end) for part in cfg.param_scheduler] == [(0, 10), (10, 100)]


def test_max_epochs_without_such_a_name(tiny_mae_config: Path) -> None:
    for more in ('', 'max_epochs = 7\n'):
        tiny_mae_config.write_text(tiny_mae_config.read_text() + more)
        with pytest.raises(ValueError, match='`train_cfg.max_epochs`'):
            train_config(parse_train_args([str(tiny_mae_config), '--cfg-options', 'max_epochs=3']))
