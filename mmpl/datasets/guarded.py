"""A dataset whose random transforms can be resumed, and that survives bad files."""

from typing import Any

import numpy as np
from mmengine.logging import print_log
from torch.utils.data import Dataset

from mmpl.registry import DATASETS
from mmpl.utils.fields import Count, checked
from mmpl.utils.paths import check_annotated_paths
from mmpl.utils.seeds import derive_seed, seed_host

from .bad_files import BadDataError, BadFileReport, losses
from .decode import AnyDecoder, decoder_at, decoder_of, mark_said, say_once
from .image_check import MAX_PIXELS, MIN_SIDE, ImageVerdict, inspect_image, look_for
from .inside import is_inside
from .resumable_sampler import SeededIndex
from .transforms.load_image import check_channels

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
    - Files are looked at with the eyes of the loader, the pipeline's first transform, if that is ``mmpl.LoadImage``,
      ``mmpl.LoadRandomResizedCrop`` or ``LoadImageFromFile``. What it leaves out of them is said, each kind of loss
      once. Files of any other loader are left to it, unless they are empty.
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
        ValueError: The dataset is empty.
    """

    @checked('train_cfg.bad_files')
    def __init__(
        self,
        dataset: Any,
        max_pixels: Count = MAX_PIXELS,
        min_side: Count = MIN_SIDE,
        report: str | None = None,
    ) -> None:
        self.dataset = build_filled(dataset) if isinstance(dataset, dict) else dataset
        self.max_pixels = max_pixels
        self.min_side = min_side
        self.report = report
        self._reported: set[str] = set()  # kinds of loss, in this process
        self._state = np.zeros(len(self.dataset), np.uint8)  # of each file, in this process: 0 unknown, 1 good, 2 bad
        check_annotated_paths(self.dataset)
        check_channels(getattr(getattr(self.dataset, 'pipeline', None), 'transforms', ()))
        self._decoder = decoder_of(self.dataset)  # of all; None where parts have their own

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
            + self._who_looked(index)
        ) from cause

    def _decoder_of(self, index: int) -> AnyDecoder | None:
        return decoder_at(self.dataset, index) if self._decoder is None else self._decoder

    def _who_looked(self, index: int) -> str:
        decoder = self._decoder_of(index)
        if decoder is None:
            transforms = getattr(getattr(self.dataset, 'pipeline', None), 'transforms', None)
            loader = type(transforms[0]).__name__ if transforms else type(self.dataset).__name__
            return f'. Files are left to `{loader}`, which loads them: try it on one of these'
        return (
            f'. Files are looked at as {decoder} loads them; they are left to the pipeline if its first '
            'transform is a loading transform of your own'
        )

    def replacement(self, index: int, attempt: int) -> int:
        """Which sample stands in for a bad one: a function of its index and the attempt; 0 is the sample itself."""
        return index if attempt == 0 else derive_seed('replacement', index, attempt) % len(self)

    def _try(self, index: int) -> tuple[str, Exception | None, Any]:
        path = self._path(index)
        local = path if '://' not in path or is_inside(path) else ''
        if self._state[index] == 0 and local:
            reason = self._look(local, self._decoder_of(index))
            if reason:
                return reason, None, None
        try:
            sample = self.dataset[index]
        except MemoryError:
            raise
        except Exception as error:  # decoders of damaged files raise nearly anything
            kind = 'vanished' if local and 'vanished' in look_for(local) else 'not loaded'
            decoder = self._decoder_of(index)
            reason = self._inspect(local, decoder, full=True).bad if local and decoder is not None else ''
            return reason or f'{kind}: {type(error).__name__}: {error}', error, None
        self._state[index] = 1
        return '', None, sample

    def _look(self, path: str, decoder: AnyDecoder | None) -> str:
        if decoder is None:
            reason = look_for(path)
            return reason if reason.startswith('empty') else ''
        verdict = self._inspect(path, decoder)
        if self.report is None:
            say_once(path, verdict.lost)
        else:
            mark_said(verdict.lost)  # the run says it, from the report, also if something else has before
            for text in verdict.lost:
                if (kind := text.partition(':')[0]) not in self._reported:
                    self._reported.add(kind)
                    losses(self.report).add(dict(kind=kind, path=path, lost=text))
        return verdict.bad

    def _inspect(self, path: str, decoder: AnyDecoder, full: bool = False) -> ImageVerdict:
        return inspect_image(path, full, self.max_pixels, self.min_side, decoder)

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


def build_filled(cfg: dict) -> Any:
    """Build ``train_dataloader.dataset``, which must hold a sample.

    Raises:
        ValueError: It holds none, as with an empty ``ann_file``.
    """
    try:
        dataset = DATASETS.build(cfg)
        empty, cause = not len(dataset), None
    except ValueError as error:
        if 'need at least one array' not in str(error):  # numpy's words where mmengine packs an empty list
            raise
        empty, cause = True, error
    if empty:
        named = {field: cfg[field] for field in ('ann_file', 'data_root', 'data_prefix') if cfg.get(field)}
        raise ValueError(f'`train_dataloader.dataset` {cfg["type"]} holds no sample: {named}') from cause
    return dataset
