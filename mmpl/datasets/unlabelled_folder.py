"""Any folder of images, without labels."""

import os
from collections.abc import Sequence
from typing import Any

from mmcv.transforms import LoadImageFromFile
from mmengine.fileio import get_file_backend
from mmengine.logging import print_log
from mmpretrain.datasets import CustomDataset

from mmpl.registry import DATASETS
from mmpl.utils.fields import FieldTypeError
from mmpl.utils.paths import check_annotated_paths

from .listing import list_images, read_lines
from .transforms.load_image import LoadImage, check_channels

EXTENSIONS = ('.jpg', '.jpeg', '.png', '.bmp', '.webp', '.tif', '.tiff', '.ppm')


@DATASETS.register_module()
class UnlabelledFolder(CustomDataset):
    """All images below a folder, for self-supervised training.

    Which these are says :func:`mmpl.datasets.listing.list_images`, or a list in ``ann_file``; the log says how many,
    and what was passed over. ``LoadImageFromFile`` at the start of its pipeline is taken for :class:`mmpl.LoadImage`,
    which gives the same pixels for ordinary pictures and reads more kinds of files.

    Args:
        data_root: The folder.
        data_prefix: Subfolder of ``data_root``.
        ann_file: A text file with one path a line, relative to the folder: these images alone, in this order. Empty
            lines and those that begin with ``#`` are left out. By default all images are taken.
        extensions: File endings that count as images, in either case.
        **kwargs: Of :class:`mmpretrain.datasets.CustomDataset`, such as ``pipeline`` and ``indices``.

    Raises:
        FileNotFoundError: The folder does not exist.
        ValueError: It holds no image; no extension, or one without its leading dot; ``with_label=True``; the list names
            a path twice, an absolute one or one of another ending.
        PathOutsideRootError: The list names a path outside of the folder.
    """

    def __init__(
        self,
        data_root: str = '',
        data_prefix: str | dict = '',
        ann_file: str = '',
        extensions: Sequence[str] = EXTENSIONS,
        **kwargs: Any,
    ) -> None:
        for field, value, kinds in (
            ('data_root', data_root, (str, os.PathLike)),
            ('data_prefix', data_prefix, (str, dict)),
        ):
            if not isinstance(value, kinds):
                raise FieldTypeError(f'`{field}` must be a string, the path of a folder, but got {value!r}')
        if not (data_root or data_prefix):
            raise ValueError(f'`data_root` must be the path of a folder, but got {data_root!r}')
        if isinstance(extensions, str) or not extensions or not all(e.startswith('.') for e in extensions):
            raise ValueError(f"extensions={extensions!r} is not allowed: expected a list such as ['.jpg', '.png']")
        if kwargs.pop('with_label', False):
            raise ValueError('with_label=True is not allowed: use mmpretrain.CustomDataset for class folders')
        super().__init__(
            data_root=data_root,
            data_prefix=data_prefix,
            ann_file=ann_file,
            with_label=False,
            extensions=extensions,
            **kwargs,
        )
        check_annotated_paths(self)
        transforms = self.pipeline.transforms
        if transforms and _is_stock(transforms[0]):
            transforms[0] = LoadImage(transforms[0].color_type, backend_args=transforms[0].backend_args)
        check_channels(transforms)

    def load_data_list(self) -> list[dict]:
        """List the images, one dict with ``img_path`` each."""
        where = f'data_root={self.data_root!r} (folder searched: {self.img_prefix!r})'
        looked_for = f'extensions {", ".join(sorted(self.extensions))}, in either case, in all subfolders'
        backend = get_file_backend(self.img_prefix, enable_singleton=True)
        if hasattr(backend, 'isdir') and not backend.isdir(self.img_prefix):
            raise FileNotFoundError(f'{where} is no folder. It should hold images ({looked_for})')
        if self.ann_file:
            names = _read_list(self.ann_file, self.extensions)
            print_log(f'{len(names)} images below {self.img_prefix!r}, listed in {self.ann_file!r}', logger='current')
            return [dict(img_path=backend.join_path(self.img_prefix, name)) for name in names]
        listing = list_images(self.img_prefix, self.extensions)
        others = listing.passed_over()
        if not listing.files:
            there = f'. There are {others}' if others else ''
            raise ValueError(f'{where} holds no image. Looked for {looked_for}{there}')
        print_log(
            f'{len(listing.files)} images below {self.img_prefix!r}' + (f'; passed over: {others}' if others else ''),
            logger='current',
        )
        return [dict(img_path=backend.join_path(self.img_prefix, name)) for name in listing.files]


def _read_list(path: str, extensions: Sequence[str]) -> list[str]:
    """The paths that a list names, in its order."""
    lines: dict[str, int] = {}
    for number, line in enumerate(read_lines(path), 1):
        name = line.strip()
        if not name or name.startswith('#'):
            continue
        name = os.path.normpath(name)
        where = f'`ann_file` {path!r}, line {number}: {name!r}'
        if name in lines:
            raise ValueError(f'{where} stands in line {lines[name]} already')
        if os.path.isabs(name):
            raise ValueError(f'{where} must be relative to the folder')
        if not name.lower().endswith(tuple(extensions)):
            raise ValueError(f'{where} must end in one of `extensions` {", ".join(sorted(extensions))}')
        lines[name] = number
    if not lines:
        raise ValueError(f'`ann_file` {path!r} names no image')
    return list(lines)


def _is_stock(transform: Any) -> bool:
    """Whether it is mmcv's loader, as it is by default but for colour or grey."""
    return (
        getattr(type(transform), 'transform', None) is LoadImageFromFile.transform
        and transform.color_type in ('color', 'grayscale')
        and transform.imdecode_backend == 'cv2'
        and not (transform.to_float32 or transform.ignore_empty or transform.file_client_args)
    )
