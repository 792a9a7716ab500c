"""The embedded data set as COCO instances, for mmdet. Importing this module imports mmdet."""

from typing import Any

from mmdet.datasets import CocoDataset

from .embedded import ADE_SPLITS, CLASSES, PALETTE, build_embedded_dataset


class EmbeddedCocoDataset(CocoDataset):
    """Scenes of 2 to 6 handwritten digits with boxes and masks; the files are made on first use.

    Args:
        data_root: Folder of all builds.
        size: ``'demo'`` or ``'test'``.
        variant: ``'plain'`` or ``'hard'``.
        split: ``'train'`` or ``'val'``.
        seed: Seed of the build.
        progress: Whether to show a progress bar while the files are made.
        **kwargs: Of :class:`mmdet.datasets.CocoDataset`, such as ``pipeline``, ``filter_cfg``, ``test_mode``.

    Raises:
        ValueError: Unknown size, variant or split.
    """

    METAINFO = {'classes': CLASSES, 'palette': list(PALETTE)}

    def __init__(
        self,
        data_root: str = 'data/mmpl_embedded/',
        size: str = 'demo',
        variant: str = 'plain',
        split: str = 'train',
        seed: int = 0,
        progress: bool = True,
        **kwargs: Any,
    ) -> None:
        if split not in ADE_SPLITS:
            raise ValueError(f'split={split!r} is unknown: choose one of {list(ADE_SPLITS)}')
        folder = build_embedded_dataset(data_root, size=size, variant=variant, seed=seed, progress=progress) / 'coco'
        super().__init__(
            data_root=str(folder),
            ann_file=f'annotations/instances_{split}.json',
            data_prefix={'img': f'{split}/'},
            **kwargs,
        )
