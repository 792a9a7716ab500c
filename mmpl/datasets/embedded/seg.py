"""The embedded data sets as ADE20K-style semantic maps, for mmseg. Importing this module imports mmseg."""

from typing import Any

from mmseg.datasets import BaseSegDataset

from .digits import ADE_SPLITS
from .surfaces import build_embedded_variant


class EmbeddedSegDataset(BaseSegDataset):
    """Scenes of handwritten digits or of pieces of photographs, with semantic maps; the files are made on first use.

    In the files 0 is the background and ``d + 1`` the digit or photograph ``d``. With ``reduce_zero_label=False`` there
    are eleven classes (seventeen of photographs), the first being the background. With ``reduce_zero_label=True``,
    ADE20K's convention, the background becomes 255, which loss and metric ignore, and the digits become the classes 0
    to 9 (the photographs 0 to 15). The pipeline's ``LoadAnnotations`` must be given the same value of
    ``reduce_zero_label``.

    Args:
        data_root: Folder of all builds.
        size: ``'demo'`` or ``'test'``.
        variant: Digits, ``'plain'`` or ``'hard'``, or photographs, ``'surfaces'`` or ``'surfaces_exposure'``.
        split: ``'train'`` or ``'val'``.
        seed: Seed of the build.
        reduce_zero_label: Whether the background is ignored.
        progress: Whether to show a progress bar while the files are made.
        **kwargs: Of :class:`mmseg.datasets.BaseSegDataset`, such as ``pipeline`` and ``test_mode``.

    Raises:
        ValueError: Unknown size, variant or split.
    """

    def __init__(
        self,
        data_root: str = 'data/mmpl_embedded/',
        size: str = 'demo',
        variant: str = 'plain',
        split: str = 'train',
        seed: int = 0,
        reduce_zero_label: bool = False,
        progress: bool = True,
        **kwargs: Any,
    ) -> None:
        if split not in ADE_SPLITS:
            raise ValueError(f'split={split!r} is unknown: choose one of {list(ADE_SPLITS)}')
        folder, classes, palette = build_embedded_variant(data_root, size, variant, seed, progress)
        if not reduce_zero_label:
            classes, palette = ('background', *classes), ((0, 0, 0), *palette)
        metainfo = {'classes': classes, 'palette': [list(c) for c in palette]}
        super().__init__(
            data_root=str(folder / 'ade'),
            data_prefix={
                'img_path': f'images/{ADE_SPLITS[split]}',
                'seg_map_path': f'annotations/{ADE_SPLITS[split]}',
            },
            metainfo=kwargs.pop('metainfo', metainfo),
            reduce_zero_label=reduce_zero_label,
            **kwargs,
        )
