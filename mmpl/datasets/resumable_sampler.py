"""A sampler that can start inside an epoch, and whose indices say how to seed the transforms of their sample."""

from collections.abc import Iterator, Sized
from itertools import islice
from typing import Any

from torch.utils.data import Sampler

from mmpl.registry import DATA_SAMPLERS
from mmpl.utils.seeds import derive_seed


class SeededIndex(int):
    """An index into a dataset that carries the seed of its sample; it travels to data loader workers as it is."""

    seed: int  # of the random transforms of this sample in this epoch

    def __new__(cls, value: int, seed: int = 0) -> 'SeededIndex':
        """The index ``value`` with the seed of its sample."""
        self = super().__new__(cls, value)
        self.seed = seed
        return self


class DrawnIndex(int):
    """An index that an epoch may hold several times, with its place among them."""

    place: int

    def __new__(cls, value: int, place: int) -> 'DrawnIndex':
        """The index ``value`` at ``place``."""
        self = super().__new__(cls, value)
        self.place = place
        return self


@DATA_SAMPLERS.register_module()
class ResumableSampler(Sampler):
    """Wraps a sampler whose order is a function of its seed and its epoch, such as mmengine's ``DefaultSampler``.

    The seed of a sample is a hash of (:attr:`sample_seed`, epoch, index) and the place of a :class:`DrawnIndex`, so its
    augmentations depend neither on how many workers there are nor on what was drawn before, and a resumed epoch needs
    no data to be replayed.

    Args:
        dataset: What is sampled from.
        sampler: Config of the wrapped sampler.
        seed: Of the wrapped sampler; mmengine fills it in.

    Attributes:
        sample_seed: Base of the seeds of all samples; the training loop sets it.
        skip: Samples of this process to leave out at the start of the next pass.
    """

    def __init__(self, dataset: Sized, sampler: dict, seed: int | None = None) -> None:
        self.sampler = DATA_SAMPLERS.build(sampler, default_args=dict(dataset=dataset, seed=seed))
        self.sample_seed = 0
        self.epoch = 0
        self.skip = 0

    def __iter__(self) -> Iterator[SeededIndex]:
        for index in islice(self.sampler, self.skip, None):
            place = (index.place,) if isinstance(index, DrawnIndex) else ()
            yield SeededIndex(index, derive_seed(self.sample_seed, 'sample', self.epoch, int(index), *place))

    def __len__(self) -> int:
        return len(self.sampler)

    def set_epoch(self, epoch: int) -> None:
        """Say which epoch the next pass is."""
        self.epoch = epoch
        if hasattr(self.sampler, 'set_epoch'):
            self.sampler.set_epoch(epoch)

    def __getattr__(self, name: str) -> Any:
        if name.startswith('__') or name == 'sampler':
            raise AttributeError(name)
        return getattr(self.sampler, name)
