"""The embedded data sets as COCO instances, for mmdet. Importing this module imports mmdet."""

from typing import Any, Literal

from mmdet.datasets import CocoDataset

from mmpl.utils.fields import Natural, checked

from .build import build_embedded


class EmbeddedCocoDataset(CocoDataset):
    """Scenes of digits or of pieces of photographs, with boxes and masks; the files are made on first use.

    Args:
        data_root: This and the next as :class:`mmpl.datasets.EmbeddedClassification`.
        size: As there.
        variant: As there.
        split: There is no ``'test'``.
        seed: As there.
        **kwargs: Of :class:`mmdet.datasets.CocoDataset`, such as ``pipeline``, ``filter_cfg``, ``test_mode``.
    """

    @checked()
    def __init__(
        self,
        data_root: str = 'data/mmpl_embedded/',
        size: str = 'demo',
        variant: str = 'plain',
        split: Literal['train', 'val'] = 'train',
        seed: Natural = 0,
        **kwargs: Any,
    ) -> None:
        build = build_embedded(data_root, size, variant, seed)
        metainfo = {'classes': build.classes, 'palette': list(build.palette), **kwargs.pop('metainfo', {})}
        super().__init__(
            data_root=str(build.folder / 'coco'),
            ann_file=f'annotations/instances_{split}.json',
            data_prefix={'img': f'{split}/'},
            metainfo=metainfo,
            **kwargs,
        )
