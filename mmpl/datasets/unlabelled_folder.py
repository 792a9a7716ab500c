"""Any folder of images, without labels."""

from collections.abc import Sequence
from typing import Any

from mmengine.fileio import get_file_backend
from mmpretrain.datasets import CustomDataset

from mmpl.registry import DATASETS

EXTENSIONS = ('.jpg', '.jpeg', '.png', '.bmp', '.webp', '.tif', '.tiff', '.ppm')


@DATASETS.register_module()
class UnlabelledFolder(CustomDataset):
    """All images below a folder, for self-supervised training.

    The search goes through all subfolders, hidden ones excepted; the order is that of the sorted relative paths, so
    it is the same on every machine and in every process. The listing is that of mmpretrain's ``CustomDataset``
    without labels.

    Args:
        data_root: The folder.
        data_prefix: Subfolder of ``data_root``.
        extensions: File endings that count as images, in either case.
        **kwargs: Of :class:`mmpretrain.datasets.CustomDataset`, such as ``pipeline`` and ``indices``.

    Raises:
        FileNotFoundError: The folder does not exist.
        ValueError: It holds no image; no extension, or one without its leading dot; ``with_label=True``; an
            ``ann_file``.
    """

    def __init__(
        self,
        data_root: str = '',
        data_prefix: str | dict = '',
        extensions: Sequence[str] = EXTENSIONS,
        **kwargs: Any,
    ) -> None:
        if isinstance(extensions, str) or not extensions or not all(e.startswith('.') for e in extensions):
            raise ValueError(f"extensions={extensions!r} is not allowed: expected a list such as ['.jpg', '.png']")
        if kwargs.pop('with_label', False):
            raise ValueError('with_label=True is not allowed: use mmpretrain.CustomDataset for class folders')
        if kwargs.get('ann_file'):
            raise ValueError(f'ann_file={kwargs["ann_file"]!r} is not allowed: the folder itself is the list')
        super().__init__(
            data_root=data_root, data_prefix=data_prefix, with_label=False, extensions=extensions, **kwargs
        )

    def load_data_list(self) -> list[dict]:
        """List the images, one dict with ``img_path`` each."""
        where = f'data_root={self.data_root!r} (folder searched: {self.img_prefix!r})'
        looked_for = f'extensions {", ".join(sorted(self.extensions))}, in either case, in all subfolders'
        backend = get_file_backend(self.img_prefix, enable_singleton=True)
        if hasattr(backend, 'isdir') and not backend.isdir(self.img_prefix):
            raise FileNotFoundError(f'{where} is no folder. It should hold images ({looked_for})')
        try:
            return super().load_data_list()
        except RuntimeError as error:
            if 'Found 0 files' not in str(error):
                raise
            raise ValueError(f'{where} holds no image. Looked for {looked_for}') from error
