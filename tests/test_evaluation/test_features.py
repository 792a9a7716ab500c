"""Feature extraction: right numbers, right order, each sample once, nothing disturbed."""

import copy
import random
import sys

import numpy as np
import pytest
import torch
from mmengine.dataset import default_collate, pseudo_collate
from torch import nn

from mmpl.compat import shutdown_distributed
from mmpl.evaluation import extract_features
from mmpl.evaluation.features import _gather_rows, evaluation_mode, pool_tokens
from mmpl.utils.dist import all_or_none
from mmpl.utils.seeds import preserve_rng_state
from tests.test_evaluation.probe_helpers import build_loader, build_mae, run_script, write_images


@pytest.fixture(scope='module')
def root(tmp_path_factory):
    return write_images(tmp_path_factory.mktemp('images') / 'train', per_class=3)


@pytest.fixture
def mae():
    return build_mae()


def by_hand(model, loader):
    """One image at a time, written out: read, swap BGR, normalise, encode without a mask, pool."""
    mean, std = torch.tensor([123.0, 117.0, 104.0]).view(3, 1, 1), torch.tensor([58.0, 57.0, 57.0]).view(3, 1, 1)
    model = copy.deepcopy(model).eval()
    cls, avg, labels = [], [], []
    with torch.no_grad():
        for item in (loader.dataset[index] for index in range(len(loader.dataset))):
            image = (item['inputs'].flip(0).float() - mean) / std
            tokens = model.backbone(image[None], mask=None)[-1][0]
            cls.append(tokens[0])
            avg.append(tokens[1:].mean(0))
            labels.append(int(item['data_samples'].gt_label))
    return torch.stack(cls), torch.stack(avg), torch.tensor(labels)


@pytest.mark.parametrize('collate', ['pseudo_collate', 'default_collate'])
@pytest.mark.parametrize('shuffle', [False, True])
def test_equals_one_image_at_a_time(root, mae, collate, shuffle):
    loader = build_loader(
        root, collate_fn=dict(type=collate), sampler=dict(type='DefaultSampler', shuffle=shuffle), batch_size=4
    )
    cls, avg, labels = by_hand(mae, loader)
    found = extract_features(mae, loader)
    assert torch.equal(found.labels, labels) and labels.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    torch.testing.assert_close(found.features['cls'], cls, rtol=0, atol=1e-5)
    torch.testing.assert_close(found.features['avg'], avg, rtol=0, atol=1e-5)
    assert found.features['cls'].dtype == torch.float32


def test_bare_backbone_and_workers(root, mae):
    expected = extract_features(mae, build_loader(root))
    loader = build_loader(root, batch_size=9)
    loader = type(loader)(loader.dataset, batch_size=4, num_workers=1, collate_fn=pseudo_collate)
    found = extract_features(mae.backbone, loader, data_preprocessor=mae.data_preprocessor, pool='avg')
    assert list(found.features) == ['avg']
    assert torch.equal(found.features['avg'], expected.features['avg'])
    with pytest.raises(ValueError, match='`data_preprocessor` must be given for MAEViT'):
        extract_features(mae.backbone, loader)


def test_teacher_features(root, mae):
    mae.slow = nn.Module()
    mae.slow.backbone = copy.deepcopy(mae.backbone)
    with torch.no_grad():
        for parameter in mae.slow.backbone.parameters():
            parameter.mul_(1.5)
    loader = build_loader(root)
    student = extract_features(mae, loader)
    teacher = extract_features(mae, loader, target='slow')
    assert not torch.allclose(student.features['cls'], teacher.features['cls'])
    mae.backbone = mae.slow.backbone
    assert torch.equal(extract_features(mae, loader).features['cls'], teacher.features['cls'])
    for other in ('fast', 'neck'):  # a child without an encoder is no teacher
        with pytest.raises(ValueError, match=rf"`target` must be an encoder of MAE .*'student', 'slow'.*got '{other}'"):
            extract_features(mae, loader, target=other)


def test_modes_gradients_and_random_states_stay(root, mae):
    mae.train()
    mae.neck.eval()
    mae.backbone.layers[1].eval()
    modes = [module.training for module in mae.modules()]
    next(mae.parameters()).grad = torch.ones_like(next(mae.parameters()))
    random.seed(1), np.random.seed(2), torch.manual_seed(3)
    before = random.getstate(), np.random.get_state(), torch.get_rng_state()
    extract_features(mae, build_loader(root, sampler=dict(type='DefaultSampler', shuffle=True)))
    assert [module.training for module in mae.modules()] == modes
    assert bool((next(mae.parameters()).grad == 1).all())
    assert random.getstate() == before[0]
    assert all(np.array_equal(a, b) for a, b in zip(np.random.get_state(), before[1], strict=True))
    assert torch.equal(torch.get_rng_state(), before[2])
    with pytest.raises(RuntimeError), preserve_rng_state(), evaluation_mode(mae):
        torch.rand(5), np.random.rand(5), random.random()
        raise RuntimeError
    assert [module.training for module in mae.modules()] == modes
    assert torch.equal(torch.get_rng_state(), before[2]) and random.getstate() == before[0]


def test_pooling():
    tokens = torch.arange(2 * 6 * 3.0).view(2, 6, 3)
    assert torch.equal(pool_tokens(tokens, 'cls'), tokens[:, 0])
    assert torch.equal(pool_tokens(tokens, 'avg'), tokens[:, 1:].mean(1))
    assert torch.equal(pool_tokens(tokens, 'avg', num_extra_tokens=2), tokens[:, 2:].mean(1))
    maps = torch.rand(2, 3, 4, 5)
    assert torch.allclose(pool_tokens(maps, 'avg'), maps.flatten(2).mean(2))
    with pytest.raises(ValueError, match='without class token'):
        pool_tokens(tokens, 'cls', num_extra_tokens=0)
    with pytest.raises(ValueError, match='feature map'):
        pool_tokens(maps, 'cls')
    with pytest.raises(ValueError, match="out_type='raw'"):
        pool_tokens(tokens[:, 0], 'cls')
    with pytest.raises(ValueError, match='cannot be told apart'):
        pool_tokens(tokens, 'avg', num_extra_tokens=None)


@pytest.mark.parametrize(
    ('loader', 'message'),
    [
        (dict(drop_last=True), '`dataloader` must visit all 9 samples, but 1 were never seen'),
        (dict(sampler=dict(type='InfiniteSampler')), '`sampler` must visit a sample at most once, but InfiniteSampler'),
    ],
)
def test_refuses_samplers_that_miss_or_repeat(root, mae, loader, message):
    with pytest.raises(ValueError, match=message):
        extract_features(mae, build_loader(root, **loader))


def test_refuses_bad_batches(root, mae):
    loader = build_loader(root)
    with pytest.raises(ValueError, match=r"`pool` must be one of \['avg', 'cls'\], but got 'max'"):
        extract_features(mae, loader, pool='max')
    items = [loader.dataset[0], loader.dataset[1]]
    small = dict(items[1], inputs=items[1]['inputs'][:, :8])

    def load(samples, collate=pseudo_collate):
        return torch.utils.data.DataLoader(samples, batch_size=2, collate_fn=collate)

    with pytest.raises(ValueError, match='`inputs` must be one image of equal shape'):
        extract_features(mae, load([items[0], small]))
    unlabelled = copy.deepcopy(items)
    del unlabelled[1]['data_samples'].gt_label
    with pytest.raises(
        ValueError, match='`gt_label` must be one class index per image, but got None .*000.png|001.png'
    ):
        extract_features(mae, load(unlabelled, default_collate))
    with pytest.raises(TypeError, match='a batch must be a dict'):
        extract_features(mae, load([torch.zeros(3, 16, 16)] * 2, torch.stack))


def _main(root, out):
    """Extract on two ranks and save what came out (run by torchrun)."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group('gloo')
    rank = torch.distributed.get_rank()
    rows = torch.arange(5.0 * (1 + 2 * rank)).view(-1, 5) + 100 * rank  # 1 row on rank 0, 3 on rank 1
    results = [_gather_rows(rows, chunk=2), _gather_rows(rows[: 3 * rank], chunk=2)]
    model = build_mae()
    for options in (dict(shuffle=False), dict(shuffle=True), dict(shuffle=True, round_up=False)):
        loader = build_loader(root, sampler=dict(type='DefaultSampler', **options), batch_size=2)
        counted = sum(len(batch['inputs']) for batch in loader)
        found = extract_features(model, loader)
        alone = extract_features(model, loader, dst=1)
        assert (alone is None) == (rank == 0)
        if rank == 1:
            assert torch.equal(alone.features['avg'], found.features['avg'])
        results.append((counted, found.features['cls'], found.features['avg'], found.labels))
    few = torch.utils.data.Subset(loader.dataset, [4])  # and none for rank 1
    one = torch.utils.data.DataLoader(few, sampler=[0][rank:], batch_size=1, collate_fn=pseudo_collate)
    assert torch.equal(extract_features(model, one).labels, found.labels[4:5])
    torch.save(results, f'{out}/{rank}.pth')
    # an error in one process is one in both, who would wait for each other
    error, said = (OSError, 'cut') if rank == 1 else (RuntimeError, 'process 1 failed: OSError: cut')
    with pytest.raises(error, match=said), all_or_none():
        if rank == 1:
            raise OSError('cut')
    shutdown_distributed()  # without waiting for the other, one may abort at its exit


@pytest.mark.dist
def test_two_processes_count_each_sample_once(root, mae, tmp_path):
    done = run_script(__file__, root, tmp_path, processes=2)
    assert done.returncode == 0, done.stderr[-4000:]
    expected = extract_features(mae, build_loader(root))
    for rank in range(2):
        ragged, empty_first, *found = torch.load(tmp_path / f'{rank}.pth')
        assert ragged.shape == (4, 5) and ragged[:, 0].tolist() == [0, 100, 105, 110]
        assert empty_first[:, 0].tolist() == [100, 105, 110]
        # 9 samples on 2 ranks: padded to 5 + 5, or 5 + 4 without padding
        assert [counted for counted, *_ in found] == [5, 5, 5 - rank]
        for _, cls, avg, labels in found:
            assert torch.equal(labels, expected.labels)
            torch.testing.assert_close(cls, expected.features['cls'], rtol=0, atol=1e-5)
            torch.testing.assert_close(avg, expected.features['avg'], rtol=0, atol=1e-5)


if __name__ == '__main__':
    _main(*sys.argv[1:])
