"""Which files below a folder are images: the same for training and its check."""

import os
from pathlib import Path

import mmpretrain.datasets  # noqa: F401
import numpy as np
import pytest
from PIL import Image

from mmpl.apis.check_dataset import read_source
from mmpl.datasets import UnlabelledFolder, unlabelled_folder
from mmpl.datasets.listing import list_images
from mmpl.utils.fields import FieldTypeError


def images(folder: Path, *names: str) -> Path:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(path)
    return folder


def trained(root: Path, **kwargs) -> list[str]:
    dataset = UnlabelledFolder(data_root=str(root), pipeline=[], **kwargs)
    return [os.path.relpath(dataset.get_data_info(i)['img_path'], root) for i in range(len(dataset))]


def checked(root: Path) -> list[str]:
    return [os.path.relpath(path, root) for path in files_of(root)]


def files_of(root: Path | str) -> list[str]:
    (files,) = read_source(str(root)).files.values()
    return files


def test_links_are_followed_and_nothing_else_is_an_image(tmp_path: Path) -> None:
    store = images(tmp_path / 'store', 'b.png', 'deep/c.PNG')
    root = images(tmp_path / 'root', 'a.png', 'folder.jpg/d.png', '._a.png', '.thumbnails/a.png')
    (root / 'site').symlink_to(store)
    (root / 'one.jpg').symlink_to(images(tmp_path / 'other', 'e.jpg') / 'e.jpg')
    (root / 'gone.png').symlink_to(tmp_path / 'nowhere.png')
    (root / 'notes.txt').write_text('x')
    want = ['a.png', 'folder.jpg/d.png', 'one.jpg', 'site/b.png', 'site/deep/c.PNG']
    assert trained(root) == checked(root) == want
    assert list_images(str(root), ('.png', '.jpg')).passed_over() == (
        "files of other kinds (1 .txt), 1 links that lead nowhere (such as 'gone.png')"
    )
    only = tmp_path / 'only'
    only.mkdir()
    (only / 'site').symlink_to(store)
    assert trained(only) == checked(only) == ['site/b.png', 'site/deep/c.PNG']
    relative = os.path.relpath(only)
    assert len(files_of(relative)) == 2, 'a relative root'


def test_what_two_paths_reach_is_listed_once(tmp_path: Path) -> None:
    root = images(tmp_path / 'root', 'z/1.png', 'z/2.png')
    (root / 'z' / 'loop').symlink_to(root)
    (root / 'a').symlink_to(root / 'z')  # before what it leads to
    (root / 'b.png').symlink_to(root / 'z' / '1.png')
    (root / 'self').symlink_to('self')
    store = images(tmp_path / 'store', '3.png')
    for name in ('c', 'd'):
        (root / name).symlink_to(store)
    assert trained(root) == checked(root) == ['c/3.png', 'z/1.png', 'z/2.png']
    found = list_images(str(root), ('.png',))
    assert found.repeated == ['a', 'b.png', 'd', 'z/loop'] and found.dangling == ['self']
    links = tmp_path / 'links'  # one to a file before the one to its folder
    links.mkdir()
    (links / 'a.png').symlink_to(store / '3.png')
    (links / 'more').symlink_to(store)
    assert trained(links) == ['a.png'] and list_images(str(links), ('.png',)).repeated == ['more/3.png']
    (tmp_path / 'link').symlink_to(root)
    assert trained(tmp_path / 'link') == ['c/3.png', 'z/1.png', 'z/2.png'], 'the root may be a link'


def test_a_folder_that_cannot_be_read_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = images(tmp_path, 'a.png', 'private/b.png')
    scan = os.scandir

    def refuse(path: str) -> object:
        if str(path).endswith('private'):
            raise PermissionError(13, 'Permission denied', path)
        return scan(path)

    monkeypatch.setattr('os.scandir', refuse)
    for read in (trained, checked):
        with pytest.raises(PermissionError, match="the folder '.*private' cannot be read .Permission denied.: give"):
            read(root)


def test_no_image_but_others(tmp_path: Path) -> None:
    for name in ('a.dcm', 'b.DCM', 'c.npy', 'd', 'e.txt', 'f.nii.gz', 'g.jp2', 'h.csv'):
        (tmp_path / name).write_bytes(b'x')
    with pytest.raises(
        ValueError, match=r'holds no image\. .*There are files of other kinds \(2 \.dcm, 1 .* and 2 more kinds\)'
    ):
        trained(tmp_path)
    assert trained(tmp_path, extensions=['.dcm']) == ['a.dcm', 'b.DCM']


def test_the_log_says_how_many_images_there_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines: list[str] = []
    monkeypatch.setattr(unlabelled_folder, 'print_log', lambda text, logger: lines.append(text))
    trained(images(tmp_path, 'a.png', 'b.png'))
    (tmp_path / 'c.heic').write_bytes(b'x')
    trained(tmp_path)
    where = f'2 images below {str(tmp_path) + os.sep!r}'
    assert lines == [where, f'{where}; passed over: files of other kinds (1 .heic)']


@pytest.mark.parametrize('root', [None, 5, ['a']])
def test_a_root_that_is_no_string_is_named(root: object) -> None:
    with pytest.raises(FieldTypeError, match='`data_root` must be a string, the path of a folder, but got '):
        UnlabelledFolder(data_root=root, pipeline=[])
    with pytest.raises(ValueError, match="`data_root` must be the path of a folder, but got ''"):
        UnlabelledFolder(pipeline=[])


def test_a_list_of_files(tmp_path: Path) -> None:
    images(tmp_path, 'a.jpg', 'b/c.PNG', 'b/d.jpg')
    (tmp_path / 'list.txt').write_text('# half of them\nb/c.PNG\n\n  a.jpg \n')
    assert trained(tmp_path, ann_file='list.txt') == ['b/c.PNG', 'a.jpg']
    assert trained(tmp_path, ann_file=str(tmp_path / 'list.txt')) == ['b/c.PNG', 'a.jpg']
    (tmp_path / 'list.txt').write_bytes(b'\xef\xbb\xbfb/c.PNG\r\na.jpg\r\n')  # as editors of Windows write it
    assert trained(tmp_path, ann_file='list.txt') == ['b/c.PNG', 'a.jpg']
    (tmp_path / 'below.txt').write_text('d.jpg\n')
    assert trained(tmp_path, ann_file='below.txt', data_prefix='b') == ['b/d.jpg']


@pytest.mark.parametrize(
    ('text', 'said'),
    [
        ('a.jpg\nb.jpg\na.jpg\n', r"list.txt', line 3: 'a.jpg' stands in line 1 already"),
        ('/etc/a.jpg\n', r"line 1: '/etc/a.jpg' must be relative to the folder"),
        ('../a.jpg\n', r'outside of'),
        ('a.jpg\nnotes.txt\n', r"line 2: 'notes.txt' must end in one of `extensions`"),
        ('# nothing\n', r'names no image'),
        (b'caf\xe9.jpg\n', r"list.txt' is no text in UTF-8 \(.* at byte 3\)"),
    ],
)
def test_lists_that_are_refused(text: str | bytes, said: str, tmp_path: Path) -> None:
    images(tmp_path / 'root', 'a.jpg', 'b.jpg')
    (tmp_path / 'root' / 'list.txt').write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ValueError, match=said):
        trained(tmp_path / 'root', ann_file='list.txt')
    with pytest.raises(FileNotFoundError):
        trained(tmp_path / 'root', ann_file='nowhere.txt')
