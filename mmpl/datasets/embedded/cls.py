"""The embedded data sets as class folders, for mmpretrain."""

from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from mmpretrain.datasets import CustomDataset

from mmpl.registry import DATASETS
from mmpl.utils.fields import Interval, Natural, checked

from .build import build_embedded


@DATASETS.register_module()
class EmbeddedClassification(CustomDataset):
    """One digit or one crop of a photograph an image; the files are made on first use.

    Args:
        data_root: Folder of all builds.
        size: ``'demo'`` or ``'test'``.
        variant: Digits, ``'plain'`` or ``'hard'`` (ten classes, :mod:`mmpl.datasets.embedded.digits`), or photographs,
            ``'surfaces'`` or ``'surfaces_exposure'`` (sixteen, :mod:`mmpl.datasets.embedded.surfaces`).
        split: ``'val'`` is for tuning, ``'test'`` for reported numbers. The splits share no source digit and no part
            of a photograph.
        seed: Of the build.
        fraction: Share of the sources (digits; tiles of a photograph) of each class that is used, for training with
            few labels; all images of a chosen source are kept, and a smaller fraction is a subset of a larger one.
        **kwargs: Of :class:`mmpretrain.datasets.CustomDataset`, such as ``pipeline``, ``indices``, ``with_label``.
    """

    @checked()
    def __init__(
        self,
        data_root: str = 'data/mmpl_embedded/',
        size: str = 'demo',
        variant: str = 'plain',
        split: Literal['train', 'val', 'test'] = 'train',
        seed: Natural = 0,
        fraction: Annotated[float, Interval(0, 1, open_low=True)] = 1.0,
        **kwargs: Any,
    ) -> None:
        for name in ('ann_file', 'data_prefix'):
            if name in kwargs:
                raise ValueError(
                    f'{name}={kwargs[name]!r} is not allowed: the folder follows from size, variant, split'
                )
        self.fraction = fraction
        build = build_embedded(data_root, size, variant, seed)
        metainfo = {'classes': build.classes, **kwargs.pop('metainfo', {})}
        super().__init__(data_root=str(build.folder / 'cls' / split), metainfo=metainfo, **kwargs)

    def load_data_list(self) -> list[dict]:
        """List the images in the order of class and file name.

        Returns:
            One dict per image: ``img_path``, ``source_id`` (the digit or tile) and, with labels, ``gt_label``.
        """
        data_list = super().load_data_list()
        sources: dict[str, set[int]] = {}  # of each class
        for info in data_list:
            path = Path(info['img_path'])
            info['source_id'] = int(path.stem.split('_')[0])
            sources.setdefault(path.parent.name, set()).add(info['source_id'])
        if self.fraction == 1:
            return data_list
        chosen: set[tuple[str, int]] = set()
        for number, (name, ids) in enumerate(sorted(sources.items())):
            order = np.random.default_rng(number).permutation(sorted(ids))
            chosen.update((name, source) for source in order[: max(1, round(self.fraction * len(order)))].tolist())
        return [info for info in data_list if (Path(info['img_path']).parent.name, info['source_id']) in chosen]
