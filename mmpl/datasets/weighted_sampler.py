"""Several data sets in one epoch, some of them more often or less."""

import math
from collections.abc import Iterator, Sequence, Sized
from typing import Any

import torch
from mmengine.dataset import DefaultSampler

from mmpl.registry import DATA_SAMPLERS
from mmpl.utils.fields import check_number
from mmpl.utils.seeds import derive_seed

from .resumable_sampler import DrawnIndex


@DATA_SAMPLERS.register_module()
class WeightedSampler(DefaultSampler):
    """Shuffles the parts of mmengine's ``ConcatDataset``, each by its weight.

    A part of N images with weight w gives round(w N) samples an epoch. They are the next ones of an endless row of
    shuffles of the part, so that over any number of epochs no image of it comes more than once oftener than another.
    All is a function of seed and epoch. Our choice.

    Args:
        dataset: A ``ConcatDataset``, also wrapped.
        weights: One for each of its ``datasets``: how often an epoch has each image of it, such as 1, 3 or 0.25.
        seed: As of ``DefaultSampler``; mmengine fills it in.
        round_up: As there.

    Raises:
        ValueError: There are as many weights as data sets, but one is not a finite number above 0, or gives no sample;
            or there are not as many, or there is one data set only.
    """

    def __init__(
        self, dataset: Sized, weights: Sequence[float], seed: int | None = None, round_up: bool = True
    ) -> None:
        ends = list(getattr(dataset, 'cumulative_sizes', []))
        if not ends:
            raise ValueError(
                '`train_dataloader.sampler` mmpl.WeightedSampler needs a `dataset` of type ConcatDataset, but got '
                f'{type(getattr(dataset, "dataset", dataset)).__name__}'
            )
        if not isinstance(weights, Sequence) or len(weights) != len(ends):
            raise ValueError(
                f'`train_dataloader.sampler.weights` must be a list of {len(ends)} numbers, one for each of '
                f'`datasets`, but got {weights!r}'
            )
        self._parts: list[tuple[int, int, int]] = []  # where each begins, its images, and its samples of an epoch
        for number, (weight, begin, end) in enumerate(zip(weights, [0, *ends], ends, strict=False)):
            field = f'train_dataloader.sampler.weights[{number}]'
            check_number(field, weight, 0, open_minimum=True)
            samples = math.floor(weight * (end - begin) + 0.5)
            if not samples:
                raise ValueError(f'`{field}` {weight} leaves none of its {end - begin} images in an epoch')
            self._parts.append((begin, end - begin, samples))
        # The places of an epoch are what is shuffled and shared among the processes.
        super().__init__(range(sum(samples for *_, samples in self._parts)), True, seed, round_up)

    def __iter__(self) -> Iterator[int]:
        drawn = [index for number in range(len(self._parts)) for index in self._drawn(number)]
        for place in super().__iter__():
            yield DrawnIndex(drawn[place], place)

    def _drawn(self, number: int) -> list[int]:
        """Indices of a part's samples in this epoch."""
        begin, images, samples = self._parts[number]
        first, last = self.epoch * samples, (self.epoch + 1) * samples
        row: list[Any] = []
        for turn in range(first // images, -(-last // images)):
            generator = torch.Generator().manual_seed(derive_seed(self.seed, 'weighted', number, turn))
            row += torch.randperm(images, generator=generator).tolist()
        skipped = first // images * images
        return [begin + index for index in row[first - skipped : last - skipped]]
