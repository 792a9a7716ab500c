"""Class folders of the user's own in the comparison of methods."""

import itertools
import shutil
from pathlib import Path

import numpy as np
import pytest
from mmengine.config import Config
from PIL import Image

from bench.own_data import class_folders
from compare_methods import Bench, Run, add_own_data

ROOT = Path(__file__).resolve().parents[2]


UNIQUE = itertools.count()


def write(folder: Path, count: int, value: int) -> None:
    """Images of 40 x 30 in two brightnesses; the left and the right tenth, which a square leaves out, are white.

    A pixel in the corner makes each another one.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        image = np.full((30, 40, 3), value + 10 * (number % 2), np.uint8)
        image[:, :4] = image[:, -4:] = 255
        image[0, 0, :2] = divmod(next(UNIQUE), 256)
        Image.fromarray(image).save(folder / f'{number}.png')


def files(data: dict) -> dict[str, list[str]]:
    return {s: sorted(str(p.relative_to(f)) for p in Path(f).rglob('*.png')) for s, f in data['folders'].items()}


def pixels(folder: str) -> np.ndarray:
    return np.concatenate([np.asarray(Image.open(p), np.float64).ravel() for p in Path(folder).rglob('*.png')])


def test_a_folder_without_splits(tmp_path: Path) -> None:
    for name, count in dict(a=50, b=20, c=5).items():
        write(tmp_path / 'own' / name, count, ord(name))
    data = class_folders('own', tmp_path / 'own', 16, tmp_path / 'cache')
    counts = {split: {c: sum(f.startswith(c) for f in found) for c in 'abc'} for split, found in files(data).items()}
    assert counts == dict(
        train=dict(a=30, b=12, c=3), few=dict(a=3, b=1, c=1), val=dict(a=10, b=4, c=1), test=dict(a=10, b=4, c=1)
    )
    values = pixels(data['folders']['train'])
    assert (data['mean'], data['std']) == (
        pytest.approx(values.mean(), abs=0.01),
        pytest.approx(values.std(), abs=0.01),
    )
    assert data['num_classes'] == 3 and values.max() < 255
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / 'cache').rglob('*.png')}
    assert class_folders('own', tmp_path / 'own', 16, tmp_path / 'cache') == data
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / 'cache').rglob('*.png')} == before
    (tmp_path / 'own' / '.ipynb_checkpoints').mkdir()
    (tmp_path / 'own' / 'a' / '.copies').mkdir()
    Image.new('RGB', (40, 30)).save(tmp_path / 'own' / 'a' / '.copies' / '0-checkpoint.png')
    assert class_folders('own', tmp_path / 'own', 16, tmp_path / 'cache') == data, 'what is hidden is no image'
    (tmp_path / 'own' / 'a' / '0.png').unlink()
    assert class_folders('own', tmp_path / 'own', 16, tmp_path / 'cache')['digest'] != data['digest']


def test_an_image_that_changes_is_another_one_whatever_its_size(tmp_path: Path) -> None:
    for name in 'ab':
        write(tmp_path / 'own' / name, 20, 0)
        for path in (tmp_path / 'own' / name).iterdir():
            Image.open(path).save(path.with_suffix('.bmp'))
            path.unlink()
    first = class_folders('own', tmp_path / 'own', 16, tmp_path / 'cache')
    for path in (tmp_path / 'own').rglob('*.bmp'):
        size = path.stat().st_size
        image = Image.new('RGB', (40, 30), (7, 7, 7))
        image.putpixel((0, 0), (next(UNIQUE) % 256, 0, ord(path.parent.name)))
        image.save(path)
        assert path.stat().st_size == size
    second = class_folders('own', tmp_path / 'own', 16, tmp_path / 'cache')
    assert second['mean'] == 7 != first['mean'] and second['digest'] != first['digest']


@pytest.mark.parametrize('given', [False, True])
def test_copies_are_in_one_split_alone(given: bool, tmp_path: Path, capsys) -> None:
    """Twenty images a class, each with a copy; or those of a test split in the training images too."""
    rng = np.random.default_rng(0)
    for name in 'ab':
        for split in ['train', 'test'] if given else ['']:
            (tmp_path / 'own' / split / name).mkdir(parents=True)
        for number in range(20):
            picture = Image.fromarray(rng.integers(0, 255, (16, 16, 3), dtype=np.uint8))
            for path in ('train/{}/x{}.png', 'test/{}/{}.png') if given else ('{}/{}.png', '{}/{} (copy).png'):
                if not (given and path.startswith('test') and number < 15):
                    picture.save(tmp_path / 'own' / path.format(name, number))
    data = class_folders('own', tmp_path / 'own', 16, tmp_path / 'cache')
    seen = {split: {p.read_bytes() for p in Path(data['folders'][split]).rglob('*.png')} for split in files(data)}
    assert {split: len(found) for split, found in seen.items()} == (
        dict(train=22, few=2, val=8, test=10) if given else dict(train=24, few=2, val=8, test=8)
    )
    assert not seen['train'] & seen['val'] and not (seen['train'] | seen['val']) & seen['test']
    assert f'own: {10 if given else 40} images are left out, copies of others, such as ' in capsys.readouterr().out


def test_copies_in_training_images_that_are_still_to_be_split(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for place in ('train/a/{}.png', 'train/b/{}.png', 'test/a/{}.png', 'test/b/{}.png'):
        for number in range(20):
            path = tmp_path / 'own' / place.format(number)
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(0, 255, (16, 16, 3), dtype=np.uint8)).save(path)
            if place.startswith('train'):
                path.with_stem(f'{number}-copy').write_bytes(path.read_bytes())
    data = class_folders('own', tmp_path / 'own', 16, tmp_path / 'cache')
    seen = {split: [p.read_bytes() for p in Path(data['folders'][split]).rglob('*.png')] for split in ('train', 'val')}
    assert {split: len(found) for split, found in seen.items()} == dict(train=30, val=10)
    assert len({*seen['train'], *seen['val']}) == 40


def test_more_than_eight_bits_are_scaled_as_in_pre_training(tmp_path: Path) -> None:
    for name in 'ab':
        (tmp_path / 'own' / name).mkdir(parents=True)
        for number in range(5):
            ramp = np.linspace(0, 60000, 32 * 32).reshape(32, 32).astype(np.uint16)
            ramp[-1, -1] -= next(UNIQUE) % 200
            Image.fromarray(ramp).save(tmp_path / 'own' / name / f'{number}.png')
    data = class_folders('own', tmp_path / 'own', 32, tmp_path / 'cache')
    values = pixels(data['folders']['test'])
    assert (values.min(), values.max()) == (0, pytest.approx(233, abs=1)) and len(set(values)) > 200
    Image.fromarray(np.linspace(0, 1, 1024, dtype=np.float32).reshape(32, 32)).save(tmp_path / 'own' / 'a' / 'x.tiff')
    with pytest.raises(ValueError, match=r'a/x\.tiff cannot be read: .*scaling'):
        class_folders('own', tmp_path / 'own', 32, tmp_path / 'cache')


def test_splits_share_no_image_and_follow_from_the_names(tmp_path: Path) -> None:
    for root in ('one', 'two'):
        for name in 'ab':
            write(tmp_path / root / name, 20, 0)
            for number, path in enumerate(sorted((tmp_path / root / name).iterdir())):
                Image.fromarray(np.full((8, 8, 3), 10 * number + (name == 'b'), np.uint8)).save(path)
    seen = []
    for root in ('one', 'two'):
        folders = class_folders('own', tmp_path / root, 8, tmp_path / f'cache_{root}')['folders']
        seen.append({split: set(pixels(folders[split]).tolist()) for split in folders})
    assert seen[0] == seen[1]
    train, few, val, test = (seen[0][split] for split in ('train', 'few', 'val', 'test'))
    assert few < train and not train & val and not train & test and not val & test
    assert len(train | val | test) == 40


@pytest.mark.parametrize(
    ('first', 'second'), [('train', 'val'), ('train', 'test'), ('Training', 'Testing'), ('train', 'validation')]
)
def test_given_splits_are_kept(first: str, second: str, tmp_path: Path) -> None:
    for name in 'ab':
        write(tmp_path / 'own' / first / name, 16, 0)
        write(tmp_path / 'own' / second / name, 6, 200)
    data = class_folders('own', tmp_path / 'own', 16, tmp_path / 'cache')
    assert {split: len(found) for split, found in files(data).items()} == dict(train=24, few=2, val=8, test=12)
    assert pixels(data['folders']['test']).min() > 190 and pixels(data['folders']['val']).max() < 100


@pytest.mark.parametrize(
    ('classes', 'message'),
    [
        ({}, 'two at least'),
        (dict(a=9), 'two at least'),
        (dict(a=9, b=2), r"lacks images of \['b'\]"),
        ({'train/a': 9, 'train/b': 9, 'unsorted/c': 9}, r"\['train'\] alone is no split"),
        ({f'{split}/{name}': 9 for split in ('train', 'val', 'valid') for name in 'ab'}, "has 'val' and 'valid'"),
        (None, 'no such'),
        ({'a': 9, 'b': 9, '.': 1}, r"own/0\.png is beside \['a', 'b'\], but in none of them"),
        ({f'{split}/{name}': 9 for split in ('train', 'test') for name in 'ab'} | {'bird': 9}, 'own/bird is beside'),
    ],
)
def test_refusals(classes: dict | None, message: str, tmp_path: Path) -> None:
    if classes is not None:
        (tmp_path / 'own').mkdir()
        for name, count in classes.items():
            write(tmp_path / 'own' / name, count, 0)
    with pytest.raises(ValueError, match=message):
        class_folders('own', tmp_path / 'own', 16, tmp_path / 'cache')


def test_a_class_without_images_is_refused_and_other_files_are_named(tmp_path: Path, capsys) -> None:
    for name in 'ab':
        write(tmp_path / 'own' / name, 9, 0)
    (tmp_path / 'own' / 'b' / 'x.gif').write_bytes(b'GIF89a')
    class_folders('own', tmp_path / 'own', 16, tmp_path / 'cache')
    assert 'own/b: files of other kinds (1 .gif) are left out' in capsys.readouterr().out
    (tmp_path / 'own' / 'bird').mkdir()
    (tmp_path / 'own' / 'bird' / 'x.gif').write_bytes(b'GIF89a')
    with pytest.raises(ValueError, match='own/bird is a class without an image: images end in .jpg'):
        class_folders('own', tmp_path / 'own', 16, tmp_path / 'cache')
    (tmp_path / 'own' / 'bird' / 'x.gif').unlink()
    (tmp_path / 'own' / 'bird' / 'x.png').symlink_to(tmp_path / 'nowhere')
    with pytest.raises(ValueError, match='own/bird is a class without an image'):
        class_folders('own', tmp_path / 'own', 16, tmp_path / 'cache')


def test_copies_of_images_that_test_are_not_trained_on(tmp_path: Path) -> None:
    """Val tests where there is no test, and keeps its images."""
    for name in 'ab':
        write(tmp_path / 'own' / 'train' / name, 16, 0)
        write(tmp_path / 'own' / 'val' / name, 6, 200)
    shutil.copy(tmp_path / 'own' / 'val' / 'a' / '0.png', tmp_path / 'own' / 'train' / 'a' / 'copy.png')
    data = class_folders('own', tmp_path / 'own', 16, tmp_path / 'cache')
    assert {split: len(found) for split, found in files(data).items()} == dict(train=24, few=2, val=8, test=12)


def test_too_few_images_for_knn(tmp_path: Path) -> None:
    for name in 'ab':
        write(tmp_path / 'own' / name, 9, 0)
    config = Config.fromfile(ROOT / 'configs/benchmarks/compare_methods.py')
    with pytest.raises(ValueError, match=r'kNN asks the 20 nearest training images .* but there are 10'):
        add_own_data(config, [f'mine={tmp_path / "own"}'], tmp_path)


def test_an_image_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    for name in 'ab':
        write(tmp_path / 'own' / name, 5, 0)
    (tmp_path / 'own' / 'b' / '3.png').write_bytes(b'')
    with pytest.raises(ValueError, match=r'b/3\.png cannot be read'):
        class_folders('own', tmp_path / 'own', 16, tmp_path / 'cache')


@pytest.mark.parametrize('given', ['mine', '=x', 'surfaces=x', 'a-b=x', 'mine='])
def test_names(given: str, tmp_path: Path) -> None:
    config = Config.fromfile(ROOT / 'configs/benchmarks/compare_methods.py')
    with pytest.raises(ValueError, match='--data must be NAME=FOLDER'):
        add_own_data(config, [given], tmp_path)


def test_a_run(tmp_path: Path) -> None:
    """MAE on two classes that brightness tells apart."""
    for name, value in dict(dark=0, light=120).items():
        write(tmp_path / 'own' / name, 120, value)
    config = Config.fromfile(ROOT / 'configs/benchmarks/compare_methods.py')
    config.images, config.curve_points = 256, 1
    add_own_data(config, [f'own={tmp_path / "own"}'], tmp_path / 'cache')
    bench = Bench(config, tmp_path / 'runs', tmp_path / 'work')
    methods = {'random', 'mae', 'simmim', 'green_mim', 'pl_mae', 'msa', 'sdae', 'mixed_ae', 'cae'}
    assert {run.method for run in bench.plan() if run.data == 'own'} == methods
    assert 'sdae' not in {run.method for run in bench.plan() if run.data == 'digits'}
    result = bench.execute(Run('mae', 'own', 'images', 0))
    assert result['knn'] == result['linear'] == 100
