"""The embedded data sets as COCO instances, for mmdet. Importing this module imports mmdet."""

from typing import Any

from mmdet.datasets import CocoDataset

from .digits import ADE_SPLITS, CLASSES, PALETTE
from .surfaces import build_embedded_variant


class EmbeddedCocoDataset(CocoDataset):
    """Scenes of handwritten digits or of pieces of photographs, with boxes and masks; the files are made on first use.

    Args:
        data_root: Folder of all builds.
        size: ``'demo'`` or ``'test'``.
        variant: Digits, ``'plain'`` or ``'hard'``, or photographs, ``'surfaces'`` or ``'surfaces_exposure'``.
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
        folder, classes, palette = build_embedded_variant(data_root, size, variant, seed, progress)
        kwargs.setdefault('metainfo', {'classes': classes, 'palette': list(palette)})
        super().__init__(
            data_root=str(folder / 'coco'),
            ann_file=f'annotations/instances_{split}.json',
            data_prefix={'img': f'{split}/'},
            **kwargs,
        )
