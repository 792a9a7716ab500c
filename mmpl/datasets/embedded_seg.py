"""The embedded data set as ADE20K-style semantic maps, for mmseg. Importing this module imports mmseg."""

from typing import Any

from mmseg.datasets import BaseSegDataset

from .embedded import ADE_SPLITS, CLASSES, PALETTE, build_embedded_dataset


class EmbeddedSegDataset(BaseSegDataset):
    """Scenes of 2 to 6 handwritten digits with semantic maps; the files are made on first use.

    In the files 0 is the background and ``d + 1`` the digit ``d``. With ``reduce_zero_label=False`` there are eleven
    classes, the first being the background. With ``reduce_zero_label=True``, ADE20K's convention, the background
    becomes 255, which loss and metric ignore, and the ten digits become the classes 0 to 9. The pipeline's
    ``LoadAnnotations`` must be given the same value of ``reduce_zero_label``.

    Args:
        data_root: Folder of all builds.
        size: ``'demo'`` or ``'test'``.
        variant: ``'plain'`` or ``'hard'``.
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
        folder = build_embedded_dataset(data_root, size=size, variant=variant, seed=seed, progress=progress) / 'ade'
        if reduce_zero_label:
            metainfo = {'classes': CLASSES, 'palette': [list(c) for c in PALETTE]}
        else:
            metainfo = {'classes': ('background', *CLASSES), 'palette': [[0, 0, 0], *(list(c) for c in PALETTE)]}
        super().__init__(
            data_root=str(folder),
            data_prefix={
                'img_path': f'images/{ADE_SPLITS[split]}',
                'seg_map_path': f'annotations/{ADE_SPLITS[split]}',
            },
            metainfo=kwargs.pop('metainfo', metainfo),
            reduce_zero_label=reduce_zero_label,
            **kwargs,
        )
