"""Several data sets by weight: how often each image comes, in any epoch, over ranks, and after a resume."""

from collections import Counter
from pathlib import Path

import pytest
import torch
from mmengine.dataset import ConcatDataset
from mmengine.registry import init_default_scope
from torch.utils.data import DataLoader

from mmpl.datasets import GuardedDataset, ResumableSampler, WeightedSampler
from tests.faults.runs import EVERY, differences, final_state, run, stopped
from tests.test_datasets.sources import COUNT, PIPELINE, write_folder, write_shards

SIZES, WEIGHTS = (10, 4, 7), (0.25, 3, 1.5)  # 3, 12 and 11 samples an epoch


class Parts:
    """Sizes of data sets in a row, as ``ConcatDataset`` has them."""

    cumulative_sizes = [10, 14, 21]

    def __len__(self) -> int:
        return 21


def counts(epochs: range, sampler: WeightedSampler) -> Counter:
    found: Counter = Counter()
    for epoch in epochs:
        sampler.set_epoch(epoch)
        found.update(int(index) for index in sampler)
    return found


@pytest.mark.parametrize('epochs', [range(1), range(3), range(5, 6), range(2, 9), range(28)])
def test_counts(epochs: range) -> None:
    """Of each part what its weight says, and within it no image more than once oftener than another."""
    sampler = WeightedSampler(Parts(), WEIGHTS, seed=3)
    assert len(sampler) == 26
    found = counts(range(epochs.stop), sampler)
    for begin, size, samples in ((0, 10, 3), (10, 4, 12), (14, 7, 11)):
        per_image = [found[index] for index in range(begin, begin + size)]
        assert sum(per_image) == samples * epochs.stop
        assert max(per_image) - min(per_image) <= 1
    some = counts(epochs, sampler)
    assert sum(some[index] for index in range(10, 14)) == 12 * len(epochs)


def test_another_order_each_epoch_and_seed() -> None:
    orders = set()
    for seed in (0, 1):
        sampler = WeightedSampler(Parts(), WEIGHTS, seed=seed)
        for epoch in (0, 1):
            sampler.set_epoch(epoch)
            orders.add(tuple(map(int, sampler)))
            assert tuple(map(int, sampler)) in orders
    assert len(orders) == 4


def test_an_image_that_comes_thrice_has_three_crops() -> None:
    sampler = ResumableSampler(Parts(), dict(type='mmpl.WeightedSampler', weights=WEIGHTS), seed=0)
    seeds: dict[int, set[int]] = {}
    for index in sampler:
        seeds.setdefault(int(index), set()).add(index.seed)
    assert [len(seeds[index]) for index in range(10, 14)] == [3] * 4


@pytest.mark.parametrize(
    ('dataset', 'weights', 'message'),
    [
        (Parts(), (1, 2), r'`train_dataloader.sampler.weights` must be a list of 3 numbers.*\(1, 2\)'),
        (Parts(), 2, 'must be a list of 3 numbers'),
        (Parts(), (1, 0, 1), r'weights\[1\]` must be'),
        (Parts(), (1, float('nan'), 1), r'weights\[1\]` must be'),
        (Parts(), (0.01, 1, 1), r'weights\[0\]` 0.01 leaves none of its 10 images'),
        (range(4), (1,), 'needs a `dataset` of type ConcatDataset, but got range'),
    ],
)
def test_what_is_refused(dataset, weights, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        WeightedSampler(dataset, weights, seed=0)


def folder_and_shards(path: Path) -> dict:
    """Of a list of five images of the folder, and of all of the shards."""
    folder = write_folder(path / 'folder')
    (path / 'folder' / 'list.txt').write_text('# five\n000.jpg\n003.png\n008.jpg\n011.png\n025.png\n')
    return dict(type='ConcatDataset', datasets=[dict(folder, ann_file='list.txt'), write_shards(path / 'shards')])


class Numbered(GuardedDataset):
    """Each sample is its index."""

    def __getitem__(self, index: int) -> int:
        assert super().__getitem__(index)['inputs'].shape == (3, 16, 16)
        return int(index)


@pytest.mark.dist
def test_two_ranks_with_two_workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Together each sample once; resumed inside of an epoch, the rest of it."""
    init_default_scope('mmpretrain')
    cfg, seen = folder_and_shards(tmp_path), []
    for rank in range(2):
        monkeypatch.setattr('mmengine.dataset.sampler.get_dist_info', lambda rank=rank: (rank, 2))
        dataset = Numbered(cfg)
        assert isinstance(dataset.dataset, ConcatDataset)
        sampler = ResumableSampler(dataset, dict(type='mmpl.WeightedSampler', weights=[2, 1]), seed=0)
        own = [i for batch in DataLoader(dataset, 4, sampler=sampler, num_workers=2) for i in batch.tolist()]
        sampler.skip = 5
        rest = [i for batch in DataLoader(dataset, 4, sampler=sampler, num_workers=2) for i in batch.tolist()]
        assert rest == own[5:]
        seen += own
    assert Counter(seen) == Counter({**dict.fromkeys(range(5), 2), **dict.fromkeys(range(5, 5 + COUNT), 1)})


@pytest.mark.slow
def test_resumed_is_uninterrupted(tmp_path: Path) -> None:
    """To the bit, with the state of the samplers' epochs."""
    init_default_scope('mmpretrain')
    sampler = dict(type='mmpl.WeightedSampler', weights=[1.6, 0.75])  # 8 and 20 of 5 and 26
    loader = dict(dataset=folder_and_shards(tmp_path), sampler=sampler, num_workers=1, persistent_workers=True)
    run(tmp_path / 'whole', checkpoint=EVERY, loader=loader)
    stopped(tmp_path / 'run', 9, checkpoint=EVERY, loader=loader)
    run(tmp_path / 'run', checkpoint=EVERY, loader=loader)
    states = [final_state(tmp_path / name / 'epoch_3.pth') for name in ('whole', 'run')]
    assert differences(*states) == []
    position = torch.load(tmp_path / 'run' / 'epoch_3.pth', weights_only=False)['mmpl_resume']
    assert position['num_samples'] == 28
    assert PIPELINE[0]['type'] == 'mmpl.LoadRandomResizedCrop'  # whose crops are random
