"""Two processes with half a batch each are one process with the joint batch."""

import copy

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.nn.parallel import DistributedDataParallel

from mmpl.models import match_places
from tests.processes import START
from tests.test_models.helpers import build_msa, build_plmae, move_teachers, samples_of, scramble

STEPS = 3
VARIANTS = dict(
    centering={},
    sinkhorn=dict(label_head=dict(assignment='sinkhorn')),
    chunked_many_masks=dict(
        label_head=dict(assignment='sinkhorn', chunk_size=5), masking=dict(num_masks=2, predict_ratio=0.5)
    ),
    batch_norm_single_teacher=dict(head=dict(target_norm='batch'), single_teacher=True),
    folds=dict(teacher_input='folds', data_tokens='masked'),
    teacher_norm_batch=dict(label_head=dict(teacher_norm='batch')),
    teacher_norm_position=dict(label_head=dict(teacher_norm='position', assignment='sinkhorn')),
    student_norm=dict(label_head=dict(student_norm='batch'), masking=dict(num_masks=2)),
    student_norm_folds=dict(
        label_head=dict(student_norm='batch', teacher_norm='batch', assignment='sinkhorn', chunk_size=5),
        teacher_input='folds',
        data_tokens='masked',
    ),
    msa_shared=dict(masking=dict(num_masks=2)),
    msa_own_crop=dict(masking=dict(num_masks=2)),
    msa_batch_norm=dict(align_head=dict(norm='batch'), masking=dict(num_masks=2)),
    msa_infonce_tokens=dict(tokens_align_head=dict(loss='infonce')),
)
# of the weak and the strong view of each image: the first four overlap widely, the others little
BOXES = [[[0, 0, 16, 16], [i, 2 * i, 16 + i, 16 + 2 * i]] for i in range(4)]
BOXES += [[[0, 0, 16, 16], [8 + i, 12, 40, 44]] for i in range(4)]


def batch(variant: str, step: int, rows: slice) -> tuple:
    """Inputs and data samples of some of the eight images of a step."""
    images = torch.randn(8, 3, 16, 16, generator=torch.Generator().manual_seed(step))[rows]
    if not variant.startswith('msa'):
        return images, None
    return [images, images.flip(1) + 0.5], samples_of(BOXES[rows]) if variant == 'msa_own_crop' else None


def run(variant: str, rank: int, world_size: int) -> dict:
    """Some steps of SGD on this rank's part of a batch of eight; all that ought to be the same afterwards."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    build = build_msa if variant.startswith('msa') else build_plmae
    model = build(**copy.deepcopy(VARIANTS[variant]))
    scramble(model)
    model.copy_to_teachers()
    net = DistributedDataParallel(model, broadcast_buffers=False) if world_size > 1 else model
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    share = 8 // world_size
    record: dict = dict(losses=[])
    for step in range(STEPS):
        model.set_progress(step / STEPS)
        losses = net(*batch(variant, step, slice(rank * share, (rank + 1) * share)), mode='loss')
        optimizer.zero_grad()
        sum(losses.values()).backward()
        record['losses'].append({name: loss.detach() for name, loss in losses.items()})
        if step == 0:
            record['gradients'] = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
        optimizer.step()
        move_teachers(model, 0.9)
    record['state'] = copy.deepcopy(model.state_dict())
    return record


def worker(rank: int, folder: str) -> None:
    torch.set_num_threads(1)  # more of them hang in a fork
    dist.init_process_group('gloo', init_method=f'file://{folder}/group', rank=rank, world_size=2)
    torch.save({variant: run(variant, rank, 2) for variant in VARIANTS}, f'{folder}/{rank}.pth')
    dist.barrier()
    dist.destroy_process_group()


@pytest.fixture(scope='module')
def two_ranks(tmp_path_factory) -> list[dict]:
    """What the two processes recorded; started once for all variants."""
    folder = tmp_path_factory.mktemp('ranks')
    mp.start_processes(worker, args=(str(folder),), nprocs=2, start_method=START)
    return [torch.load(folder / f'{rank}.pth', weights_only=True) for rank in (0, 1)]


@pytest.mark.dist
@pytest.mark.parametrize('variant', VARIANTS)
def test_two_processes_are_one_with_the_joint_batch(variant, two_ranks):
    first, second = (rank[variant] for rank in two_ranks)
    joint = run(variant, 0, 1)
    for a, b, c in zip(first['losses'], second['losses'], joint['losses'], strict=True):
        for name, loss in c.items():
            torch.testing.assert_close((a[name] + b[name]) / 2, loss, rtol=1e-5, atol=1e-5)
            assert not torch.equal(a[name], b[name]), 'the two halves are different images'
    for name, gradient in joint['gradients'].items():
        torch.testing.assert_close(first['gradients'][name], gradient, rtol=1e-5, atol=1e-5, msg=name)
    for name, value in joint['state'].items():
        for rank in (first, second):
            torch.testing.assert_close(rank['state'][name], value, rtol=1e-5, atol=1e-5, msg=name)
    moved = [n for n in joint['state'] if n.endswith('center')]
    assert len(moved) == (0 if 'sinkhorn' in str(VARIANTS[variant]) or variant.startswith('msa') else 2)
    assert all(joint['state'][n].abs().max() > 1e-3 for n in moved)


def test_the_processes_have_unequal_numbers_of_matched_tokens():
    boxes = torch.tensor(BOXES).double()
    _, found = match_places(boxes[:, 0], boxes[:, 1], 4)
    assert found[:4].sum() > 3 * found[4:].sum() > 0
