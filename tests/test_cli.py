"""The command ``mmpl``: features of a folder, their neighbours, and one-line errors."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import mmpl
from mmpl import cli
from mmpl.checkpoints.files import publish
from tests.test_evaluation.probe_helpers import plmae_config, write_checkpoint


@pytest.fixture(scope='module')
def checkpoint(tmp_path_factory):
    return str(write_checkpoint(tmp_path_factory.mktemp('cli') / 'c.pth', plmae_config(bgr_to_rgb=True)))


@pytest.fixture
def folder(tmp_path):
    """Ten images, the last of them nearly the second, and one broken."""
    rng = np.random.default_rng(0)
    (tmp_path / 'images' / 'sub').mkdir(parents=True)
    pixels = rng.integers(0, 250, (9, 24, 24, 3), dtype=np.uint8)
    for index, image in enumerate([*pixels, pixels[1] + 3]):
        Image.fromarray(image).save(tmp_path / 'images' / ('sub' if index > 6 else '.') / f'{index}.png')
    (tmp_path / 'images' / 'bad.png').write_bytes(b'no image')
    return tmp_path / 'images'


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    monkeypatch.setattr(cli, 'CHUNK', 4)


def run(*arguments):
    return cli.main([str(argument) for argument in arguments])


def said(*arguments):
    with pytest.raises(SystemExit) as stop:
        run(*arguments)
    assert '\n' not in str(stop.value)
    return str(stop.value)


NAMES = [*(f'{index}.png' for index in range(7)), *(f'sub/{index}.png' for index in (7, 8, 9))]


@pytest.mark.parametrize('ending', ['.npz', '.parquet'])
def test_embed_writes_the_extractors_features(checkpoint, folder, tmp_path, capsys, ending):
    if ending == '.parquet':
        pytest.importorskip('pyarrow')
    out = tmp_path / f'features{ending}'
    assert run('embed', folder, '--checkpoint', checkpoint, '--out', out, '--batch-size', 3) == 0
    columns, meta = cli.read_features(out)
    assert list(columns['name']) == NAMES
    want = mmpl.FeatureExtractor(checkpoint)([folder / name for name in NAMES])
    np.testing.assert_allclose(columns['cls'], want.cls, rtol=0, atol=1e-5)
    np.testing.assert_allclose(columns['mean'], want.mean, rtol=0, atol=1e-5)
    assert [name for name, _ in meta['skipped']] == ['bad.png']
    text = capsys.readouterr().out
    assert 'skipped bad.png: not an image: no known format' in text
    assert f'wrote {out}: 10 images' in text and not list(tmp_path.glob('*.parts'))
    width = want.mean.shape[1]
    assert (columns['cls'].shape, columns['mean'].dtype) == ((10, width), np.float32)


def test_embed_goes_on_where_it_was_stopped(checkpoint, folder, tmp_path, monkeypatch, capsys):
    whole, out = tmp_path / 'whole.npz', tmp_path / 'features.npz'
    run('embed', folder, '--checkpoint', checkpoint, '--out', whole)
    computed, real = [], cli._write_part

    def stopped(parts, index, *rest):
        if index == 2:
            raise KeyboardInterrupt
        computed.append(index)
        real(parts, index, *rest)

    monkeypatch.setattr(cli, '_write_part', stopped)
    with pytest.raises(KeyboardInterrupt):
        run('embed', folder, '--checkpoint', checkpoint, '--out', out)
    assert computed == [0, 1] and not out.exists()
    monkeypatch.setattr(
        cli, '_write_part', lambda parts, index, *rest: computed.append(index) or real(parts, index, *rest)
    )
    other = str(write_checkpoint(tmp_path / 'other.pth', plmae_config()))  # the same weights, another channel order
    assert 'made of other normalisation' in said('embed', folder, '--checkpoint', other, '--out', out)
    assert 'made of other encoder' in said(
        'embed', folder, '--checkpoint', checkpoint, '--out', out, '--source', 'label_teacher'
    )
    run('embed', folder, '--checkpoint', checkpoint, '--out', out)
    assert computed == [0, 1, 2]
    assert 'going on after 8 images' in capsys.readouterr().out
    with np.load(out) as a, np.load(whole) as b:
        assert all(np.array_equal(a[name], b[name]) for name in ('name', 'cls', 'mean'))
    run('embed', folder, '--checkpoint', checkpoint, '--out', out)
    assert 'is there already' in capsys.readouterr().out and computed == [0, 1, 2]
    Image.fromarray(np.zeros((24, 24, 3), np.uint8)).save(folder / '3.png')
    assert 'made of other images (11 files' in said('embed', folder, '--checkpoint', checkpoint, '--out', out)


def test_neighbours_are_the_nearest_others(checkpoint, folder, tmp_path, capsys):
    out, picture = tmp_path / 'features.npz', tmp_path / 'near.png'
    run('embed', folder, '--checkpoint', checkpoint, '--out', out)
    capsys.readouterr()
    columns, _ = cli.read_features(out)
    rows = torch.nn.functional.normalize(torch.from_numpy(columns['mean']).double())
    cosines = rows @ rows[1]
    cosines[1] = -2
    want = [NAMES[index] for index in cosines.argsort(descending=True)[:3]]
    assert run('neighbours', out, '--query', 1, '--k', 3, '--pool', 'mean', '--out', picture) == 0
    by_index = capsys.readouterr().out
    assert [line.split()[-1] for line in by_index.splitlines()[1:4]] == want and want[0] == 'sub/9.png'
    assert by_index.splitlines()[1].split()[1] == f'{cosines.max():.4f}'
    assert np.asarray(Image.open(picture).convert('RGB')).std() > 10
    run('neighbours', out, '--query', '1.png', '--k', 3, '--pool', 'mean')
    assert capsys.readouterr().out == by_index.replace(f'wrote {picture}\n', '')
    run('neighbours', out, '--query', folder / '1.png', '--k', 2, '--pool', 'mean')  # a file is not left out
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split()[1:] == ['1.0000', '1.png'] and lines[2].split()[-1] == 'sub/9.png'
    run('neighbours', out, '--query', 1, '--k', 1)
    assert capsys.readouterr().out.startswith('query: 1.png (cls)')


def test_mistakes_are_one_line(checkpoint, folder, tmp_path):
    out = tmp_path / 'features.npz'
    assert '--out must end in .npz or .parquet' in said('embed', folder, '--checkpoint', checkpoint, '--out', 'a.csv')
    assert 'is no folder' in said('embed', tmp_path / 'no', '--checkpoint', checkpoint, '--out', out)
    assert "'no.pth' does not exist" in said('embed', folder, '--checkpoint', 'no.pth', '--out', out)
    assert 'multiple of the patch size' in said(
        'embed', folder, '--checkpoint', checkpoint, '--out', out, '--image-size', 17
    )
    (tmp_path / 'only').mkdir()
    (tmp_path / 'only' / 'bad.png').write_bytes(b'no image')
    assert 'none of the 1 images' in said('embed', tmp_path / 'only', '--checkpoint', checkpoint, '--out', out)
    run('embed', folder, '--checkpoint', checkpoint, '--out', out.with_name('there.npz'))
    there = out.with_name('there.npz')
    assert 'do not exist' in said('neighbours', out, '--query', 0)
    assert '--out must end in one of .png' in said('neighbours', there, '--query', 0, '--out', 'near')
    assert '--k must be in 1..9' in said('neighbours', there, '--query', 0, '--k', 10)
    assert 'in 0..9, but got 10' in said('neighbours', there, '--query', 10)
    assert "'no.png' is neither" in said('neighbours', there, '--query', 'no.png')
    other = plmae_config(bgr_to_rgb=True)
    other.model.backbone.arch.num_layers = 1
    other = write_checkpoint(tmp_path / 'other.pth', other)
    assert 'is not the encoder that made' in said(
        'neighbours', there, '--query', folder / '0.png', '--checkpoint', other
    )
    np.savez(out, a=np.zeros(3))
    assert 'is no file that `mmpl embed` wrote' in said('neighbours', out, '--query', 0)


def test_a_picture_shows_grey_images_as_they_are(tmp_path):
    Image.fromarray(np.full((8, 8), 250, np.uint8)).save(tmp_path / 'white.png')
    loader = dict(type='LoadImageFromFile', color_type='grayscale')
    cli._draw(tmp_path / 'out.png', tmp_path / 'white.png', [(tmp_path / 'white.png', 1.0)], loader)
    middle = np.asarray(Image.open(tmp_path / 'out.png').convert('L'))[150, 100]
    assert middle >= 248, middle


def test_a_stack_that_is_not_there_is_named(monkeypatch):
    def missing(*args):
        raise ModuleNotFoundError("No module named 'mmengine'", name='mmengine')

    monkeypatch.setattr(cli, 'run_info', missing)
    assert "pip install 'mmpl[onedl]'" in said('info', 'a.pth')


def test_info_says_what_features_need(checkpoint, capsys, tmp_path):
    assert run('info', checkpoint) == 0
    text = capsys.readouterr().out
    for part in (
        'PLMAE',
        'student',
        'label_teacher',
        '16 x 16',
        'mean [120.0, 110.0, 100.0]',
        'channels: RGB',
        'LoadImage',
    ):
        assert part in text
    torch.save(dict(state_dict=torch.load(checkpoint, weights_only=True)['state_dict']), tmp_path / 'bare.pth')
    run('info', tmp_path / 'bare.pth')
    text = capsys.readouterr().out
    assert 'not said: features need --mean and --std' in text and 'not said when' in text


def test_info_says_whether_the_file_is_whole_and_when_it_was_written(checkpoint, tmp_path, capsys):
    content = torch.load(checkpoint, weights_only=True)
    content['meta'].update(epoch=3, iter=120)
    path = tmp_path / 'epoch_3.pth'
    torch.save(content, tmp_path / 'rough.pth')
    publish(tmp_path / 'rough.pth', path)
    assert run('info', path) == 0
    text = capsys.readouterr().out
    assert 'yes, by the SHA-256 beside it' in text and 'written      epoch 3, iter 120' in text
    content['meta']['epoch'] = 4
    torch.save(content, path)  # another content than the one that is recorded
    assert run('info', path) == 1
    assert 'no: its SHA-256 is' in capsys.readouterr().out
    assert run('info', checkpoint) == 0
    assert 'yes, by the checksums inside' in capsys.readouterr().out


def test_the_picture_shows_what_the_encoder_sees(tmp_path):
    values = np.arange(256, dtype=np.uint16).reshape(16, 16) * 257
    Image.fromarray(values).save(tmp_path / 'deep.png')  # of 16 bits, which Pillow shows white
    cli._draw(tmp_path / 'near.png', tmp_path / 'deep.png', [], dict(type='mmpl.LoadImage'))
    drawn = np.asarray(Image.open(tmp_path / 'near.png').convert('L'))
    assert {40, 80, 120, 160, 200} <= set(drawn.ravel().tolist())


def test_the_tools_are_forwarded(folder, checkpoint, tmp_path, capsys):
    assert run('check', folder, '--workers', 1, '--out', tmp_path / 'bad.jsonl') == 1
    bad = [json.loads(line)['path'] for line in (tmp_path / 'bad.jsonl').read_text().splitlines()]
    assert [Path(path).name for path in bad] == ['bad.png']
    assert not run('export', checkpoint, tmp_path / 'vit.pth')
    want = mmpl.FeatureExtractor(checkpoint)(folder / '0.png')
    assert np.array_equal(mmpl.FeatureExtractor(tmp_path / 'vit.pth')(folder / '0.png').mean, want.mean)
    assert 'does not exist' in said('export', 'no.pth', tmp_path / 'vit.pth')
    for tool in cli.TOOLS:
        capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            run(tool, '--help')
        assert stop.value.code == 0 and capsys.readouterr().out.startswith(f'usage: mmpl {tool}')


def test_help_imports_nothing_heavy():
    code = """
import sys
from mmpl.cli import main
try:
    main(['--help'])
except SystemExit:
    assert not {'torch', 'numpy', 'mmengine', 'matplotlib'} & set(sys.modules)
    print('light')
"""
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, timeout=60)
    assert done.stdout.endswith('light\n') and 'neighbours' in done.stdout, done.stderr
