"""Pre-training on a data set of Hugging Face's package ``datasets``, with random access."""

import functools
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmengine.logging import print_log
from mmpretrain.datasets import BaseDataset

from mmpl.registry import DATASETS

from .inside import InsideBackend, register_inside
from .transforms.load_image import check_channels

_SEPARATOR = '::'


class RowsError(ValueError):
    """A data set is not what its config says; the message names the field and what is allowed."""


def row_path(source: str, name: str, split: str, column: str, row: int) -> str:
    """Address of an image, by which everything here that reads image files reads it too."""
    return 'rows://' + _SEPARATOR.join((source, name, split, column, str(row)))


@functools.cache
def open_rows(source: str, name: str, split: str) -> Any:
    """A ``datasets.Dataset``, mapped into memory; each process opens it once.

    Args:
        source: Folder that ``save_to_disk`` wrote, or whatever ``load_dataset`` takes.
        name: Configuration for ``load_dataset``, or empty.
        split: Or empty, for a folder that holds one data set and no splits.

    Raises:
        ImportError: The package is not installed.
        RowsError: There is no such split.
        FileNotFoundError: There is no such data set.
    """
    try:
        import datasets
    except ImportError as error:
        raise ImportError('mmpl.HuggingFaceDataset needs a package: pip install mmpl[datasets]') from error
    if (Path(source) / 'state.json').is_file() or (Path(source) / 'dataset_dict.json').is_file():
        if name:
            raise RowsError(f'`name` {name!r} is not allowed: {source!r} was written by `save_to_disk`')
        found = datasets.load_from_disk(source)
    else:
        found = datasets.load_dataset(source, name or None)
    splits = dict(found) if isinstance(found, dict) else {'': found}
    if split in splits:
        return splits[split]
    if '' in splits:  # one data set, which may remember the split that it was
        if split == str(found.split):
            return found
        raise RowsError(f'`split` must be left out: {source!r} holds one data set, but got {split!r}')
    raise RowsError(f'`split` must be one of {", ".join(map(repr, splits))} of {source!r}, but got {split!r}')


@functools.cache
def _files(source: str, name: str, split: str, column: str) -> Any:
    """The column of :func:`open_rows` as encoded files: what was stored, before anything is decoded."""
    from datasets import Image

    rows = open_rows(source, name, split).with_format(None)  # which `save_to_disk` keeps
    return rows.select_columns([column]).cast_column(column, Image(decode=False))


class RowsBackend(InsideBackend):
    """Reads images of a column."""

    def get(self, filepath: str) -> bytes:
        """Content of the file that a row holds, or names.

        Raises:
            FileNotFoundError: The row holds none.
        """
        source, name, split, column, row = str(filepath).removeprefix('rows://').rsplit(_SEPARATOR, 4)
        rows = _files(source, name, split, column)
        image = rows[int(row)][column] if int(row) < len(rows) else None
        if image is None or (image['bytes'] is None and not image['path']):
            raise FileNotFoundError(f'row {row} of {source!r} holds no image in the column {column!r}')
        return Path(image['path']).read_bytes() if image['bytes'] is None else image['bytes']

    def size(self, filepath: str) -> int:
        """Bytes of that file."""
        return len(self.get(filepath))


register_inside('rows', RowsBackend)


@DATASETS.register_module()
class HuggingFaceDataset(BaseDataset):
    """All images of a data set of the package ``datasets``, for self-supervised training.

    What is stored is the encoded file, and it is decoded here, by the loader at the start of the pipeline: pixels,
    checks, shuffling, resuming, ranks and workers are a folder's.

    Args:
        source: A folder that ``Dataset.save_to_disk`` wrote, or what ``datasets.load_dataset`` takes: the name of a
            data set on the hub, a folder of images, of Parquet files.
        pipeline: Transforms; the first is :class:`mmpl.LoadImage` or :class:`mmpl.LoadRandomResizedCrop`, or another
            that reads ``img_path`` by ``mmengine.fileio``.
        split: Such as ``'train'``; may be left out if there are no splits.
        name: Configuration, for a data set that has several.
        column: Of the images; may be left out if there is one such column.
        **kwargs: Of :class:`mmpretrain.datasets.BaseDataset`, such as ``indices``.

    Raises:
        ImportError: The package is not installed (``pip install mmpl[datasets]``).
        RowsError: There is no such split or column, or several columns of images, or no row.
    """

    def __init__(
        self,
        source: str,
        pipeline: Sequence = (),
        split: str = '',
        name: str = '',
        column: str = '',
        **kwargs: Any,
    ) -> None:
        if not isinstance(source, str) or not source or '://' in source:
            raise RowsError(f'`source` must be a folder, or the name of a data set on the hub, but got {source!r}')
        # A process that reads by address may work in another folder.
        self.source = os.path.abspath(source) if os.path.isdir(source) else source
        self.split, self.name, self.column = split, name, column
        super().__init__(ann_file='', pipeline=pipeline, **kwargs)
        check_channels(self.pipeline.transforms)

    def load_data_list(self) -> list[dict]:
        """List the images, one dict with ``img_path`` each, in the order of the rows."""
        rows = open_rows(self.source, self.name, self.split)
        images = [name for name, feature in rows.features.items() if type(feature).__name__ == 'Image']
        columns = ', '.join(map(repr, images)) or f'none; there are {", ".join(map(repr, rows.features))}'
        if self.column not in images and (self.column or len(images) != 1):
            said = f'but got {self.column!r}' if self.column else 'and has to be said'
            raise RowsError(f'`column` must be one of those that hold images ({columns}) of {self.source!r}, {said}')
        if not len(rows):
            raise RowsError(f'`source` {self.source!r} holds no row')
        column = self.column or images[0]
        print_log(f'{len(rows)} images in the column {column!r} of {self.source!r}', logger='current')
        return [dict(img_path=row_path(self.source, self.name, self.split, column, row)) for row in range(len(rows))]
