"""Files of every bad kind: converted or replaced, reported once, counted."""

import errno
import io
import json
import ntpath
import posixpath
import re
import shutil
import struct
import zlib
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from mmcv.transforms import BaseTransform
from mmengine.config import Config
from PIL import Image

from mmpl.apis.check_dataset import main as check_dataset
from mmpl.apis.check_dataset import read_source
from mmpl.datasets import GuardedDataset, bad_files, decode
from mmpl.datasets.bad_files import BadDataError, BadFileReport, too_many
from mmpl.datasets.image_check import ImageVerdict, inspect_image
from mmpl.datasets.resumable_sampler import SeededIndex
from mmpl.registry import TRANSFORMS
from mmpl.utils import paths
from mmpl.utils.paths import PathOutsideRootError
from tests.faults.runs import differences, final_state, logs_of, run

SIDE = 20


def pixels(number: int) -> np.ndarray:
    return np.random.default_rng(number).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)


def encoded(image: Image.Image, image_format: str, **kwargs) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, image_format, **kwargs)
    return buffer.getvalue()


def bomb() -> bytes:
    """A PNG of 200 bytes that claims 60,000 x 60,000 pixels."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack('>I', len(data)) + name + data + struct.pack('>I', zlib.crc32(name + data))

    header = struct.pack('>IIBBBBB', 60_000, 60_000, 8, 2, 0, 0, 0)
    return (
        b'\x89PNG\r\n\x1a\n' + chunk(b'IHDR', header) + chunk(b'IDAT', zlib.compress(bytes(1000))) + chunk(b'IEND', b'')
    )


def bad_and_odd_files() -> dict[str, bytes]:
    """Name to content; what starts with ``bad_`` cannot be used, what starts with ``odd_`` can."""
    rgb = Image.fromarray(pixels(0))
    jpeg, png = encoded(rgb, 'JPEG', quality=95), encoded(rgb, 'PNG')
    frames = [Image.fromarray(pixels(i)) for i in range(3)]
    return {
        'bad_truncated.jpg': jpeg[: len(jpeg) // 2],
        'bad_truncated.png': png[: len(png) // 2],
        'bad_empty.jpg': b'',
        'bad_text.jpg': b'no image at all, just text',
        'bad_bomb.png': bomb(),
        'bad_pixel.png': encoded(Image.fromarray(pixels(1)[:1, :1]), 'PNG'),
        'bad_header.png': png[:10],
        'odd_cmyk.jpg': encoded(rgb.convert('CMYK'), 'JPEG'),
        'odd_grey.png': encoded(rgb.convert('L'), 'PNG'),
        'odd_palette.png': encoded(rgb.quantize(16), 'PNG'),
        'odd_16bit.png': encoded(Image.fromarray(pixels(2)[..., 0].astype(np.uint16) * 257), 'PNG'),
        'odd_alpha.png': encoded(rgb.convert('RGBA'), 'PNG'),
        'odd_animated.png': encoded(frames[0], 'PNG', save_all=True, append_images=frames[1:]),
        'odd_png_named.jpg': png,
    }


@pytest.fixture(scope='module')
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """133 good images and 7 bad ones, 5 %, among them."""
    root = tmp_path_factory.mktemp('images')
    files = bad_and_odd_files()
    for name, content in files.items():
        (root / name).write_bytes(content)
    for number in range(140 - len(files)):
        (root / f'good_{number:03}.jpg').write_bytes(encoded(Image.fromarray(pixels(number)), 'JPEG'))
    return root


def dataset_cfg(root: Path) -> dict:
    return dict(
        type='mmpl.UnlabelledFolder',
        data_root=str(root),
        pipeline=[
            dict(type='LoadImageFromFile'),
            dict(type='RandomResizedCrop', scale=16, crop_ratio_range=(0.3, 1.0)),
            dict(type='PackInputs'),
        ],
        _scope_='mmpretrain',
    )


NOTES = dict(
    cmyk=('cmyk',), grey=('greyscale',), palette=('palette',), alpha=('alpha',), animated=('animated',), png=()
) | {'16bit': ('16-bit',)}
KINDS = dict(
    truncated='truncated', empty='empty', text='not an image', bomb='too large', pixel='too small', header='truncated'
)


@pytest.mark.parametrize('full', [False, True])
def test_each_kind_is_known(folder: Path, full: bool) -> None:
    for name in bad_and_odd_files():
        verdict = inspect_image(folder / name, full=full)
        kind = name.split('_')[1].split('.')[0]
        if name.startswith('odd_'):
            assert verdict == ('', NOTES[kind], ()), name
        elif kind == 'header':
            assert verdict.bad.split(':')[0] in ('truncated', 'damaged', 'not an image'), name
        else:
            assert verdict.bad.startswith(KINDS[kind] + ':'), f'{name}: {verdict}'
    assert inspect_image(folder / 'good_000.jpg', full=full) == ImageVerdict()
    assert inspect_image(folder / 'nowhere.jpg').bad == 'vanished: no such file'
    assert inspect_image(folder / 'good_000.jpg', max_pixels=399).bad.startswith('too large: 20 x 20')


def test_a_jpeg_with_a_trailer_is_whole(tmp_path: Path) -> None:
    """Cameras put more behind the image's end than the quick look reads."""
    image = encoded(Image.fromarray(pixels(0)), 'JPEG')
    (tmp_path / 'a.jpg').write_bytes(image + bytes(10_000))
    assert inspect_image(tmp_path / 'a.jpg') == ImageVerdict()
    (tmp_path / 'b.jpg').write_bytes(image[: len(image) // 2] + bytes(10_000))
    # zeros where the rest should be: decodes to grey, and only a full decode may tell
    assert inspect_image(tmp_path / 'b.jpg', full=True) in (ImageVerdict(), inspect_image(tmp_path / 'b.jpg'))


def test_replacement_is_a_function_of_the_index(folder: Path, tmp_path: Path) -> None:
    first, second = (GuardedDataset(dataset_cfg(folder), report=str(tmp_path / f'{i}.jsonl')) for i in range(2))
    paths = [first.get_data_info(i)['img_path'] for i in range(len(first))]
    bad = [i for i, path in enumerate(paths) if '/bad_' in path]
    assert len(bad) == 7
    for index in reversed(range(len(first))):
        first[SeededIndex(index, seed=index)]
    for index in bad:
        a, b = first[SeededIndex(index, seed=5)], second[SeededIndex(index, seed=5)]
        assert (a['inputs'] == b['inputs']).all()
        stand_in = a['data_samples'].img_path
        assert '/bad_' not in stand_in and stand_in == b['data_samples'].img_path
        want = second[SeededIndex(paths.index(stand_in), seed=5)]['inputs']
        assert (a['inputs'] == want).all(), 'a failed attempt leaves no trace in the random states'
    entries = BadFileReport(str(tmp_path / '0.jsonl')).read()
    assert sorted(entry['path'] for entry in entries) == sorted(paths[i] for i in bad)
    # Loaded again and again, by new processes too: still once.
    third = GuardedDataset(dataset_cfg(folder), report=str(tmp_path / '0.jsonl'))
    for index in bad:
        third[index]
    assert len(BadFileReport(str(tmp_path / '0.jsonl')).read()) == 7


def test_a_file_that_vanishes_during_the_run(folder: Path, tmp_path: Path) -> None:
    copy = tmp_path / 'images'
    shutil.copytree(folder, copy)
    dataset = GuardedDataset(dataset_cfg(copy), report=str(tmp_path / 'report.jsonl'))
    paths = [dataset.get_data_info(i)['img_path'] for i in range(len(dataset))]
    index = next(i for i, path in enumerate(paths) if 'good_' in path)
    dataset[index]
    Path(paths[index]).unlink()
    dataset[index]
    (entry,) = BadFileReport(str(tmp_path / 'report.jsonl')).read()
    assert entry['path'] == paths[index] and entry['reason'].startswith('vanished')


def test_a_faulty_pipeline_is_not_taken_for_bad_files(folder: Path, tmp_path: Path) -> None:
    cfg = dataset_cfg(folder)
    cfg['pipeline'].insert(1, lambda results: results['no_such_field'])
    dataset = GuardedDataset(cfg, report=str(tmp_path / 'report.jsonl'))
    with pytest.raises(BadDataError, match='17 samples in a row .*a fault of the pipeline.*no_such_field') as error:
        dataset[100]
    assert isinstance(error.value.__cause__, KeyError)


@TRANSFORMS.register_module(force=True)
class LoadOwn(BaseTransform):
    """A loader of numpy's format, which no image library knows."""

    def transform(self, results: dict) -> dict:
        results['img'] = np.load(results['img_path'])
        results['img_shape'] = results['ori_shape'] = results['img'].shape[:2]
        return results


def test_files_of_an_own_loader_are_left_to_it(tmp_path: Path) -> None:
    root = tmp_path / 'arrays'
    root.mkdir()
    for number in range(30):
        np.save(root / f'{number:02}.npy', pixels(number))
    (root / '05.npy').write_bytes(b'')
    (root / '06.npy').write_bytes(b'text')
    cfg = dataset_cfg(root) | dict(extensions=['.npy'])
    cfg['pipeline'][0] = dict(type='mmpl.LoadOwn')
    dataset = GuardedDataset(cfg, report=str(tmp_path / 'r.jsonl'))
    for index in range(30):
        assert dataset[index]['data_samples'].img_path.endswith(f'{index:02}.npy') == (index not in (5, 6))
    reasons = [entry['reason'] for entry in BadFileReport(str(tmp_path / 'r.jsonl')).read()]
    assert reasons[0] == 'empty: 0 bytes' and reasons[1].startswith('not loaded: ')
    # by an image loader they are no images, and the error says how to have them left alone
    cfg['pipeline'][0] = dict(type='LoadImageFromFile')
    with pytest.raises(
        BadDataError, match='no known format. Files are looked at as Decoder.* a loading transform of your'
    ):
        GuardedDataset(cfg, report=str(tmp_path / 's.jsonl'))[0]


def test_parts_are_looked_at_by_their_own_loaders(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """Of a ConcatDataset, in training and by the check."""
    parts = []
    for name, load in (('a', dict(type='mmpl.LoadImage')), ('b', dict(type='mmpl.LoadImage', scaling=(0, 300)))):
        folder = tmp_path / name
        folder.mkdir()
        for number in range(3):
            Image.fromarray(pixels(number)).save(folder / f'{number}.png')
        (folder / '9.png').write_bytes((folder / '0.png').read_bytes()[:60])
        cfg = dataset_cfg(folder)
        parts.append(dict(cfg, pipeline=[load, *cfg['pipeline'][1:]]))
    cfg = dict(type='ConcatDataset', datasets=parts)
    dataset = GuardedDataset(cfg, report=str(tmp_path / 'r.jsonl'))
    assert [dataset._decoder_of(index).scaling for index in (0, 3, 4, 7)] == [None, None, (0, 300), (0, 300)]
    for index in range(len(dataset)):
        assert dataset[index]['inputs'] is not None
    assert [Path(e['path']).parent.name for e in BadFileReport(str(tmp_path / 'r.jsonl')).read()] == ['a', 'b']
    Config(dict(default_scope='mmpretrain', train_dataloader=dict(dataset=cfg))).dump(tmp_path / 'config.py')
    assert check_dataset([str(tmp_path / 'config.py'), '--workers', '1']) == 1
    assert '8 files, 2 bad' in capsys.readouterr().out


def test_the_check_leaves_files_of_an_own_loader_alone(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    root = tmp_path / 'arrays'
    root.mkdir()
    np.save(root / 'a.npy', pixels(0))
    (root / 'b.npy').write_bytes(b'')
    dataset = dict(
        type='mmpl.UnlabelledFolder', data_root=str(root), extensions=['.npy'], pipeline=[dict(type='mmpl.LoadOwn')]
    )
    config = tmp_path / 'config.py'
    Config(dict(default_scope='mmpretrain', train_dataloader=dict(dataset=dataset))).dump(config)
    assert check_dataset([str(config)]) == 1
    text = capsys.readouterr().out
    assert 'a loading transform of its own' in text and "b.npy': empty: 0 bytes" in text and '2 files, 1 bad' in text
    other = tmp_path / 'other arrays'
    other.mkdir()
    np.save(other / 'c.npy', pixels(0))
    assert check_dataset([str(config), '--cfg-options', f'train_dataloader.dataset.data_root={other}']) == 0
    assert '1 files, 0 bad' in capsys.readouterr().out


def test_fields_of_the_guard_that_do_not_exist_are_refused(folder: Path) -> None:
    with pytest.raises(TypeError, match=r'`train_cfg\.bad_files\.replace_bad` is not a field'):
        GuardedDataset(dataset_cfg(folder), replace_bad=False)


def sensor_folder(root: Path) -> Path:
    """15 images of 10 bits in files of 16, and one of less than 8."""
    root.mkdir()
    for number in range(16):
        high = 200 if number == 3 else 1000
        image = np.random.default_rng(number).integers(0, high, (SIDE, SIDE), dtype=np.uint16)
        (root / f'{number:02}.png').write_bytes(encoded(Image.fromarray(image), 'PNG'))
    return root


@pytest.mark.parametrize('kind', ['UnlabelledFolder', 'CustomDataset'])
def test_what_the_loader_loses_is_logged_once(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    cfg = dataset_cfg(sensor_folder(tmp_path / 'sensor'))
    if kind == 'CustomDataset':
        cfg |= dict(type=kind, with_label=False)
    monkeypatch.setattr(decode, '_said', set())
    run(tmp_path / 'work', dataset=cfg, loop=dict(bad_files=dict(max_share=0.1)), epochs=1, model=THREE_CHANNELS)
    text = logs_of(tmp_path / 'work')
    assert text.count('16-bit: its values, ') == 2, 'a warning, and the file of which nothing is left'
    (line,) = (line for line in text.splitlines() if 'Not all of each file is trained on' in line)
    assert re.search(
        r"become 0 to [34] of 255; see mmpl.LoadImage\(scaling='percentile'.*first seen in '.*\.png'", line
    )
    (entry,) = BadFileReport(str(tmp_path / 'work' / 'bad_files.jsonl')).read()
    assert entry['path'].endswith('03.png') and entry['reason'].startswith('nearly nothing left: 16-bit: its values, ')
    # with a scaling there is nothing to say
    cfg['pipeline'][0] = dict(type='mmpl.LoadImage', scaling='percentile')
    monkeypatch.setattr(decode, '_said', set())
    run(tmp_path / 'scaled', dataset=cfg, epochs=1, model=THREE_CHANNELS)
    assert logs_of(tmp_path / 'scaled').count('bit:') == 0


def test_an_empty_list_is_an_error(tmp_path: Path) -> None:
    (tmp_path / 'list.txt').write_text('')
    cfg = dict(
        type='CustomDataset', data_root=str(tmp_path), ann_file='list.txt', with_label=False, _scope_='mmpretrain'
    )
    with pytest.raises(
        ValueError, match=r"`train_dataloader.dataset` CustomDataset holds no sample: \{'ann_file': 'list.txt'"
    ):
        GuardedDataset(cfg)
    config = tmp_path / 'config.py'
    Config(dict(default_scope='mmpretrain', train_dataloader=dict(dataset=cfg))).dump(config)
    with pytest.raises(ValueError, match='holds no sample'):
        read_source(str(config))


def test_the_check_takes_limits_and_loader_from_the_config(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    cfg = dataset_cfg(sensor_folder(tmp_path / 'sensor')) | dict(type='CustomDataset', with_label=False)
    config = tmp_path / 'config.py'

    def check(*options: str, **limits: int) -> str:
        training = dict(train_dataloader=dict(dataset=cfg), train_cfg=dict(bad_files=dict(max_share=0.1, **limits)))
        Config(dict(default_scope='mmpretrain', **training)).dump(config)
        check_dataset([str(config), '--workers', '1', *options])
        return capsys.readouterr().out

    text = check()
    assert '16 files, 1 bad' in text and "03.png': nearly nothing left" in text and '16 16-bit' in text
    assert re.search(
        r'left out while loading, in 15 files: 16-bit: its values, \d+ to 9\d\d in .*first: .*00\.png', text
    )
    assert '16 files, 16 bad' in check(min_side=SIDE + 1)
    assert '16 files, 1 bad' in check('--min-side', '2', min_side=SIDE + 1)
    cfg['pipeline'][0] = dict(type='mmpl.LoadImage', scaling='image')
    text = check()
    assert '16 files, 0 bad' in text and 'left out' not in text
    cfg['pipeline'][0] = dict(type='LoadImageFromFile', imdecode_backend='tifffile')
    assert '16 files, 16 bad' in check(), 'by the eyes of that loader'


def test_a_report_that_was_cut_short(tmp_path: Path) -> None:
    report = BadFileReport(str(tmp_path / 'r.jsonl'))
    assert report.add(dict(path='a', reason='x')) and not report.add(dict(path='a', reason='y'))
    with open(report.path, 'a') as file:
        file.write('{"path": "b", "rea')
    assert report.add(dict(path='c\n"ä', reason='z')) and not report.add(dict(path='c\n"ä', reason='z'))
    assert [entry['path'] for entry in report.read()] == ['a', 'c\n"ä']


def refuse_locks(*_: object) -> None:
    raise OSError(errno.ENOLCK, 'No locks available')  # as Lustre without `-o flock`


@pytest.mark.parametrize('locks', [None, SimpleNamespace(flock=refuse_locks, LOCK_EX=2)], ids=['windows', 'lustre'])
def test_a_report_where_files_cannot_be_locked(locks: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bad_files, 'fcntl', locks)
    report = BadFileReport(str(tmp_path / 'r.jsonl'))
    assert report.add(dict(path='a', reason='x')) and not report.add(dict(path='a', reason='y'))
    with open(report.path, 'a') as file:  # another process at the same time, and two that cut each other short
        file.write('{"path": "a", "reason": "z"}\n{"path": {"path": "c"}\n')
    assert report.add(dict(path='b', reason='x'))
    assert [(entry['path'], entry['reason']) for entry in report.read()] == [('a', 'x'), ('b', 'x')]


@pytest.mark.parametrize('separator', ['/', '\\'])
def test_paths_inside_the_root_on_any_system(separator: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paths, 'os', SimpleNamespace(path={'/': posixpath, '\\': ntpath}[separator], sep=separator))
    root = separator.join(('C:', 'data', 'images'))
    assert paths.is_inside(separator.join((root, 'sub', 'a.png')), [root])
    assert not paths.is_inside(separator.join((root, '..', 'a.png')), [root])
    assert not paths.is_inside(root + '_2', [root])


THREE_CHANNELS = dict(
    data_preprocessor=dict(type='SelfSupDataPreprocessor', mean=[127.0] * 3, std=[60.0] * 3, bgr_to_rgb=True)
)
LOADER = dict(batch_size=10, num_workers=2, persistent_workers=True)


@pytest.mark.dist
def test_five_percent_bad_trains_when_allowed(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    kwargs = dict(dataset=dataset_cfg(folder), epochs=2, model=THREE_CHANNELS)
    run(tmp_path / 'work', loop=dict(bad_files=dict(max_share=0.05)), loader=LOADER, **kwargs)
    report = tmp_path / 'work' / 'bad_files.jsonl'
    entries = [json.loads(line) for line in report.read_text().splitlines()]
    assert {Path(e['path']).name for e in entries} == {n for n in bad_and_odd_files() if n.startswith('bad_')}
    assert len(entries) == 7
    text = capsys.readouterr().out
    for entry in entries:
        assert text.count(f'Bad file {entry["path"]!r}: {entry["reason"]}') == 1
    # no worker, the same weights
    run(tmp_path / 'b', loop=dict(bad_files=dict(max_share=0.05)), loader=dict(batch_size=10), **kwargs)
    assert differences(*(final_state(tmp_path / d / 'epoch_2.pth') for d in ('work', 'b'))) == []


def test_five_percent_bad_stops_by_default(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(BadDataError, match='2 of 140 images are bad, more than .*max_share. 0.01') as stop:
        run(tmp_path, dataset=dataset_cfg(folder), loader=dict(batch_size=1), epochs=2)
    for entry in BadFileReport(str(tmp_path / 'bad_files.jsonl')).read():
        assert f'{entry["path"]!r}: {entry["reason"]}' in str(stop.value)
    with pytest.raises(BadDataError, match='2 of 140 images are bad'):  # also when it is started again
        run(tmp_path, dataset=dataset_cfg(folder), loader=dict(batch_size=1), epochs=2)


def test_one_bad_file_of_few_does_not_stop_a_run(tmp_path: Path) -> None:
    assert [too_many(1, 58, share) for share in (0, 0.01, 0.1)] == [True, False, False]
    assert [too_many(bad, 200, 0.01) for bad in (0, 2, 3)] == [False, False, True]
    for number in range(19):
        (tmp_path / f'{number}.png').write_bytes(encoded(Image.fromarray(pixels(number)), 'PNG'))
    (tmp_path / 'empty.png').write_bytes(b'')
    run(tmp_path / 'work', dataset=dataset_cfg(tmp_path), loader=dict(batch_size=4), epochs=1, model=THREE_CHANNELS)
    assert len(BadFileReport(str(tmp_path / 'work' / 'bad_files.jsonl')).read()) == 1


@pytest.mark.parametrize('line', ['../secret.png', '/etc/hostname.png', 'sub/../../secret.png'])
def test_annotation_files_stay_inside_the_root(line: str, tmp_path: Path) -> None:
    root = tmp_path / 'root'
    root.mkdir()
    for path in (root / 'a.png', tmp_path / 'secret.png'):
        path.write_bytes(encoded(Image.fromarray(pixels(0)), 'PNG'))
    cfg = dict(type='CustomDataset', data_root=str(root), ann_file='list.txt', with_label=False, _scope_='mmpretrain')
    (root / 'list.txt').write_text('a.png\n./sub/../a.png\n')
    assert len(GuardedDataset(cfg)) == 2
    (root / 'list.txt').write_text(f'a.png\n{line}\n')
    with pytest.raises(PathOutsideRootError, match=r"list\.txt' names .*sample 1, img_path.*outside of"):
        GuardedDataset(cfg)
    (tmp_path / 'rooted').symlink_to(root)  # a link to where the data really is
    (root / 'list.txt').write_text('a.png\n')
    assert len(GuardedDataset(cfg | dict(data_root=str(tmp_path / 'rooted')))) == 1


@pytest.mark.dist
def test_check_dataset_finds_them_beforehand(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    out = tmp_path / 'bad.jsonl'
    assert check_dataset([str(folder), '--workers', '2', '--out', str(out)]) == 1
    found = [json.loads(line) for line in out.read_text().splitlines()]
    bad = sorted(name for name in bad_and_odd_files() if name.startswith('bad_'))
    assert [Path(entry['path']).name for entry in found] == bad
    text = capsys.readouterr().out
    assert '140 files, 7 bad (5.00%; --max-share 1.00%)' in text
    assert '1 16-bit, 1 alpha, 1 animated, 1 cmyk, 1 greyscale, 1 palette' in text
    assert check_dataset([str(folder), '--workers', '1', '--quick', '--max-share', '0.05']) == 0
    config = tmp_path / 'config.py'
    Config(dict(default_scope='mmpretrain', train_dataloader=dict(dataset=dataset_cfg(folder)))).dump(config)
    assert read_source(str(config)).files == read_source(str(folder)).files
    with pytest.raises(FileNotFoundError, match='neither a folder nor a config'):
        read_source(str(tmp_path / 'nowhere'))


def test_check_dataset_where_the_system_does_not_say_which_cores_are_ours(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr('os.sched_getaffinity')  # macOS
    monkeypatch.setattr('os.cpu_count', lambda: 1)
    assert check_dataset([str(folder), '--quick', '--max-share', '0.05']) == 0


def test_nothing_to_check_is_an_error(tmp_path: Path) -> None:
    (tmp_path / 'readme.txt').write_text('no image')
    with pytest.raises(SystemExit) as error:
        check_dataset([str(tmp_path)])
    assert re.search(
        rf'{str(tmp_path)!r} .*holds no image\. Looked for extensions \.bmp, \.jpeg, \.jpg', str(error.value.code)
    )
