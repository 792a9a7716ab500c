"""Every pre-training config at full size on fake CUDA tensors, as the first of eight processes; no GPU is needed."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmpretrain.registry import MODELS

import fake_cuda

ROOT = Path(__file__).resolve().parents[2]
TOOL = ROOT / 'tools/benchmarks/fake_cuda.py'
PRESETS = {path.stem: path for path in fake_cuda.presets()}
GIB = 2**30
pytestmark = [pytest.mark.fake_cuda, pytest.mark.slow]
every_preset = pytest.mark.parametrize('name', PRESETS)

# What an ordinary step may do. It may not wait at all.
COPIES = {
    'asynchronous cpu -> cuda in mmpl/models/preprocessor.py:forward',  # the images
    'asynchronous cpu -> cuda in mmpl/utils/transfer.py:to_device',  # noise of the masks; boxes, groups of windows
    'asynchronous cuda -> cpu in mmpl/utils/transfer.py:__init__',  # whether the step was good, read after the next
}
COLLECTIVES = {
    'mmpl/engine/optimizers/guarded_wrapper.py:_found_bad',
    'mmpl/engine/hooks/non_finite_hook.py:look_at_state',
    'mmpl/utils/preemption.py:received',  # whether a process was told to stop
    'mmpl/utils/dist.py:global_sum',  # centres, codebook, joint means
    'mmpl/utils/dist.py:global_logsumexp',  # Sinkhorn
    'mmpl/utils/dist.py:global_concat',  # tokens that InfoNCE compares
    'mmpl/models/codebook.py:after_step',
    'torch',  # the backward pass of a joint mean, which autograd calls
}
# And what a look at the health and the log, every 10th and 100th step, may do beside it.
WAITS_OF_A_LOOK = {'mmpl/engine/hooks/log_history_hook.py:fetch'}
COPIES_OF_A_LOOK = {'BLOCKING cuda -> cpu in mmpl/utils/figures.py:_to_host'}
COLLECTIVES_OF_A_LOOK = {'mmpl/utils/figures.py:measured'}


def measure(*arguments: str) -> dict:
    command = [sys.executable, '-W', 'ignore', str(TOOL), '--json', *arguments]
    found = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert found.stdout, found.stderr[-3000:]
    return json.loads(found.stdout.splitlines()[-1])


@pytest.fixture(scope='module')
def runs() -> dict:
    """What was counted of each preset."""
    return measure()


def places(entries: dict) -> set[str]:
    return {entry.rsplit(' in ', maxsplit=1)[1] for entry in entries}


@every_preset
def test_it_runs_with_no_mismatch_of_devices_or_types(name, runs) -> None:
    assert 'error' not in runs[name], runs[name]['error']


@every_preset
def test_an_ordinary_step_does_not_wait(name, runs) -> None:
    step = runs[name]['ordinary']
    assert step['waits'] == {}
    assert step['copies'].keys() <= COPIES
    assert step['copies'].keys() >= {key for key in COPIES if 'to_device' not in key}  # or nothing was seen


@every_preset
def test_a_look_at_the_health_waits_for_what_it_logs(name, runs) -> None:
    step = runs[name]['look']
    assert places(step['waits']) <= WAITS_OF_A_LOOK
    assert step['copies'].keys() <= COPIES | COPIES_OF_A_LOOK


@every_preset
def test_collectives_are_known_and_on_the_device(name, runs) -> None:
    for step, allowed in (('ordinary', COLLECTIVES), ('look', COLLECTIVES | COLLECTIVES_OF_A_LOOK)):
        collectives = runs[name][step]['collectives']
        assert collectives and all(re.match(r'\w+ cuda \d+ bytes', entry) for entry in collectives)
        assert places(collectives) <= allowed


def test_no_rank_skips_a_collective(runs) -> None:
    names = ['pl_mae_vitb_sinkhorn', 'pl_mae_vitb_discrete', 'msa_vitb']
    others = measure(*(str(PRESETS[name]) for name in names), '--rank', '7')
    for name in names:
        for step in ('ordinary', 'look'):
            assert others[name][step]['collectives'] == runs[name][step]['collectives']


def rows_in_docs() -> dict[str, list[str]]:
    text = (ROOT / 'docs/performance.md').read_text()
    rows = re.findall(r'^\| `(\w+)` \|(.*)\|$', text.split('### Memory on a GPU')[1].split('\n#')[0], re.MULTILINE)
    return {name: [cell.strip() for cell in cells.split('|')] for name, cells in rows}


@every_preset
def test_memory_is_what_the_docs_say(name, runs) -> None:
    if name not in rows_in_docs():
        assert max(runs[name]['peak'].values()) < GIB
        return
    batch, peak, rest, *phases = rows_in_docs()[name]
    assert int(batch) == runs[name]['batch'] == Config.fromfile(PRESETS[name]).train_dataloader.batch_size
    by_phase = [runs[name]['peak'][phase] for phase in fake_cuda.PHASES]
    found = [size / GIB for size in (max(by_phase), runs[name]['rest'], *by_phase)]
    assert found == pytest.approx([float(size) for size in (peak, rest, *phases[:4])], rel=0.02, abs=0.06)


@pytest.mark.parametrize('name', ['pl_mae_vitb', 'msa_vitb'])
def test_what_rests_between_steps_is_known(name, runs) -> None:
    """Weights, AdamW's two moments, teachers; no gradients and no activations."""
    with torch.device('meta'):
        model = MODELS.build(Config.fromfile(PRESETS[name]).model)
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    frozen = sum(p.numel() for p in model.parameters() if not p.requires_grad)
    assert runs[name]['rest'] == pytest.approx(4 * (3 * trained + frozen), rel=0.01)


SEEN = """
import json, sys, torch
sys.path.insert(0, 'tools/benchmarks')
import fake_cuda
from torch._subclasses.fake_tensor import FakeTensorMode
watch = fake_cuda.Watch()
fake_cuda.pretend(watch, 1, 0)
with FakeTensorMode(), watch:
    host, device = torch.ones(64), torch.ones(64, device='cuda')
    assert watch.bytes == 512
    other = device.reshape(8, 8)[:2]
    assert watch.bytes == 512, 'a view takes nothing'
    third = device + 1
    assert watch.bytes == 1024 and watch.peaks['building'] == 1024
    del third
    assert watch.bytes == 512, 'what is freed counts no more'
    acts = dict(
        item=lambda: device.sum().item(), branch=lambda: bool(device.sum() > 0), nonzero=lambda: device.nonzero(),
        bools=lambda: device[device > 0], bincount=lambda: torch.bincount(device.long(), minlength=3),
        unique=lambda: device.unique(), masked=lambda: device.masked_select(device > 0),
        event=lambda: [event := torch.cuda.Event(), event.record(), event.synchronize()],
        pageable=lambda: host.to('cuda', non_blocking=True), blocking=lambda: host.pin_memory().to('cuda'),
        pinned=lambda: host.pin_memory().to('cuda', non_blocking=True), back=lambda: device.cpu(),
        late=lambda: device.to('cpu', non_blocking=True), scalar=lambda: torch.tensor(3.0, device='cuda'),
        listed=lambda: device[[0, 1]], filled=lambda: torch.full((), 3.0, device='cuda'), mixed=lambda: device + host,
    )
    found = {}
    for number, (name, act) in enumerate(acts.items(), 1):
        watch.iteration, errors = number, []
        try:
            act()
        except Exception as error:
            errors.append(type(error).__name__)
        kinds = {entry.split(' ')[0] for entry in watch.copies[number]}
        found[name] = ['wait'] * bool(watch.waits[number]) + [*kinds] + errors
print(json.dumps(found))
"""


def test_what_waits_is_seen() -> None:
    output = subprocess.run([sys.executable, '-W', 'ignore', '-c', SEEN], capture_output=True, text=True, cwd=ROOT)
    assert output.returncode == 0, output.stderr[-3000:]
    found = json.loads(output.stdout.splitlines()[-1])
    for name in ('item', 'branch', 'bools', 'bincount', 'event'):
        assert found[name] == ['wait'], name
    for name in ('nonzero', 'unique', 'masked'):  # their shapes follow from numbers: a run with one of them ends
        assert found[name] == ['wait', 'DynamicOutputShapeException'], name
    for name in ('pageable', 'blocking', 'back', 'scalar', 'listed'):
        assert found[name] == ['BLOCKING'], name
    assert found['pinned'] == found['late'] == ['asynchronous']
    assert found['filled'] == [] and found['mixed'] == ['FakeTensorDeviceMismatchError']
