"""Pre-training on shards, tar files of images as WebDataset writes them, with random access.

A member of a shard has a path of its own (:mod:`mmpl.datasets.tar_files`), by which everything here that reads image
files reads it too: loaders, the guard against bad files, the check. So shuffling, resuming and ranks are a folder's.
"""

import glob
import itertools
import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from mmengine.logging import print_log
from mmpretrain.datasets import BaseDataset

from mmpl.registry import DATASETS

from .tar_files import LINK, ShardError, index_of, member_path
from .transforms.load_image import check_channels
from .unlabelled_folder import EXTENSIONS

_RANGE = re.compile(r'\{(\d+)\.\.(\d+)\}')


def find_shards(shards: str | os.PathLike | Sequence[str]) -> list[str]:
    """Absolute paths of shards, sorted.

    Args:
        shards: One or several of: a tar file; a folder of ``*.tar``; a pattern with ``*``, or with a range of numbers
            as WebDataset's, ``train-{000000..000146}.tar``.

    Raises:
        FileNotFoundError: A file or folder does not exist, or a pattern finds nothing.
    """
    found: list[str] = []
    for item in [shards] if isinstance(shards, str | os.PathLike) else shards:
        for path in _numbered(os.path.abspath(os.fspath(item))):
            if os.path.isdir(path):
                here = glob.glob(os.path.join(glob.escape(path), '*.tar'))
            else:
                here = [path] if os.path.isfile(path) else glob.glob(path)
            if not here:
                raise FileNotFoundError(f'`shards` {os.fspath(item)!r}: there is no {path!r}, or no *.tar in it')
            found += here
    return sorted(set(found))


def _numbered(pattern: str) -> Iterator[str]:
    """The paths that a pattern with ranges of numbers stands for."""
    parts = _RANGE.split(pattern)
    ranges = [
        [f'{number:0{len(first)}}' for number in range(int(first), int(last) + 1)]
        for first, last in zip(parts[1::3], parts[2::3], strict=True)
    ]
    for numbers in itertools.product(*ranges):
        yield ''.join(itertools.chain(*itertools.zip_longest(parts[::3], numbers, fillvalue='')))


@DATASETS.register_module()
class ShardDataset(BaseDataset):
    """All images in shards, for self-supervised training: tar files, as WebDataset writes them.

    The headers of the shards are read once, when the data set is built; images are read where they are, in any order,
    so that shuffling, resuming at any iteration, ranks and workers are a folder's, each image once an epoch.

    Args:
        shards: See :func:`find_shards`.
        pipeline: Transforms; the first is :class:`mmpl.LoadImage` or :class:`mmpl.LoadRandomResizedCrop`, or another
            that reads ``img_path`` by ``mmengine.fileio``.
        extensions: Endings that count as images. What follows the first dot in the name of a member is its ending, as
            in WebDataset, so that of ``a.jpg`` and ``a.mask.png`` only the first is an image.
        **kwargs: Of :class:`mmpretrain.datasets.BaseDataset`, such as ``indices``.

    Raises:
        FileNotFoundError: A shard does not exist.
        ShardError: A shard cannot be read, or a sample has two images.
        ValueError: There is no image.
    """

    def __init__(
        self,
        shards: str | Sequence[str],
        pipeline: Sequence = (),
        extensions: Sequence[str] = EXTENSIONS,
        **kwargs: Any,
    ) -> None:
        self.shards = find_shards(shards)
        self.extensions = {ending.lower() for ending in extensions}
        super().__init__(ann_file='', pipeline=pipeline, **kwargs)
        check_channels(self.pipeline.transforms)

    def load_data_list(self) -> list[dict]:
        """List the images, one dict with ``img_path`` each, in the order of the shards and of their members."""
        images: list[dict] = []
        others: Counter[str] = Counter()
        for shard in self.shards:
            keys: dict[str, str] = {}
            for member, place in index_of(shard).items():
                folder, _, name = member.rpartition('/')
                key, _, ending = name.partition('.')
                ending = f'.{ending.lower()}'
                if ending not in self.extensions:
                    others[ending] += 1
                    continue
                if place == LINK:
                    raise ShardError(f'{shard!r} holds {member!r}, a link: store the file itself, by `tar -h`')
                key = f'{folder}/{key}'
                if key in keys:
                    raise ShardError(
                        f'{shard!r}: the sample {key.strip("/")!r} has two images, {keys[key]!r} and {member!r}: say '
                        'by `extensions` which endings are meant'
                    )
                keys[key] = member
                images.append(dict(img_path=member_path(shard, member)))
        kinds = ', '.join(f'{count} {ending}' for ending, count in others.most_common(5))
        if not images:
            raise ValueError(
                f'`shards` {self.shards[:3]} hold no image. Looked for {", ".join(sorted(self.extensions))}'
                + (f'; there are {kinds}' if kinds else '')
            )
        print_log(
            f'{len(images)} images in {len(self.shards)} shards' + (f'; passed over: {kinds}' if kinds else ''),
            logger='current',
        )
        return images
