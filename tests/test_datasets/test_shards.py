"""Tar files as shards: names, bad members, shards that change, and what is refused."""

import io
import os
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.registry import DATASETS, init_default_scope
from PIL import Image

from mmpl.apis.check_dataset import main as check
from mmpl.datasets import GuardedDataset, ShardDataset, UnlabelledFolder
from mmpl.datasets.shards import find_shards
from mmpl.datasets.tar_files import ShardError, member_path
from tests.test_datasets.sources import COUNT, PIPELINE, add, content, write_folder, write_shards


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    init_default_scope('mmpretrain')
    write_shards(tmp_path / 'shards')
    return tmp_path / 'shards'


def test_what_webdataset_writes(tmp_path: Path) -> None:
    """Its own writer's shards, read by its own reader too."""
    webdataset = pytest.importorskip('webdataset')
    init_default_scope('mmpretrain')
    with webdataset.ShardWriter(str(tmp_path / 'w-%06d.tar'), maxcount=10, verbose=0) as writer:
        for number in range(COUNT):
            writer.write({'__key__': f'sample{number:03}', ('jpg', 'png')[number % 2]: content(number), 'cls': 1})
    pattern = str(tmp_path / 'w-{000000..000002}.tar')
    ours = ShardDataset(pattern, [dict(type='mmpl.LoadImage')])
    theirs = list(webdataset.WebDataset(pattern, shardshuffle=False))
    assert len(ours) == len(theirs) == COUNT
    for index, sample in enumerate(theirs):
        image = next(sample[ending] for ending in ('jpg', 'png') if ending in sample)
        pixels = np.asarray(Image.open(io.BytesIO(image)).convert('RGB')).astype(int)
        assert np.abs(ours[index]['img'][..., ::-1] - pixels).max() <= 3  # two JPEG decoders


def test_names_of_shards(shards: Path) -> None:
    whole = [str(shards / f'train-{number:06}.tar') for number in range(3)]
    for asked in (shards, f'{shards}/*.tar', f'{shards}/train-{{000000..000002}}.tar', whole[::-1], [shards, *whole]):
        assert find_shards(asked) == whole
    assert find_shards(f'{shards}/train-{{000001..000002}}.tar') == whole[1:]
    with pytest.raises(FileNotFoundError, match='train-000003.tar'):
        find_shards(f'{shards}/train-{{000000..000003}}.tar')


def test_bad_members_are_replaced_and_found_by_the_check(shards: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A JPEG that is cut off is one that OpenCV would fill with grey without a word."""
    bad = shards / 'bad' / 'b.tar'
    bad.parent.mkdir()
    with tarfile.open(bad, 'w') as tar:
        for number in range(12):
            add(tar, f'{number:03}.{("jpg", "png")[number % 2]}', content(number)[: 400 if number == 4 else None])
        add(tar, 'empty.jpg', b'')
    report = shards / 'bad.jsonl'
    dataset = GuardedDataset(dict(type='mmpl.ShardDataset', shards=str(bad), pipeline=PIPELINE), report=str(report))
    for index in range(len(dataset)):
        assert dataset[index]['inputs'].shape == (3, 16, 16)
    text = report.read_text()
    assert text.count('\n') == 2 and f'{member_path(str(bad), "004.jpg")}"' in text and 'truncated' in text
    assert f'{member_path(str(bad), "empty.jpg")}"' in text and 'empty: 0 bytes' in text
    config = shards / 'config.py'
    config.write_text(
        "default_scope = 'mmpretrain'\n"
        f'train_dataloader = dict(dataset=dict(type="mmpl.ShardDataset", shards={str(bad)!r}, pipeline={PIPELINE}))\n'
    )
    assert check([str(config)]) == 1
    said = capsys.readouterr().out
    assert 'b.tar::004.jpg' in said and 'b.tar::empty.jpg' in said and '000.jpg' not in said


@pytest.mark.parametrize(
    ('name', 'said'),
    [
        ('cut', 'is no whole tar file|is truncated'),
        ('cut between members', 'has no end-of-archive mark'),
        ('a damaged header', 'has no end-of-archive mark'),
        ('compressed', 'is no whole tar file .*compressed'),
        ('text', 'is no whole tar file'),
        ('twice', "holds '000.jpg' twice"),
        ('two images', "sample '000' has two images, '000.jpg' and '000.png'"),
        ('no image', 'hold no image. Looked for .*; there are 1 .txt'),
    ],
)
def test_what_is_refused(name: str, said: str, tmp_path: Path) -> None:
    init_default_scope('mmpretrain')
    path = tmp_path / 'a.tar'
    with tarfile.open(path, 'w:gz' if name == 'compressed' else 'w') as tar:
        names = {'twice': ['000.jpg', '000.jpg'], 'two images': ['000.jpg', '000.png'], 'no image': ['a.txt']}
        for member in names.get(name, ['000.jpg', '001.jpg']):
            add(tar, member, content(0))
    if name == 'cut':
        path.write_bytes(path.read_bytes()[:2000])
    elif name.startswith(('cut b', 'a damaged')):  # tarfile ends there as if all was well
        with tarfile.open(path) as tar:
            second = tar.getmembers()[1].offset
        data = path.read_bytes()
        path.write_bytes(data[:second] + (b'' if name.startswith('cut') else b'x' * 20 + data[second + 20 :]))
    elif name == 'text':
        path.write_text('no tar at all')
    with pytest.raises(ValueError, match=said):
        ShardDataset(str(path), PIPELINE)
    assert issubclass(ShardError, ValueError)


def test_links_in_shards(tmp_path: Path) -> None:
    """One to a file before it is that file; one to elsewhere is refused."""
    init_default_scope('mmpretrain')
    for kind in (tarfile.LNKTYPE, tarfile.SYMTYPE):
        path = tmp_path / f'{int(kind)}.tar'
        with tarfile.open(path, 'w') as tar:
            add(tar, '000.jpg', content(0))
            link = tarfile.TarInfo('001.jpg')
            link.type, link.linkname = kind, '000.jpg'
            tar.addfile(link)
            add(tar, '002.jpg', content(2))
            other = tarfile.TarInfo('latest')
            other.type, other.linkname = tarfile.SYMTYPE, '.'
            tar.addfile(other)  # is no image
        if kind == tarfile.SYMTYPE:
            with pytest.raises(ShardError, match="holds '001.jpg', a link"):
                ShardDataset(str(path), PIPELINE)
        else:
            images = [sample['img'] for sample in ShardDataset(str(path), [dict(type='mmpl.LoadImage')])]
            assert len(images) == 3 and np.array_equal(images[0], images[1]) and (images[0] != images[2]).any()


def test_a_mask_beside_an_image_is_none(tmp_path: Path) -> None:
    init_default_scope('mmpretrain')
    with tarfile.open(tmp_path / 'a.tar', 'w') as tar:
        for member in ('x/000.jpg', 'x/000.seg.png', 'y/000.JPG'):
            add(tar, member, content(0))
    paths = [ShardDataset(str(tmp_path), PIPELINE).get_data_info(i)['img_path'] for i in range(2)]
    assert [path.rpartition('::')[2] for path in paths] == ['x/000.jpg', 'y/000.JPG']


def test_a_shard_that_changes_is_read_as_it_is(shards: Path) -> None:
    """Its index is of the file as it was: one that was written anew is indexed anew, and what is gone is missed."""
    dataset = DATASETS.build(dict(type='mmpl.ShardDataset', shards=str(shards), pipeline=PIPELINE))
    path = shards / 'train-000000.tar'
    with tarfile.open(path, 'w') as tar:
        add(tar, 'new.txt', b'x' * 600)
        add(tar, '001.png', content(7))
    os.utime(path, ns=(1, 1))
    write_folder(shards / 'folder')
    (shards / 'folder' / '001.png').write_bytes(content(7))
    folder = UnlabelledFolder(str(shards / 'folder'), pipeline=PIPELINE)
    pixels = []
    for reader in (dataset, folder):
        np.random.seed(0)
        pixels.append(reader[1]['inputs'])
    assert torch.equal(*pixels)
    with pytest.raises(FileNotFoundError, match=r"holds no '000.jpg': was it changed since the run started"):
        dataset[0]
