"""Shards and rows hold the images that a folder holds, in any order, for any number of readers."""

from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.dataset import default_collate
from mmengine.registry import DATASETS, init_default_scope
from torch.utils.data import DataLoader

from mmpl.datasets import GuardedDataset, ResumableSampler
from tests.faults.runs import EVERY, differences, final_state, run, stopped
from tests.test_datasets.sources import COUNT, write_folder, write_rows, write_shards

every_source = pytest.mark.parametrize('write', [write_shards, write_rows])


@pytest.fixture(autouse=True)
def _scope() -> None:
    init_default_scope('mmpretrain')


@every_source
def test_the_same_images_as_a_folder(write, tmp_path: Path) -> None:
    """With the same seeds also the same crops, to the bit."""
    readers = [DATASETS.build(cfg) for cfg in (write(tmp_path / 'source'), write_folder(tmp_path / 'folder'))]
    assert [len(reader) for reader in readers] == [COUNT, COUNT]
    for index in range(COUNT):
        pixels = []
        for reader in readers:
            np.random.seed(index)
            pixels.append(reader[index]['inputs'])
        assert torch.equal(*pixels)


class Numbered(GuardedDataset):
    """Each sample is its index."""

    def __getitem__(self, index: int) -> int:
        assert super().__getitem__(index)['inputs'].shape == (3, 16, 16)
        return int(index)


@pytest.mark.dist
@every_source
def test_each_image_once_over_ranks_and_workers(write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two ranks with two workers each; resumed inside of an epoch, the rest of it."""
    source = write(tmp_path / 'source')
    seen: list[int] = []
    rest: list[int] = []
    for rank in range(2):
        monkeypatch.setattr('mmengine.dataset.sampler.get_dist_info', lambda rank=rank: (rank, 2))
        dataset = Numbered(source)
        sampler = ResumableSampler(dataset, dict(type='DefaultSampler', shuffle=True), seed=0)
        own = [i for batch in DataLoader(dataset, 4, sampler=sampler, num_workers=2) for i in batch.tolist()]
        seen += own
        sampler.skip = 5
        loader = DataLoader(dataset, 4, sampler=sampler, num_workers=2, collate_fn=default_collate)
        rest += [i for batch in loader for i in batch.tolist()]
        assert rest[-len(own) + 5 :] == own[5:]
    assert sorted(seen) == list(range(COUNT))


LOADER = dict(num_workers=1, persistent_workers=True)


@pytest.fixture(scope='module')
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> dict:
    """State at the end of a run on the folder."""
    path = tmp_path_factory.mktemp('folder')
    init_default_scope('mmpretrain')
    run(path / 'run', checkpoint=EVERY, loader=dict(LOADER, dataset=write_folder(path / 'folder')))
    return final_state(path / 'run' / 'epoch_3.pth')


@pytest.mark.slow
@every_source
def test_resumed_is_uninterrupted(write, tmp_path: Path, uninterrupted: dict) -> None:
    """And the same as a folder, to the bit."""
    loader = dict(LOADER, dataset=write(tmp_path / 'source'))
    stopped(tmp_path / 'run', 9, checkpoint=EVERY, loader=loader)
    run(tmp_path / 'run', checkpoint=EVERY, loader=loader)
    assert differences(uninterrupted, final_state(tmp_path / 'run' / 'epoch_3.pth')) == []
