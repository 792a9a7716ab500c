"""A run whose processes hold shards equals one under DDP: on 2 and 4 of them, and on 2 copies of 2 shards.

Four processes are started once; they make all runs, as four and then as two pairs. Masks and images are put together
so that the joint batch of an iteration does not depend on the number of processes.
"""

import copy
import datetime
import os
import shutil
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from mmengine.dist import get_rank, get_world_size
from mmengine.hooks import Hook
from mmengine.registry import HOOKS, MODELS

from mmpl.compat import load_checkpoint
from mmpl.engine.hooks import ContinueGuardHook
from mmpl.engine.shards import whole_weights
from mmpl.models import RandomMasking
from mmpl.utils import transfer
from mmpl.utils.dist import is_sharded, local_shard, unwrapped
from tests.faults import runs
from tests.processes import START

DDP = dict(type='MMDistributedDataParallel', device_ids=None, broadcast_buffers=False)
FSDP = dict(type='mmpl.FullySharded')
HSDP = dict(type='mmpl.FullySharded', shard_size=2)
METHODS = ('plmae', 'msa')
EPOCHS = 2  # of three iterations
# Keys' biases do nothing in a softmax: their gradients are rounding, which Adam would scale up with a smaller `eps`.
ADAMW = dict(type='AdamW', lr=1e-3, eps=1e-6)


@MODELS.register_module(force=True)
class DealtMasking(RandomMasking):
    """Masks that are dealt to the processes as the sampler deals the images."""

    def draw(self, first, rows, num_patches):
        return super().draw(0, rows * get_world_size(), num_patches)[get_rank() :: get_world_size()]


@HOOKS.register_module(force=True)
class PoisonOneRank(Hook):
    """Makes one input of the last process NaN before an iteration."""

    def __init__(self, iteration: int) -> None:
        self.iteration = iteration

    def before_train_iter(self, runner, batch_idx, data_batch=None) -> None:
        if runner.iter + 1 == self.iteration and get_rank() == get_world_size() - 1:
            data_batch['inputs'] = data_batch['inputs'].clone()
            data_batch['inputs'][0, 0, 0, 0] = float('nan')


@HOOKS.register_module(force=True)
class Guarded(ContinueGuardHook):
    """Calls blocks between training steps."""

    def _load(self, runner) -> list[torch.Tensor]:
        return [torch.randn(4, 3, 20, 20, generator=torch.Generator().manual_seed(0))]


@HOOKS.register_module(force=True)
class LookInside(Hook):
    """Notes what a process holds, what teachers send as they move, and what parts of the model say when called."""

    priority = 'LOWEST'

    def before_train(self, runner) -> None:
        from torch.distributed.tensor.debug import CommDebugMode

        self.sent: list[int] = []
        for teacher in unwrapped(runner.model).teachers.values():

            def move(*args, inner=teacher.move, **kwargs) -> None:
                with CommDebugMode() as counts:
                    inner(*args, **kwargs)
                self.sent.append(counts.get_total_counts())

            teacher.move = move

    def after_train_epoch(self, runner) -> None:
        if not self.is_last_train_epoch(runner):
            return
        model = unwrapped(runner.model)
        images = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
        tokens = []
        for part in (model.backbone, next(iter(model.teachers.values())).backbone):
            with whole_weights(model, part), torch.no_grad():
                tokens += [part.encode(images)[0] for _ in range(1 + get_rank())]  # each as often as it likes
        again = model(images if model.num_views == 1 else [images] * 2, mode='loss')
        parameters = dict(model.named_parameters())
        groups = runner.optim_wrapper.optimizer.param_groups
        trained = [p for group in groups for p in group['params']]
        found = dict(
            sent=self.sent,
            tokens=[tokens[0], tokens[-1]],
            again={name: loss.detach() for name, loss in again.items()},
            sharded=[is_sharded(p) for p in parameters.values()],
            held=sum(local_shard(p).numel() for p in parameters.values()),
            all=sum(p.numel() for p in parameters.values()),
            averages=sum(
                local_shard(value).numel()
                for state in runner.optim_wrapper.optimizer.state.values()
                for name, value in state.items()
                if name != 'step'
            ),
            trained=sum(local_shard(p).numel() for p in trained if p.requires_grad),
            same=all(any(p is q for q in parameters.values()) for p in trained),
        )
        torch.save(found, f'{runner.work_dir}/inside_{get_rank()}.pth')


# ---------------------------------------------------------------------- the runs


def fields_of(method: str, **fields) -> dict:
    """A run without what differs between processes: of eight images an iteration, as four have them."""
    arch = dict(embed_dims=32, num_layers=2, num_heads=2, feedforward_channels=64)
    model = dict(
        backbone=dict(arch=arch, img_size=16, patch_size=4) | fields.pop('backbone', {}),
        masking=dict(type='mmengine.DealtMasking', _scope_='mmengine'),
    )
    return dict(
        dict(method=method, epochs=EPOCHS, model=model, loader=dict(batch_size=2), launcher='pytorch'),
        log_level='INFO',
        hooks=(runs.own_hook('LookInside'), *fields.pop('hooks', ())),
        optim_wrapper=dict(optimizer=ADAMW) | fields.pop('optim_wrapper', {}),
        **fields,
    )


HARD = dict(  # all that may interfere at once
    backbone=dict(with_cp=True),
    optim_wrapper=dict(accumulative_counts=3, dtype='bfloat16'),
    hooks=(dict(type='mmpl.CompileHook', backend='eager'), runs.own_hook('Guarded')),
)
LATE = dict(optim_wrapper=dict(optimizer=dict(ADAMW, fused=True)))
POISON = dict(hooks=(runs.own_hook('PoisonOneRank', iteration=3),))
OF_FOUR = {
    **{f'{method}-{name}': (wrapper, fields_of(method)) for method in METHODS for name, wrapper in
       dict(ddp4=DDP, fsdp4=FSDP, hsdp=HSDP).items()},
    **{f'hard-{name}': (wrapper, fields_of('plmae', **HARD)) for name, wrapper in dict(ddp4=DDP, hsdp=HSDP).items()},
    **{f'poison-{name}': (wrapper, fields_of('plmae', **POISON)) for name, wrapper in
       dict(ddp4=DDP, fsdp4=FSDP).items()},
    **{f'late-{name}': (wrapper, fields_of('plmae', **POISON, **LATE)) for name, wrapper in
       dict(ddp4=DDP, hsdp=HSDP).items()},
}  # fmt: skip


def of_two(pair: int) -> dict:
    """Runs of a pair of processes: the first makes those under DDP."""
    name, wrapper = [('ddp2', DDP), ('fsdp2', FSDP)][pair]
    joint = dict(loader=dict(batch_size=4))
    fresh = {f'{method}-{name}': (wrapper, fields_of(method) | joint) for method in METHODS}
    resumed = {f'{method}-fsdp4-{name}': (wrapper, fields_of(method) | joint) for method in METHODS}
    return fresh | resumed


def make(folder: Path, jobs: dict, rank: int, world_size: int, group: str) -> None:
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(world_size))
    dist.init_process_group(
        'gloo',
        init_method=f'file://{folder}/{group}',
        rank=rank,
        world_size=world_size,
        timeout=datetime.timedelta(seconds=120),
    )
    reads_late = transfer.reading_waits
    for name, (wrapper, fields) in jobs.items():
        transfer.reading_waits = (lambda device: True) if name.startswith('late') else reads_late
        torch._dynamo.reset()
        runner = runs.run(folder / name, model_wrapper_cfg=dict(wrapper), **copy.deepcopy(fields))
        assert type(runner.model).__name__ == wrapper['type'].removeprefix('mmpl.')
    dist.barrier()
    dist.destroy_process_group()


def cut_short(folder: Path, whole: str, part: str) -> None:
    """Leave in a work folder what a run that was stopped after its first epoch leaves there."""
    (folder / part).mkdir()
    for name in ('epoch_1.pth', 'epoch_1.pth.sha256'):
        shutil.copy(folder / whole / name, folder / part / name)


def worker(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    make(Path(folder), OF_FOUR, rank, 4, 'four')
    pair, rank = divmod(rank, 2)
    jobs = of_two(pair)
    if rank == 0:
        for name in jobs:
            if 'fsdp4-' in name:
                cut_short(Path(folder), name.rpartition('-')[0], name)
    make(Path(folder), jobs, rank, 2, f'pair {pair}')


@pytest.fixture(scope='module')
def work(tmp_path_factory) -> Path:
    """The folder of all runs."""
    folder = tmp_path_factory.mktemp('sharded')
    mp.start_processes(worker, args=(str(folder),), nprocs=4, start_method=START)
    return folder


# ---------------------------------------------------------------------- what they must have in common


def assert_same_run(work: Path, name: str, reference: str, tolerance: float = 1e-5, logs: bool = True) -> None:
    """Weights, teachers, optimizer, schedules and logs of two runs, from their last checkpoints.

    Losses are logged as the first process has them, which has other images where there are fewer processes.
    """
    found, expected = (load_checkpoint(work / run / f'epoch_{EPOCHS}.pth') for run in (name, reference))
    assert list(found['state_dict']) == list(expected['state_dict'])
    for key, value in expected['state_dict'].items():
        torch.testing.assert_close(found['state_dict'][key], value, rtol=0, atol=tolerance, msg=f'{name}: {key}')
    groups = [checkpoint['optimizer']['param_groups'] for checkpoint in (found, expected)]
    assert [group['params'] for group in groups[0]] == [group['params'] for group in groups[1]]
    state, other = (checkpoint['optimizer']['state'] for checkpoint in (found, expected))
    assert list(state) == list(other)
    for index, values in other.items():
        assert list(state[index]) == list(values)
        for key, value in values.items():
            assert type(state[index][key]) is torch.Tensor
            torch.testing.assert_close(state[index][key], value, rtol=0, atol=tolerance, msg=f'{name}: {index} {key}')
    assert found['param_schedulers'] == expected['param_schedulers']
    scalars, others = (checkpoint['message_hub']['log_scalars'] for checkpoint in (found, expected))
    assert set(scalars) == set(others)
    for key, history in others.items():
        if logs and 'time' not in key and 'memory' not in key:
            torch.testing.assert_close(
                torch.as_tensor(scalars[key].data[0]), torch.as_tensor(history.data[0]), rtol=10 * tolerance,
                atol=10 * tolerance, msg=f'{name}: {key}', check_dtype=False, equal_nan=True,
            )  # fmt: skip


@pytest.mark.dist
@pytest.mark.parametrize('method', METHODS)
@pytest.mark.parametrize(('name', 'reference'), [('fsdp2', 'ddp2'), ('fsdp4', 'ddp4'), ('hsdp', 'ddp4')])
def test_it_equals_a_run_under_ddp(method, name, reference, work):
    assert_same_run(work, f'{method}-{name}', f'{method}-{reference}')


@pytest.mark.dist
@pytest.mark.parametrize('method', METHODS)
@pytest.mark.parametrize('name', ['fsdp2', 'ddp2'])
def test_a_checkpoint_of_four_goes_on_in_two_and_under_ddp(method, name, work):
    assert_same_run(work, f'{method}-fsdp4-{name}', f'{method}-ddp4', logs=False)
    assert 'resumed epoch: 1, iter: 3' in runs.logs_of(work / f'{method}-fsdp4-{name}')


@pytest.mark.dist
@pytest.mark.parametrize('method', METHODS)
def test_a_checkpoint_of_four_goes_on_in_one(method, work):
    cut_short(work, f'{method}-fsdp4', f'{method}-fsdp4-one')
    fields = fields_of(method) | dict(loader=dict(batch_size=8), launcher='none', hooks=())
    runs.run(work / f'{method}-fsdp4-one', **fields)
    assert_same_run(work, f'{method}-fsdp4-one', f'{method}-ddp4', logs=False)


@pytest.mark.dist
def test_recomputation_accumulation_bf16_and_compiled_blocks(work):
    assert_same_run(work, 'hard-hsdp', 'hard-ddp4', tolerance=1e-4)  # bf16 rounds what differs in the last bit


@pytest.mark.dist
@pytest.mark.parametrize('kind', ['poison-fsdp4', 'late-hsdp'])
def test_a_bad_step_is_skipped_by_all(kind, work):
    assert_same_run(work, kind, f'{kind.partition("-")[0]}-ddp4')
    hub = load_checkpoint(work / kind / f'epoch_{EPOCHS}.pth')['message_hub']
    assert hub['runtime_info']['skipped_steps'] == 1
    assert 'rank 3: the input data_batch' in runs.logs_of(work / kind)


def inside(work: Path, name: str, processes: int) -> list[dict]:
    return [torch.load(work / name / f'inside_{rank}.pth', weights_only=True) for rank in range(processes)]


@pytest.mark.dist
@pytest.mark.parametrize('method', METHODS)
@pytest.mark.parametrize(('name', 'processes', 'shards'), [('fsdp2', 2, 2), ('fsdp4', 4, 4), ('hsdp', 4, 2)])
def test_each_process_holds_its_share(method, name, processes, shards, work):
    found = inside(work, f'{method}-{name}', processes)
    for rank in found:
        assert all(rank['sharded']) and rank['same']
        # the first of them holds tokens and position embeddings, which are one row
        assert rank['all'] / shards * 0.85 < rank['held'] < rank['all'] / shards * 1.25
        assert rank['averages'] == 2 * rank['trained']
    copies = processes // shards
    assert sum(rank['held'] for rank in found) == copies * found[0]['all']


@pytest.mark.dist
@pytest.mark.parametrize('run', ['plmae-fsdp2', 'plmae-fsdp4', 'plmae-hsdp', 'msa-fsdp4', 'msa-hsdp', 'late-hsdp'])
def test_teachers_send_nothing_as_they_move(run, work):
    for rank in inside(work, run, 2 if run.endswith('2') else 4):
        teachers = 1 if run.startswith('msa') else 2
        taken = 3 * EPOCHS - run.startswith('late')  # on the device the bad step is no step, but it is called
        assert len(rank['sent']) in (teachers * taken, teachers * 3 * EPOCHS)
        assert not any(rank['sent'])


@pytest.mark.dist
@pytest.mark.parametrize('method', METHODS)
@pytest.mark.parametrize(('name', 'reference'), [('fsdp2', 'ddp2'), ('fsdp4', 'ddp4'), ('hsdp', 'ddp4')])
def test_parts_are_called_with_whole_weights_and_the_model_goes_on(method, name, reference, work):
    processes = int(reference[-1])
    for found, expected in zip(
        inside(work, f'{method}-{name}', processes), inside(work, f'{method}-{reference}', processes), strict=True
    ):
        for tokens, others in zip(found['tokens'], expected['tokens'], strict=True):
            torch.testing.assert_close(tokens, others, rtol=1e-4, atol=1e-5)
        for key, loss in expected['again'].items():
            torch.testing.assert_close(found['again'][key], loss, rtol=1e-4, atol=1e-5)
