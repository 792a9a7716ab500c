"""The embedded data sets as class folders, for mmpretrain."""

from pathlib import Path
from typing import Any

import numpy as np
from mmpretrain.datasets import CustomDataset

from mmpl.registry import DATASETS

from .digits import CLASSES, SPLITS
from .surfaces import build_embedded_variant


@DATASETS.register_module()
class EmbeddedClassification(CustomDataset):
    """Handwritten digits (ten classes) or crops of photographs (sixteen); the files are made on first use.

    Every process may build this data set at once: one makes the files, the others wait for it (a file lock, so it
    holds with and without ``torch.distributed``, and once per machine where machines share no disk).

    Args:
        data_root: Folder of all builds; see :func:`mmpl.datasets.embedded.embedded_dataset_dir`.
        size: ``'demo'`` or ``'test'``.
        variant: Digits, ``'plain'`` or ``'hard'`` (:mod:`mmpl.datasets.embedded`), or photographs, ``'surfaces'`` or
            ``'surfaces_exposure'`` (:mod:`mmpl.datasets.embedded.surfaces`).
        split: ``'train'``, ``'val'`` (for tuning) or ``'test'`` (for reported numbers). They share no
            source digit and no part of a photograph.
        seed: Seed of the build.
        fraction: Share of the sources (digits; tiles of a photograph) of each class that is used, in (0, 1], for
            training with few labels; all images of a chosen source are kept, and a smaller fraction is a subset of a
            larger one.
        progress: Whether to show a progress bar while the files are made.
        **kwargs: Of :class:`mmpretrain.datasets.CustomDataset`, such as ``pipeline``, ``indices``, ``with_label``.

    Raises:
        ValueError: Unknown size, variant or split; fraction outside (0, 1].
    """

    METAINFO = {'classes': CLASSES}

    def __init__(
        self,
        data_root: str = 'data/mmpl_embedded/',
        size: str = 'demo',
        variant: str = 'plain',
        split: str = 'train',
        seed: int = 0,
        fraction: float = 1.0,
        progress: bool = True,
        **kwargs: Any,
    ) -> None:
        if split not in SPLITS:
            raise ValueError(f'split={split!r} is unknown: choose one of {list(SPLITS)}')
        if not 0 < fraction <= 1:
            raise ValueError(f'fraction={fraction!r} is not allowed: expected a number in (0, 1]')
        for name in ('ann_file', 'data_prefix'):
            if name in kwargs:
                raise ValueError(
                    f'{name}={kwargs[name]!r} is not allowed: the folder follows from size, variant, split'
                )
        self.fraction = fraction
        folder, classes, _ = build_embedded_variant(data_root, size, variant, seed, progress)
        kwargs.setdefault('metainfo', dict(classes=classes))
        super().__init__(data_root=str(folder / 'cls' / split), **kwargs)

    def load_data_list(self) -> list[dict]:
        """List the images in the order of class and file name.

        Returns:
            One dict per image: ``img_path``, ``source_id`` (the digit or tile) and, with labels,
            ``gt_label``.
        """
        data_list = super().load_data_list()
        for info in data_list:
            info['source_id'] = int(Path(info['img_path']).stem.split('_')[0])
        if self.fraction == 1:
            return data_list
        by_class: dict[str, set[int]] = {}
        for info in data_list:
            by_class.setdefault(Path(info['img_path']).parent.name, set()).add(info['source_id'])
        chosen: set[tuple[str, int]] = set()
        for number, name in enumerate(sorted(by_class)):
            order = np.random.default_rng(number).permutation(sorted(by_class[name]))
            chosen.update((name, source) for source in order[: max(1, round(self.fraction * len(order)))].tolist())
        return [info for info in data_list if (Path(info['img_path']).parent.name, info['source_id']) in chosen]
