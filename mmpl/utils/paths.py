"""Annotation files must not reach outside of the data root."""

import functools
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from mmengine.dataset import BaseDataset

_PATH_FIELDS = ('img_path', 'seg_map_path', 'depth_map_path', 'sample_path')


class PathOutsideRootError(ValueError):
    """An annotation file names a file outside of the data root."""


def absolute(path: str) -> str:
    """A whole path without ``..``, of a local file or behind ``scheme://``; links on the disk are trusted.

    The separator is ``/``, also on Windows.
    """
    scheme, mark, rest = path.rpartition('://')
    resolved = scheme + mark + os.path.normpath(rest) if mark else os.path.abspath(path)
    return resolved.replace(os.sep, '/')


def is_inside(path: str, roots: list[str]) -> bool:
    """Whether a path, local or ``scheme://``, lies in one of some folders, by its text."""
    path = absolute(path)
    return any(path == root or path.startswith(root.rstrip('/') + '/') for root in map(absolute, roots))


def allowed_roots(dataset: Any) -> list[str]:
    """The folders that the config of an mmengine ``BaseDataset`` names: ``data_root`` and the prefixes joined to it."""
    prefixes = getattr(dataset, 'data_prefix', None) or {}
    values = prefixes.values() if isinstance(prefixes, dict) else [prefixes]
    return [str(root) for root in (getattr(dataset, 'data_root', None), *values) if root]


def check_annotated_paths(dataset: Any) -> None:
    """Refuse a dataset whose annotation file names files outside of ``data_root`` and the configured prefixes.

    An annotation file may come from anybody; a config is the user's own, so the folders that it names are allowed.
    Without an ``ann_file`` there is nothing to check, nor in what is no initialised mmengine ``BaseDataset``.
    """
    if not getattr(dataset, 'ann_file', None) or not hasattr(dataset, 'get_data_info'):
        return
    _check(dataset, (dataset.get_data_info(index) for index in range(len(dataset))))


def _check(dataset: Any, infos: Iterable[dict]) -> None:
    roots = allowed_roots(dataset)
    if not roots:
        return
    for index, info in enumerate(infos):
        for field in _PATH_FIELDS:
            path = info.get(field)
            if isinstance(path, str) and not is_inside(path, roots):
                raise PathOutsideRootError(
                    f'`ann_file` {dataset.ann_file!r} names {path!r} (sample {index}, {field}), which is outside of '
                    f'{", ".join(map(repr, roots))}: an annotation file may only name files below `data_root` and '
                    '`data_prefix`'
                )


@contextmanager
def restored_path_policy() -> Iterator[None]:
    """At the end of the block data sets check their paths as at its beginning."""
    original = BaseDataset._serialize_data
    try:
        yield
    finally:
        BaseDataset._serialize_data = original


def forbid_paths_outside_root() -> None:
    """Check every mmengine ``BaseDataset`` of this process like :func:`check_annotated_paths`, when it is filled.

    mmpl's tools call it, so it holds for the datasets of mmpretrain, mmseg and mmdet too; those with
    ``serialize_data=False`` excepted.
    """
    original = BaseDataset._serialize_data
    if getattr(original, 'checks_paths', False):
        return

    @functools.wraps(original)
    def serialize(self: BaseDataset) -> Any:
        if self.ann_file:
            _check(self, self.data_list)
        return original(self)

    serialize.checks_paths = True  # type: ignore[attr-defined]
    BaseDataset._serialize_data = serialize
