"""``mmpl pretrain``: what it chooses, the config that it writes, and the run."""

import argparse
import inspect
import json
import os
from contextlib import suppress
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.dataset import BaseDataset
from mmpretrain.registry import MODELS
from PIL import Image

import mmpl
from mmpl.apis import finetune as finetuning
from mmpl.apis import pretrain as api
from mmpl.apis.train import parse_train_args, prepare_process
from mmpl.apis.written import publish
from mmpl.checkpoints import read_checkpoint
from mmpl.cli import main
from mmpl.compat import unsafe_load_allowed
from mmpl.datasets.decode import Decoder
from mmpl.datasets.guarded import GuardedDataset
from mmpl.evaluation.extractor import Features
from mmpl.utils.user_errors import UserError
from mmpl.visualization.report import collect_report

timm = pytest.importorskip('timm')


def photographs(folder: Path, count: int = 40, side: int = 70) -> list[Path]:
    """Smooth colours, a JPEG each, the last ones in a subfolder."""
    rng = np.random.default_rng(0)
    paths = []
    for number in range(count):
        path = folder / ('more' if number > count // 2 else '') / f'{number:03}.jpg'
        path.parent.mkdir(parents=True, exist_ok=True)
        small = Image.fromarray(rng.integers(0, 256, (5, 6, 3), dtype=np.uint8))
        small.resize((side + 20, side), Image.BICUBIC).save(path, quality=95)
        paths.append(path)
    return paths


def written(tmp_path: Path, **asked) -> Config:
    said: list[str] = []
    place = tmp_path / 'run'
    config = api.pretrain(tmp_path / 'photos', work_dir=place, dry_run=True, say=said.append, **asked)
    assert config == tmp_path / 'run.py' and any(str(config) in line for line in said)
    assert 'trained parameters' in said[-1] and 's a step on' in said[-1]
    return api.train_config(api.parse_train_args([str(config), '--work-dir', str(place)]))


def test_the_config_says_what_was_asked(tmp_path: Path) -> None:
    """Against numbers that are computed here: of the pixels by Pillow, of the schedule by hand."""
    paths = photographs(tmp_path / 'photos')
    cfg = written(tmp_path, arch='vit-t', batch_size=16, epochs=30, workers=0)
    pixels = [np.asarray(Image.open(path), float).reshape(-1, 3) for path in paths]
    mean = np.mean([p.mean(0) for p in pixels], 0)
    std = np.sqrt(np.mean([(p**2).mean(0) for p in pixels], 0) - mean**2)
    np.testing.assert_allclose(cfg.model.data_preprocessor.mean, mean, atol=0.5)  # JPEG decoders differ a little
    np.testing.assert_allclose(cfg.model.data_preprocessor.std, std, atol=0.5)
    assert cfg.model.backbone.arch == 'deit-t' and cfg.model.backbone.img_size == 64  # sides of 70 fill 64, not 96
    assert cfg.model.backbone.patch_size == 8 and cfg.train_dataloader.dataset.pipeline[0].scale == 64
    assert cfg.model.neck.decoder_embed_dims == 96 and cfg.model.label_head.num_prototypes == 256
    assert cfg.train_cfg.max_epochs == 30 and cfg.param_scheduler[1]['end'] == 30
    steps = 30 * (40 // 16)
    assert cfg.model.momentum_label == dict(horizon=pytest.approx(max(0.008, 10 / steps), rel=0.1))
    assert cfg.model.momentum_recon == dict(horizon=pytest.approx(max(0.08, 20 / steps), rel=0.1))
    assert cfg.optim_wrapper.optimizer.lr == pytest.approx(1e-3 * (16 / 64) ** 0.5)
    assert cfg.auto_scale_lr.base_batch_size == cfg.train_dataloader.batch_size == 16
    warmup = cfg.param_scheduler[0]['end'] * (40 // 16)
    assert warmup >= 2, 'mmengine leaves a rate where a warm-up of one step begins'


@pytest.mark.parametrize(
    ('count', 'side', 'asked', 'expected'),
    [
        (500, 40, {}, dict(arch='vit-t', size=32, patch=4, epochs=800, batch=64)),
        (5_000, 100, {}, dict(arch='vit-t', size=96, patch=8, epochs=200, batch=64)),
        (20_000, 500, {}, dict(arch='vit-s', size=96, patch=8, epochs=100, batch=64)),
        (20_000, 500, dict(image_size=224), dict(arch='vit-s', size=224, patch=16, epochs=100, batch=64)),
        (20, 20, {}, dict(arch='vit-t', size=32, patch=4, epochs=800, batch=16)),
    ],
)
def test_what_is_chosen(count: int, side: int, asked: dict, expected: dict) -> None:
    images = api.Images(count, side, (1.0, 2.0, 3.0), (4.0, 5.0, 6.0), {}, 16)
    names = ('arch', 'image_size', 'patch_size', 'batch_size', 'epochs', 'found', 'given_mean', 'given_std', 'workers')
    fields = api._chosen(images, **(dict.fromkeys(names) | asked))
    assert fields['arch_text'].startswith(f'{expected["arch"]} at {expected["size"]} x {expected["size"]}')
    assert f'patch_size={expected["patch"]}' in fields['backbone']
    assert (fields['epochs'], fields['batch_size']) == (expected['epochs'], expected['batch'])


@pytest.mark.parametrize(
    ('own', 'patch', 'side', 'asked', 'chosen'),
    [
        (224, 16, 400, None, 224),  # as the weights are, where the images fill it
        (224, 16, 150, None, 96),
        (224, 14, 400, None, 224),
        (518, 14, 400, None, 84),  # whole patches of the largest known size
        (224, 16, 400, 128, 128),
    ],
)
def test_images_are_of_the_size_of_the_weights(own, patch, side, asked, chosen, monkeypatch) -> None:
    size = api.ARCHS['vit-t']
    monkeypatch.setattr(api, '_size_of', lambda *_: (size, patch, dict(arch=size.arch), own))
    fed = argparse.Namespace(mean=(1.0,) * 3, std=(1.0,) * 3, bgr=False)
    monkeypatch.setattr(api, 'normalisation_of', lambda *_: fed)
    found = argparse.Namespace(config={}, path='w.pth', layout='timm', digest=lambda _: '')
    names = ('arch', 'patch_size', 'batch_size', 'epochs', 'given_mean', 'given_std', 'workers')
    images = api.Images(500, side, (1.0, 2.0, 3.0), (4.0, 5.0, 6.0), {}, 16)
    fields = api._chosen(images, **dict.fromkeys(names), image_size=asked, found=found)
    assert fields['image_size'] == chosen and f'{chosen} x {chosen}' in fields['arch_text']
    assert (f'the weights are for {own} x {own}' in fields['arch_text']) == (own != chosen)


@pytest.mark.parametrize(
    ('argv', 'said'),
    [
        (['--arch', 'vit-x'], "`arch` must be one of ['vit-b', 'vit-l', 'vit-s', 'vit-t'], but got 'vit-x'"),
        (['--image-size', '60', '--patch-size', '8'], 'must be a multiple of the patch size 8, such as 56 or 64'),
        (['--image-size', '16', '--patch-size', '8'], 'has 4 patches of 8 pixels, but at least 16 are needed'),
        (['--batch-size', '64'], '`batch_size` must be at most 40, the number of images, but got 64'),
        (['--batch-size', '4'], '`batch_size`'),
        (['--epochs', '0'], '`epochs`'),
        (['--load', 'colour=1'], "`loading` must be one of ['bands', 'pages', 'percentiles', 'scaling'], but got"),
        (['--load', 'scaling=[9,3'], '`scaling` must be'),
        (['--from', 'nowhere.pth'], 'nowhere.pth'),
        (['--mean', '.5', '.5', '.4', '--std', '.2', '.2', '.2'], '`mean` and `std` must be in 0..255'),
        (['--mean', '1', '2', '3', '--std', '0', '50', '50'], '`std` must be'),
    ],
)
def test_what_is_refused(argv: list[str], said: str, tmp_path: Path) -> None:
    photographs(tmp_path / 'photos')
    with pytest.raises(SystemExit) as end:
        main(['pretrain', str(tmp_path / 'photos'), '--work-dir', str(tmp_path / 'run'), '--dry-run', *argv])
    assert said in str(end.value) and str(end.value).startswith('error: ')
    assert not (tmp_path / 'run.py').exists()


def test_folders_that_cannot_be_learnt_from(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match='is no folder'):
        api.look_at(str(tmp_path / 'nowhere'), Decoder())
    photographs(tmp_path / 'few', 9)
    with pytest.raises(api.PretrainError, match='holds 9 images, but at least 16'):
        api.look_at(str(tmp_path / 'few'), Decoder())
    paths = photographs(tmp_path / 'bad', 20)
    for path in paths[:5]:
        path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(api.PretrainError, match=r'5 of 20 images looked at .* cannot be used.*truncated'):
        api.look_at(str(tmp_path / 'bad'), Decoder())
    paths[0].write_bytes(paths[-1].read_bytes())
    for path in paths[2:5]:
        path.write_bytes(paths[-1].read_bytes())
    images = api.look_at(str(tmp_path / 'bad'), Decoder())
    assert (images.count, list(images.bad)) == (20, [str(paths[1])]) and images.side == 70


def test_images_of_sixteen_bits_are_scaled_as_asked(tmp_path: Path) -> None:
    """Mean and standard deviation are of the pixels as the run loads them."""
    rng = np.random.default_rng(0)
    (tmp_path / 'photos').mkdir()
    values = rng.integers(27000, 31001, (16, 40, 50)).astype(np.uint16)
    for number, image in enumerate(values):
        Image.fromarray(image).save(tmp_path / 'photos' / f'{number}.png')
    cfg = written(tmp_path, loading=dict(scaling=[27000, 31000]))
    load = cfg.train_dataloader.dataset.pipeline[0]
    assert (load.type, load.scaling) == ('mmpl.LoadRandomResizedCrop', [27000, 31000])
    scaled = (values - 27000.0) / 4000 * 255
    assert cfg.model.data_preprocessor.mean == pytest.approx([scaled.mean()] * 3, abs=0.6)
    assert cfg.model.data_preprocessor.std == pytest.approx([scaled.std()] * 3, abs=0.6)


def test_images_that_are_all_alike(tmp_path: Path) -> None:
    paths = photographs(tmp_path / 'same', 16)
    for path in paths[1:]:
        path.write_bytes(paths[0].read_bytes())
    with pytest.raises(api.PretrainError, match='all 16 images looked at .* have the same pixels'):
        api.look_at(str(tmp_path / 'same'), Decoder())


def test_a_work_folder_inside_of_the_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Started in the folder itself, or reached by a link."""
    photographs(tmp_path / 'photos', 16)
    (tmp_path / 'link').symlink_to(tmp_path / 'photos')
    monkeypatch.chdir(tmp_path / 'photos')
    for work_dir in (None, str(tmp_path / 'link' / 'run')):
        with pytest.raises(api.PretrainError, match='lies inside of the images'):
            api.pretrain('.', work_dir=work_dir, dry_run=True)
    assert not (tmp_path / 'photos' / 'work_dirs').exists()


def test_braces_that_mmengine_would_fill_in(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r'holds `\{\{`.*fileDirname'):
        publish(tmp_path / 'a.py', "data_root = '/data/{{ fileDirname }}'\n")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize('fails', [False, True])
def test_the_caller_s_process_stays_as_it_was(fails: bool, tmp_path: Path, monkeypatch) -> None:
    """What may be loaded, and from where, is the caller's own business, also where the call fails."""
    photographs(tmp_path / 'images')
    mae_file(tmp_path / 'mae.pth')
    prepared = []

    def train(argv: list[str]) -> None:
        prepare_process(parse_train_args(argv))
        prepared.append(unsafe_load_allowed() and BaseDataset._serialize_data is not serialise)
        if fails:
            raise ValueError('no')

    monkeypatch.delenv('LOCAL_RANK', raising=False)
    monkeypatch.setattr(api, 'train', train)
    monkeypatch.setattr(finetuning, 'train', train)
    serialise, environ = inspect.unwrap(BaseDataset._serialize_data), dict(os.environ)
    monkeypatch.setattr(BaseDataset, '_serialize_data', serialise)
    with suppress(IndexError, ValueError):  # nothing was trained
        mmpl.pretrain(tmp_path / 'images', work_dir=tmp_path / 'run', trust=True)
    for name in 'ab':
        photographs(tmp_path / 'classes' / name)
    with suppress(ValueError):
        tuned = dict(checkpoint=tmp_path / 'mae.pth', work_dir=tmp_path / 'tuned', trust=True, **IMAGENET)
        mmpl.finetune('classification', tmp_path / 'classes', **tuned)
    assert prepared == [True, True]
    assert BaseDataset._serialize_data is serialise and not unsafe_load_allowed()
    assert dict(os.environ) == environ


def test_a_config_is_not_overwritten(tmp_path: Path) -> None:
    publish(tmp_path / 'a.py', 'x = 1  # one\n')
    publish(tmp_path / 'a.py', '# another comment\nx = 1\n')
    first = (tmp_path / 'a.py').read_text()
    assert first.startswith('x = 1  # one\n# as mmpl wrote it: ')
    publish(tmp_path / 'a.py', 'x = 3\n')  # nobody has edited it, and nothing was trained by it
    assert (tmp_path / 'a.py').read_text().startswith('x = 3\n')
    (tmp_path / 'a' / 'epoch_1.pth').parent.mkdir()
    (tmp_path / 'a' / 'epoch_1.pth').touch()
    with pytest.raises(UserError, match='asked for now: x = 2; there: x = 3'):
        publish(tmp_path / 'a.py', 'x = 2\n')
    (tmp_path / 'a' / 'epoch_1.pth').unlink()
    (tmp_path / 'a' / '20260101_000000' / 'vis_data').mkdir(parents=True)  # of a run that is under way
    with pytest.raises(UserError, match='asked for now: x = 2; there: x = 3'):
        publish(tmp_path / 'a.py', 'x = 2\n')
    (tmp_path / 'a.py').write_text(first.replace('# one', '# mine'))
    with pytest.raises(UserError, match=r'is there already, of other settings \(asked for now: x = 2; there: x = 1\)'):
        publish(tmp_path / 'a.py', 'x = 2\n')


def test_a_run_goes_on_on_another_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With other cores and another type of numbers the config that is there is taken; what was asked for counts."""
    photographs(tmp_path / 'photos')
    for cores in (1, 3):
        monkeypatch.setattr(api, 'usable_cores', lambda cores=cores: cores)
        cfg = written(tmp_path, arch='vit-t', batch_size=16, epochs=2)
        assert cfg.train_dataloader.num_workers == 1
    (tmp_path / 'run').mkdir(exist_ok=True)
    (tmp_path / 'run' / 'epoch_1.pth').touch()
    cfg = written(tmp_path, arch='vit-t', batch_size=16, epochs=2, workers=2)
    assert cfg.train_dataloader.num_workers == 2
    with pytest.raises(UserError, match='max_epochs = 3'):
        written(tmp_path, arch='vit-t', batch_size=16, epochs=3, workers=2)


def test_weights_are_continued_on_files_that_are_read_as_theirs_were(tmp_path: Path) -> None:
    photographs(tmp_path / 'photos')
    asked = dict(arch='vit-t', image_size=32, patch_size=8, batch_size=16, epochs=2, workers=0)
    cfg = written(tmp_path, **asked, loading=dict(scaling=(0, 200), bands=(3, 2, 1)))
    model = MODELS.build(cfg.model)
    model.init_weights()
    weights = tmp_path / 'weights.pth'
    torch.save(dict(meta=dict(cfg=cfg.pretty_text), state_dict=model.state_dict()), weights)
    said: list[str] = []
    for loading, expected in ((None, dict(scaling=[0, 200], bands=[3, 2, 1])), (dict(bands=(1, 2, 3)), None)):
        place = tmp_path / f'further_{expected is None}'
        config = api.pretrain(
            tmp_path / 'photos', start=weights, epochs=4, work_dir=place, dry_run=True, say=said.append, loading=loading
        )
        step = Config.fromfile(config).train_dataloader.dataset.pipeline[0]
        found = {name: list(step[name]) for name in ('scaling', 'bands') if name in step}
        assert found == (expected or dict(bands=[1, 2, 3]))
    assert any('files are read as those were that' in line for line in said)
    argv = ['pretrain', str(tmp_path / 'photos'), '--from', str(weights), '--epochs', '4', '--dry-run']
    main([*argv, '--work-dir', str(tmp_path / 'by_command')])
    step = Config.fromfile(tmp_path / 'by_command.py').train_dataloader.dataset.pipeline[0]
    assert list(step.scaling) == [0, 200]


def test_what_files_lose_is_listed_by_a_run_that_was_estimated_before(tmp_path: Path) -> None:
    photographs(tmp_path / 'photos')
    rng = np.random.default_rng(0)
    for path in (tmp_path / 'photos').glob('*.jpg'):
        Image.fromarray(rng.integers(0, 1021, (40, 40), dtype=np.uint16)).save(path.with_suffix('.png'))
    asked = dict(arch='vit-t', image_size=32, patch_size=8, batch_size=16, epochs=2, workers=0)
    written(tmp_path, **asked)
    dataset = GuardedDataset(
        Config.fromfile(tmp_path / 'run.py').train_dataloader.dataset.to_dict(),
        report=str(tmp_path / 'bad_files.jsonl'),
    )
    for index in range(len(dataset)):
        dataset[index]
    lines = (tmp_path / 'lossy_files.jsonl').read_text().splitlines()
    assert len(lines) == 1 and '16-bit' in lines[0]


def test_bad_images_that_come_first_are_replaced_in_the_estimate_too(tmp_path: Path) -> None:
    photographs(tmp_path / 'photos', 600)
    (tmp_path / 'photos' / '0').mkdir()
    for number in range(16):
        (tmp_path / 'photos' / '0' / f'{number}.jpg').write_bytes(b'')
    written(tmp_path, arch='vit-t', batch_size=16, epochs=1, workers=0)


@pytest.mark.slow
def test_it_trains_resumes_and_is_used(tmp_path: Path) -> None:
    """The run of the command, stopped by its length, goes on; features of its checkpoint are the student's."""
    photographs(tmp_path / 'photos')
    place = tmp_path / 'run'
    asked = dict(arch='vit-t', image_size=32, patch_size=8, batch_size=16, epochs=2, workers=0)
    checkpoint = mmpl.pretrain(tmp_path / 'photos', work_dir=place, **asked)
    assert checkpoint.name == 'epoch_2.pth'
    again = mmpl.pretrain(tmp_path / 'photos', work_dir=place, **asked)
    assert again == checkpoint and len(list(place.glob('*/vis_data'))) >= 1
    features = mmpl.FeatureExtractor(checkpoint)(tmp_path / 'photos')
    assert features.cls.shape == (40, 192) and np.isfinite(features.cls).all() and features.mean.std(0).mean() > 1e-4
    lines = [json.loads(line) for path in place.rglob('scalars.json') for line in path.read_text().splitlines()]
    assert any(line.get('loss', 0) > 0 for line in lines)
    _check_report(place, features)
    config = place / 'run.py'
    cfg = Config.fromfile(config)
    cfg.train_dataloader.dataset = dict(type='ConcatDataset', datasets=[cfg.train_dataloader.dataset])
    cfg.dump(config)
    _check_report(place, features)


def _check_report(place: Path, features: Features) -> None:
    """Pictures need no labels: the neighbours are those of the features of the same files."""
    report = collect_report(place)
    assert not report.notes and len(report.neighbours) == 8 and report.label_maps and report.pca
    names = [Path(str(path)).name for path in features.paths]
    rows = features.mean / np.linalg.norm(features.mean, axis=1, keepdims=True)
    queries = {query.name for query, _ in report.neighbours}
    for query, found in report.neighbours:
        assert all(item.correct is None and item.picture.class_name == '' for item in found)
        assert not queries & {item.picture.name for item in found}
        cosines = rows @ rows[names.index(query.name)]
        for item in found:
            assert item.similarity == pytest.approx(cosines[names.index(item.picture.name)], abs=2e-3)


IMAGENET = dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375])


def mae_file(path: Path) -> torch.nn.Module:
    """An encoder under MAE's official names, 'tiny' so that a test is short."""
    torch.manual_seed(0)
    vit = timm.create_model(
        'vit_tiny_patch16_224', img_size=32, patch_size=8, num_classes=0, pretrained=False, depth=12
    )
    torch.save({'model': vit.state_dict()}, path)
    return vit


def test_sizes_come_from_the_weights(tmp_path: Path) -> None:
    photographs(tmp_path / 'photos')
    mae_file(tmp_path / 'mae.pth')
    asked = dict(start=tmp_path / 'mae.pth', image_size=32, batch_size=16, epochs=4, workers=0)
    with pytest.raises(ValueError, match='how its images were normalised is not known: give mean= and std='):
        written(tmp_path, **asked)
    cfg = written(tmp_path, **asked, **IMAGENET)
    assert cfg.load_from == str(tmp_path / 'mae.pth')
    assert (cfg.model.backbone.arch, cfg.model.backbone.patch_size) == ('deit-t', 8)
    assert cfg.model.neck.decoder_embed_dims == 96
    assert cfg.model.data_preprocessor.mean == [123.675, 116.28, 103.53]
    assert cfg.optim_wrapper.optimizer.lr == pytest.approx(1e-4 * 0.5)
    assert [hook['type'] for hook in cfg.custom_hooks[-2:]] == ['mmpl.FrozenWarmupHook', 'mmpl.ContinueGuardHook']
    with pytest.raises(api.PretrainError, match=r"`arch` must fit the encoder of .*, vit-t, but got 'vit-b'"):
        written(tmp_path, start=tmp_path / 'mae.pth', arch='vit-b')
    with pytest.raises(api.PretrainError, match='`patch_size` must be 8'):
        written(tmp_path, start=tmp_path / 'mae.pth', patch_size=16)


@pytest.mark.slow
@pytest.mark.parametrize(('factor', 'fires'), [(1, False), (100, True)])
def test_continuing_is_guarded(factor: int, fires: bool, tmp_path: Path, monkeypatch) -> None:
    """On a frozen encoder first, which keeps its bits; a rate 100 times too high is warned of, the preset's is not."""
    photographs(tmp_path / 'photos', 64)
    vit = mae_file(tmp_path / 'mae.pth')
    place = tmp_path / 'run'
    monkeypatch.setattr(api, 'CONTINUE_RATE', 1e-4 * factor)
    asked = dict(image_size=32, batch_size=16, epochs=6, workers=0)
    mmpl.pretrain(tmp_path / 'photos', start=tmp_path / 'mae.pth', work_dir=place, **asked, **IMAGENET)
    log = ''.join(path.read_text() for path in place.rglob('*.log'))
    assert 'backbone stays as it is for the first 2 epochs.' in log and 'backbone is trained from here on.' in log
    assert ('Continuing harms the features that this run started with' in log) is fires
    first = torch.load(place / 'epoch_2.pth', weights_only=False) if (place / 'epoch_2.pth').exists() else None
    last = torch.load(place / 'epoch_6.pth', weights_only=False)['state_dict']
    weight = vit.state_dict()['blocks.3.mlp.fc1.weight']
    assert not torch.equal(last['backbone.layers.3.ffn.layers.0.0.weight'], weight)
    assert first is None or torch.equal(first['state_dict']['backbone.layers.3.ffn.layers.0.0.weight'], weight)


def timm_weights(path: Path) -> Path:
    safetensors = pytest.importorskip('safetensors.torch')
    vit = timm.create_model('vit_tiny_patch16_224', img_size=64, pretrained=False)
    safetensors.save_file(vit.state_dict(), path / 'vit.safetensors')
    return path / 'vit.safetensors'


def mae_weights(path: Path) -> Path:
    """Encoder and decoder, as MAE's code names them."""
    vit = timm.create_model('vit_tiny_patch16_224', img_size=64, num_classes=0, pretrained=False)
    decoder = timm.create_model('vit_tiny_patch16_224', img_size=64, embed_dim=96, depth=2, num_classes=768)
    state = decoder.state_dict()
    names = {
        'head': 'decoder_pred',
        'norm': 'decoder_norm',
        'blocks': 'decoder_blocks',
        'pos_embed': 'decoder_pos_embed',
    }
    named = {names.get(key.split('.')[0], '') + key[len(key.split('.')[0]) :]: value for key, value in state.items()}
    named = {key: value for key, value in named.items() if key.startswith('decoder_')}
    named |= {'mask_token': torch.zeros(1, 1, 96), 'decoder_embed.weight': torch.randn(96, 192) * 0.02}
    named['decoder_embed.bias'] = torch.zeros(96)
    torch.save({'model': vit.state_dict() | named}, path / 'mae_full.pth')
    return path / 'mae_full.pth'


def hugging_face_weights(path: Path, kind: str) -> Path:
    transformers = pytest.importorskip('transformers')
    sizes = dict(hidden_size=192, num_hidden_layers=12, num_attention_heads=3, intermediate_size=768, image_size=64)
    config = getattr(transformers, 'ViTConfig' if kind == 'ViTModel' else 'ViTMAEConfig')(**sizes, patch_size=16)
    getattr(transformers, kind)(config).save_pretrained(path / kind)
    return path / kind


def mmpretrain_weights(path: Path) -> Path:
    """With the config of its training, as the files of mmpretrain's model zoo."""
    cfg = dict(type='mmpretrain.VisionTransformer', arch='deit-t', img_size=64, patch_size=16)
    vit = MODELS.build(cfg)
    vit.init_weights()
    state = {f'backbone.{key}': value for key, value in vit.state_dict().items()}
    meta = dict(cfg=f"model = dict(type='ImageClassifier', backbone={cfg})")
    torch.save(dict(meta=meta, state_dict=state), path / 'vit.pth')
    return path / 'vit.pth'


@pytest.mark.slow
@pytest.mark.parametrize(
    ('write', 'layout'),
    [
        (timm_weights, 'timm'),
        (mae_weights, 'MAE'),
        (partial(hugging_face_weights, kind='ViTModel'), 'Hugging Face'),
        (partial(hugging_face_weights, kind='ViTMAEForPreTraining'), 'Hugging Face'),
        (mmpretrain_weights, 'mmpretrain'),
    ],
)
def test_it_continues_from_files_of_each_library(write, layout: str, tmp_path: Path) -> None:
    """On photographs at 64 x 64. After one epoch at a low rate the encoder is near what the file holds."""
    torch.manual_seed(0)
    photographs(tmp_path / 'photos', 64)
    start = write(tmp_path)
    found = read_checkpoint(start)
    assert layout in found.layout
    asked = dict(image_size=64, batch_size=16, epochs=1, workers=0)
    checkpoint = mmpl.pretrain(tmp_path / 'photos', start=start, work_dir=tmp_path / 'run', **asked, **IMAGENET)
    trained, given = read_checkpoint(checkpoint).encoder(), found.encoder()
    for key in ('layers.3.ffn.layers.0.0.weight', 'layers.11.attn.qkv.weight', 'patch_embed.projection.weight'):
        assert given[key].std() > 0.005 and (trained[key] - given[key]).abs().max() < 1e-3
