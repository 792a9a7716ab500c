"""The embedded data sets as ADE20K-style semantic maps, for mmseg. Importing this module imports mmseg."""

from typing import Any, Literal

from mmseg.datasets import BaseSegDataset

from mmpl.utils.fields import Natural, checked

from .build import build_embedded
from .formats import ADE_SPLITS


class EmbeddedSegDataset(BaseSegDataset):
    """Scenes of digits or of pieces of photographs, with semantic maps; the files are made on first use.

    In the files 0 is the background and ``d + 1`` the digit or photograph ``d``. With ``reduce_zero_label=False`` there
    are eleven classes (seventeen of photographs), the first being the background. With ``reduce_zero_label=True``,
    ADE20K's convention, the background becomes 255, which loss and metric ignore, and the digits become the classes 0
    to 9 (the photographs 0 to 15).

    Args:
        data_root: This and the next as :class:`mmpl.datasets.EmbeddedClassification`.
        size: As there.
        variant: As there.
        split: There is no ``'test'``.
        seed: As there.
        reduce_zero_label: Whether the background is ignored; the pipeline's ``LoadAnnotations`` must be told the same.
        **kwargs: Of :class:`mmseg.datasets.BaseSegDataset`, such as ``pipeline`` and ``test_mode``.
    """

    @checked()
    def __init__(
        self,
        data_root: str = 'data/mmpl_embedded/',
        size: str = 'demo',
        variant: str = 'plain',
        split: Literal['train', 'val'] = 'train',
        seed: Natural = 0,
        reduce_zero_label: bool = False,
        **kwargs: Any,
    ) -> None:
        build = build_embedded(data_root, size, variant, seed)
        classes, palette = build.classes, build.palette
        if not reduce_zero_label:
            classes, palette = ('background', *classes), ((0, 0, 0), *palette)
        metainfo = {'classes': classes, 'palette': [list(c) for c in palette], **kwargs.pop('metainfo', {})}
        super().__init__(
            data_root=str(build.folder / 'ade'),
            data_prefix={
                'img_path': f'images/{ADE_SPLITS[split]}',
                'seg_map_path': f'annotations/{ADE_SPLITS[split]}',
            },
            metainfo=metainfo,
            reduce_zero_label=reduce_zero_label,
            **kwargs,
        )
