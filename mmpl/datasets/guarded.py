"""A dataset whose random transforms can be resumed, and that survives bad files."""

import os
from typing import Any

import numpy as np
from mmengine.logging import print_log
from torch.utils.data import Dataset

from mmpl.registry import DATASETS
from mmpl.utils.fields import Count, checked
from mmpl.utils.paths import check_annotated_paths
from mmpl.utils.seeds import derive_seed, seed_host

from .bad_files import BadDataError, BadFileReport
from .image_check import MAX_PIXELS, MIN_SIDE, inspect_image
from .resumable_sampler import SeededIndex

_ATTEMPTS = 16


@DATASETS.register_module()
class GuardedDataset(Dataset):
    """Wraps any map-style dataset; :class:`mmpl.engine.ExactEpochLoop` does so by itself.

    - Before a sample is made, python, numpy and torch are seeded with what its
      :class:`mmpl.datasets.resumable_sampler.SeededIndex` says. Transforms with a generator of their own are not
      reached.
    - A file that is bad (see :func:`mmpl.datasets.image_check.inspect_image`), or that the wrapped dataset fails to
      load, is replaced by another that is a function of its index, so every process and every resumed run takes the
      same. It is put into the report once.
    - Where an ``ann_file`` lists the images, none of them may lie outside of ``data_root``.

    Everything else is the wrapped dataset's.

    Args:
        dataset: The wrapped dataset or its config.
        max_pixels: Images with more pixels are bad.
        min_side: Images with a shorter side, in pixels, are bad.
        report: Path of the report; :class:`mmpl.engine.ExactEpochLoop` sets it to ``bad_files.jsonl`` in the work
            folder. Without one, bad files are logged by the process that finds them.

    Raises:
        PathOutsideRootError: An annotated path leaves ``data_root``.
    """

    @checked()
    def __init__(
        self,
        dataset: Any,
        max_pixels: Count = MAX_PIXELS,
        min_side: Count = MIN_SIDE,
        report: str | None = None,
    ) -> None:
        self.dataset = DATASETS.build(dataset) if isinstance(dataset, dict) else dataset
        self.max_pixels = max_pixels
        self.min_side = min_side
        self.report = report
        self._state = np.zeros(len(self.dataset), np.uint8)  # of each file, in this process: 0 unknown, 1 good, 2 bad
        check_annotated_paths(self.dataset)

    def __len__(self) -> int:
        return len(self.dataset)

    def __getattr__(self, name: str) -> Any:
        if name.startswith('__') or name == 'dataset':
            raise AttributeError(name)
        return getattr(self.dataset, name)

    def __getitem__(self, index: int) -> Any:
        """The sample, or what replaces it.

        Raises:
            BadDataError: Sixteen replacements in a row are bad too.
        """
        seed = index.seed if isinstance(index, SeededIndex) else None
        index = int(index)
        reason, cause = '', None
        for attempt in range(_ATTEMPTS + 1):
            candidate = self.replacement(index, attempt)
            if self._state[candidate] == 2:
                continue
            if seed is not None:
                seed_host(seed)  # before each attempt: a failed one must leave no trace
            reason, cause, sample = self._try(candidate)
            if not reason:
                return sample
            self._state[candidate] = 2
            self._note(candidate, reason)
        raise BadDataError(
            f'{_ATTEMPTS + 1} samples in a row cannot be loaded, from {self._path(index) or index!r} on: a fault of '
            f'the pipeline rather than of the files? The last reason: {reason or "known from before, see the report"}'
        ) from cause

    def replacement(self, index: int, attempt: int) -> int:
        """Which sample stands in for a bad one: a function of its index and the attempt; 0 is the sample itself."""
        return index if attempt == 0 else derive_seed('replacement', index, attempt) % len(self)

    def _try(self, index: int) -> tuple[str, Exception | None, Any]:
        path = self._path(index)
        if self._state[index] == 0 and path and '://' not in path:
            verdict = inspect_image(path, max_pixels=self.max_pixels, min_side=self.min_side)
            if verdict.bad:
                return verdict.bad, None, None
        try:
            sample = self.dataset[index]
        except MemoryError:
            raise
        except Exception as error:  # decoders of damaged files raise nearly anything
            kind = 'vanished' if path and '://' not in path and not os.path.exists(path) else 'not loaded'
            return f'{kind}: {type(error).__name__}: {error}', error, None
        self._state[index] = 1
        return '', None, sample

    def _path(self, index: int) -> str:
        if not hasattr(self.dataset, 'get_data_info'):
            return ''
        info = self.dataset.get_data_info(index)
        return str(info.get('img_path', '')) if isinstance(info, dict) else ''

    def _note(self, index: int, reason: str) -> None:
        path = self._path(index) or f'sample {index}'
        entry = dict(path=path, reason=reason[:500], index=index)
        if self.report is None:
            print_log(f'bad file {path!r}: {reason}; replaced', logger='current', level=30)
        else:
            BadFileReport(self.report).add(entry)
