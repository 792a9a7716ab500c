"""The one lister: which files below a folder are images."""

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from mmengine import fileio
from mmengine.fileio import get_file_backend
from mmengine.fileio.backends import LocalBackend

_SHOWN = 5  # kinds of other files in a message
SPLITS = dict(  # split -> what folders of it are called, in lower case
    train=('train', 'training', 'train2017'),
    val=('val', 'valid', 'validation', 'val2017'),
    test=('test', 'testing'),
)


@dataclass
class Listing:
    """What is below a folder.

    Attributes:
        files: Relative paths of the images, sorted.
        others: How many other files there are, by ending.
        dangling: Links that lead nowhere.
        repeated: Links to files and folders that are listed by another path.
    """

    files: list[str] = field(default_factory=list)
    others: Counter[str] = field(default_factory=Counter)
    dangling: list[str] = field(default_factory=list)
    repeated: list[str] = field(default_factory=list)

    def passed_over(self) -> str:
        """What is not among the images, in words; empty if all is."""
        kinds = ', '.join(
            f'{count} {ending or "without an ending"}' for ending, count in self.others.most_common(_SHOWN)
        )
        more = f' and {len(self.others) - _SHOWN} more kinds' if len(self.others) > _SHOWN else ''
        parts = [f'files of other kinds ({kinds}{more})'] if self.others else []
        for name, links in (
            ('links that lead nowhere', self.dangling),
            ('links to what is there already', self.repeated),
        ):
            if links:
                parts.append(f'{len(links)} {name} (such as {links[0]!r})')
        return ', '.join(parts)


def list_images(root: str, extensions: Sequence[str]) -> Listing:
    """List the images in a folder and all folders below it.

    Links to folders and files are followed; what is reached by two paths is listed once, by the one that is no link, so
    neither loops nor links to the same place repeat an image. What is hidden (its name starts with a dot), is left out,
    files and folders alike. The order is that of the relative paths, the same on every machine.

    Args:
        root: The folder, local or of any backend of mmengine; of links only local ones know.
        extensions: Endings that count as images, in lower case; names may have either.

    Raises:
        PermissionError: A folder cannot be read: to train on the rest without a word would be wrong.
    """
    found = Listing()
    backend = get_file_backend(root, enable_singleton=True)
    if not isinstance(backend, LocalBackend):
        for name in backend.list_dir_or_file(root, list_dir=False, list_file=True, recursive=True):
            _add(found, name, extensions)
        found.files.sort()
        return found
    folders: list[tuple[str, str]] = [(root, '')]  # path, and relative path
    links: list[tuple[str, str]] = []  # followed when all that needs no link is listed
    entered: set[str] = set()
    reached: set[str] = set()
    while folders or links:
        linked = not folders
        path, name = folders.pop() if folders else links.pop(0)
        real = os.path.realpath(path)
        if linked and not os.path.isdir(path):
            if not os.path.exists(path):
                found.dangling.append(name)
            elif real in reached:
                found.repeated.append(name)
            else:
                reached.add(real)
                _add(found, name, extensions)
            continue
        if real in entered:
            found.repeated.append(name)
            continue
        entered.add(real)
        for entry in _entries(path):
            below = os.path.join(name, entry.name) if name else entry.name
            if entry.name.startswith('.'):
                continue
            if entry.is_symlink():
                links.append((os.path.join(path, entry.name), below))
            elif entry.is_dir():
                folders.append((os.path.join(path, entry.name), below))
            elif entry.is_file():
                place = os.path.join(real, entry.name)
                if place in reached:  # by a link to the file
                    found.repeated.append(below)
                    continue
                reached.add(place)
                _add(found, below, extensions)
        links.sort()
    found.files.sort()
    return found


def split_folders(root: str | os.PathLike) -> dict[str, str]:
    """Which folders in a folder are splits, by their names in any case: split ('train', 'val', 'test') -> name.

    Raises:
        ValueError: Two of them are the same split.
    """
    found: dict[str, str] = {}
    for name in sorted(os.listdir(root)):
        split = next((split for split, names in SPLITS.items() if name.lower() in names), None)
        if split is None or not os.path.isdir(os.path.join(root, name)):
            continue
        if split in found:
            raise ValueError(
                f'{os.fspath(root)!r} has {found[split]!r} and {name!r}: which is the {split} part? Keep one'
            )
        found[split] = name
    return found


def read_lines(path: str) -> list[str]:
    """Lines of a text file in UTF-8, with or without the mark that editors of Windows put before it.

    Raises:
        ValueError: It has another encoding.
    """
    try:
        return fileio.get_text(path, encoding='utf-8-sig').splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(
            f'{path!r} is no text in UTF-8 ({error.reason} at byte {error.start}): save it as such'
        ) from error


def _add(found: Listing, name: str, extensions: Sequence[str]) -> None:
    if name.lower().endswith(tuple(extensions)):
        found.files.append(name)
    else:
        found.others[os.path.splitext(name)[1].lower()] += 1


def _entries(path: str) -> Iterator[os.DirEntry[str]]:
    try:
        with os.scandir(path) as entries:
            yield from entries
    except PermissionError as error:
        raise PermissionError(
            f'the folder {path!r} cannot be read ({error.strerror}): give the right to, or move it out of the images'
        ) from error
