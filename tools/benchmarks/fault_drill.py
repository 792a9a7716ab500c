"""Kill, poison and corrupt tiny runs, and print what was lost.

    python tools/benchmarks/fault_drill.py --out work_dirs/fault_drill [--kills 30] [--parts kill fuzz ...]

Each trial is one line of OUT/results.jsonl; trials that are there are not repeated, so the drill itself can be killed.
What is killed at a chosen moment is forked from this process, which has everything imported. CPU only, one thread each.
"""

import argparse
import copy
import ctypes
import gc
import json
import multiprocessing
import os
import random
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402
import pandas as pd  # noqa: E402
import torch  # noqa: E402
from mmengine.config import Config  # noqa: E402
from mmengine.hooks import Hook  # noqa: E402
from mmengine.registry import HOOKS  # noqa: E402
from mmengine.runner import Runner  # noqa: E402

import mmpl.datasets  # noqa: E402
import mmpl.engine  # noqa: E402
import mmpl.models  # noqa: E402, F401  (all here, so that no child has to import it)
from bench.jobs import Ended, Job, run_jobs  # noqa: E402
from bench.tables import as_markdown  # noqa: E402
from mmpl.apis.train import set_loader_defaults  # noqa: E402
from mmpl.utils.config_errors import explained_by  # noqa: E402
from mmpl.utils.user_errors import user_errors  # noqa: E402
from tests.faults.runs import differences, final_state, noise_cfg, run, run_rank  # noqa: E402

TIMEOUT = 300  # seconds after which a process counts as hung


@HOOKS.register_module(force=True)
class Progress(Hook):
    """Tells the drill which iterations were begun and ended."""

    priority = 'LOWEST'

    def __init__(self, path: str) -> None:
        self.file = open(path, 'ab', buffering=0)  # noqa: SIM115

    def before_train(self, runner: Runner) -> None:
        """Where the run begins."""
        self.file.write(b's%d\n' % runner.iter)

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """One more."""
        self.file.write(b'i%d\n' % (runner.iter + 1))


@HOOKS.register_module(force=True)
class MemoryLog(Hook):
    """Notes the resident memory of the process, with what was freed in it or, with ``held``, without."""

    priority = 'LOWEST'

    def __init__(self, path: str, held: bool, interval: int = 20) -> None:
        self.path, self.held, self.interval = path, held, interval

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """A line every few iterations."""
        if self.every_n_train_iters(runner, self.interval):
            if self.held:
                gc.collect()
                ctypes.CDLL(None).malloc_trim(0)  # of glibc
            pages = int(Path('/proc/self/statm').read_text().split()[1])
            with open(self.path, 'a', encoding='utf-8') as file:
                file.write(f'{runner.iter + 1} {pages * os.sysconf("SC_PAGE_SIZE") / 1024}\n')


def fork(work: Callable[[], Any], log: Path) -> BaseProcess:
    """Start a forked child in a process group of its own, whose output goes to ``log``."""
    log.parent.mkdir(parents=True, exist_ok=True)

    def child() -> None:
        os.setsid()
        descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        torch.set_num_threads(1)
        work()

    sys.stdout.flush()
    process = multiprocessing.get_context('fork').Process(target=child)
    process.start()
    return process


def kill(process: BaseProcess) -> None:
    """SIGKILL to a child and its data loader workers."""
    assert process.pid is not None
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.kill()  # it may have no group yet
    process.join()


def join(processes: list[BaseProcess], timeout: float = TIMEOUT) -> list[int | str | None]:
    """Exit codes; ``'hung'`` for those that had to be killed."""
    end = time.monotonic() + timeout
    for process in processes:
        process.join(max(0.0, end - time.monotonic()))
    hung = [process.is_alive() for process in processes]
    for process in processes:
        kill(process)
    return ['hung' if alive else process.exitcode for alive, process in zip(hung, processes, strict=True)]


class Results:
    """Trials that are done, by name, in a file."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / 'results.jsonl'
        folder.mkdir(parents=True, exist_ok=True)
        lines = self.path.read_text().splitlines() if self.path.exists() else []
        entries = [json.loads(line) for line in lines if line.endswith('}')]  # a killed drill may leave half a line
        self.done: dict[str, dict] = {entry['trial']: entry for entry in entries}

    def add(self, trial: str, part: str, survived: bool, **details: Any) -> None:
        """Note a trial."""
        outcome = 'survived' if survived else 'lost'
        self.done[trial] = dict(trial=trial, part=part, outcome=outcome, **details)
        with open(self.path, 'a', encoding='utf-8') as file:
            file.write(json.dumps(self.done[trial]) + '\n')
        print(f'{outcome:9} {trial} {details}', flush=True)

    def table(self) -> str:
        """Faults tried, survived, lost."""
        trials = pd.DataFrame([entry for entry in self.done.values() if entry['part']], columns=['part', 'outcome'])
        trials = pd.concat([trials.sort_values('part'), trials.assign(part='all')])
        groups = trials.groupby('part', sort=False)['outcome']
        counts = dict(
            tried='size', survived=lambda part: sum(part == 'survived'), lost=lambda part: sum(part == 'lost')
        )
        return as_markdown(groups.agg(**counts).astype(str).rename_axis('fault').reset_index())


# ---------------------------------------------------------------------- kills

KILL_RUN: dict[str, Any] = dict(
    epochs=3,
    model=dict(masking=dict(num_masks=2)),
    optim_wrapper=dict(accumulative_counts=2, dtype='bfloat16'),
    checkpoint=dict(iter_interval=2),
    loader=dict(num_workers=1, persistent_workers=True),
)
KILL_DATA = dict(plmae='AugmentedNoise', msa='NoisePairs')  # by the method
KILL_NAMES = dict(plmae='PL-MAE', msa='MSA')
INTERVAL = 2


def start_run(folder: Path, method: str, world_size: int, number: int) -> list[BaseProcess]:
    """Start all ranks of a run of the kill part."""
    folder.mkdir(parents=True, exist_ok=True)
    group = folder / f'group_{number}'
    group.unlink(missing_ok=True)
    processes = []
    for rank in range(world_size):
        progress = dict(type='mmengine.Progress', _scope_='mmengine', path=str(folder / f'progress_{rank}'))
        kwargs = dict(KILL_RUN, method=method, dataset=noise_cfg(KILL_DATA[method], size=32), hooks=(progress,))
        work = partial(run_rank, rank, world_size, str(group), folder / 'work', **kwargs)
        processes.append(fork(work, folder / f'log_{rank}'))
    return processes


def last(folder: Path, kind: str) -> int:
    """Last number that rank 0 told, 0 before the first."""
    path = folder / 'progress_0'
    lines = path.read_text().splitlines() if path.exists() else []
    numbers = [int(line[1:]) for line in lines if line[:1] == kind and line[1:].isdigit()]
    return numbers[-1] if numbers else 0


def kill_trial(folder: Path, method: str, world_size: int, iteration: int, delay: float, aim: bool) -> tuple[str, bool]:
    """Start a run, kill all of its processes ``delay`` after an iteration; with ``aim``, when it writes a file next."""
    processes = start_run(folder, method, world_size, 0)
    when = 'at a random moment'
    while last(folder, 'i') < iteration and processes[0].is_alive():
        time.sleep(0.002)
    time.sleep(delay)
    while aim and processes[0].is_alive():
        if list((folder / 'work').glob('.*.tmp')):
            when = 'while saving'
            break
        time.sleep(0.0005)
    alive = processes[0].is_alive()
    for process in processes:
        kill(process)
    return when, alive


def kill_trials(out: Path, results: Results, count: int, seed: int) -> None:
    """Kill runs of each method at random moments, every third while a file is being written; resume; compare all."""
    rng = random.Random(seed)
    for number in range(count):
        name, world_size = (('1 process', 1), ('2 ranks', 2))[number % 2]
        method = tuple(KILL_DATA)[number // 2 % 2]
        iteration, aim = rng.randint(0, (24 if world_size == 1 else 12) - 3), number % 3 == 2
        delay = rng.uniform(0, 0.2)
        trial = f'kill {number} {method}'
        if trial in results.done:
            continue
        whole = out / 'kill' / f'whole_{method}_{world_size}'
        if not (whole / 'done').exists():
            shutil.rmtree(whole, ignore_errors=True)
            codes = join(start_run(whole, method, world_size, 0))
            assert codes == [0] * world_size, f'the uninterrupted run failed: {codes}, see {whole}'
            (whole / 'done').touch()
        wanted = final_state(whole / 'work' / 'epoch_3.pth')
        folder = out / 'kill' / f'trial_{number}'
        shutil.rmtree(folder, ignore_errors=True)
        when, alive = kill_trial(folder, method, world_size, iteration, delay, aim)
        killed_at = last(folder, 'i')
        # An iteration's checkpoint is written within it, so what was told to have ended has been saved.
        saved = killed_at - killed_at % INTERVAL
        codes = join(start_run(folder, method, world_size, 1))
        resumed_at = last(folder, 's')
        problems = [] if alive else ['the run had ended before it was killed']
        if codes != [0] * world_size:
            problems.append(f'exit codes {codes}')
        else:
            problems += differences(final_state(folder / 'work' / 'epoch_3.pth'), wanted)
        if resumed_at < saved:
            problems.append(f'resumed at {resumed_at} although {saved} was saved')
        results.add(
            trial,
            f'SIGKILL {when}, {KILL_NAMES[method]}, {name}',
            not problems,
            killed_after_iteration=killed_at,
            resumed_at=resumed_at,
            problems=problems[:3],
        )
        if not problems:
            shutil.rmtree(folder)


# ---------------------------------------------------------------------- injected faults

TEST_PARTS = dict(
    nan=('NaN injected', 'test_non_finite.py'),
    files=('bad files', 'test_bad_data.py'),
    payload=('payloads and paths', 'test_untrusted.py'),
    checkpoints=('damage, signals, full disk', 'test_checkpoints.py'),
    ranks=('two ranks: NaN, signal, files', 'test_two_ranks.py'),
)
NO_FAULT = ('test_fields', 'test_the_comparison', 'test_by_iteration')  # tests that inject none


def injected_faults(out: Path, results: Results, parts: list[str]) -> None:
    """Each test of some files of tests/faults is a trial."""

    def on_end(ended: Ended) -> None:
        part, outcomes = ended.job.key, out / f'{ended.job.key}.xml'
        title = TEST_PARTS[part][0]
        if not outcomes.exists():  # pytest itself died
            results.add(f'{part} to its end', title, False, code=ended.code)
            return
        for test in ElementTree.parse(outcomes).iter('testcase'):
            name = test.attrib['name']
            if test.find('skipped') is None and not name.startswith(NO_FAULT):
                failed = test.find('failure') is not None or test.find('error') is not None
                results.add(f'{part} {name}', title, not failed)
        if ended.code == 0:
            results.add(f'{part} done', '', True)

    jobs = []
    for part in parts:
        outcomes = out / f'{part}.xml'
        outcomes.unlink(missing_ok=True)
        command = [sys.executable, '-m', 'pytest', '-q', '-p', 'no:cacheprovider', f'--basetemp={out / part}']
        command += [f'--junitxml={outcomes}', str(ROOT / 'tests' / 'faults' / TEST_PARTS[part][1])]
        jobs.append(Job(part, command, out / f'{part}.log', partial(results.done.get, f'{part} done')))
    run_jobs(jobs, 1, on_end, timeout=3600)


# ---------------------------------------------------------------------- configs

SECTIONS = (
    'model',
    'optim_wrapper',
    'param_scheduler',
    'train_cfg',
    'train_dataloader',
    'custom_hooks',
    'default_hooks',
)


def demo_config(work_dir: Path) -> Config:
    """The demo's config with eight steps on noise."""
    cfg = Config.fromfile(ROOT / 'configs' / 'pl_mae_demo.py')
    cfg.work_dir = str(work_dir)
    cfg.resume = False
    cfg.log_level = 'ERROR'
    cfg.experiment_name = work_dir.name
    cfg.vis_backends = []
    cfg.visualizer = dict(type='UniversalVisualizer', vis_backends=[])
    cfg.custom_hooks = [hook for hook in cfg.custom_hooks if hook.type != 'mmpl.FeatureProbeHook']
    cfg.train_cfg.max_epochs = 1
    cfg.param_scheduler = [dict(type='LinearLR', start_factor=0.01, by_epoch=True, end=1, convert_to_iter_based=True)]
    cfg.train_dataloader.update(batch_size=4, num_workers=0, persistent_workers=False)
    cfg.train_dataloader.dataset = noise_cfg(size=16, side=32)
    return cfg


def leaves(node: Any, path: tuple = ()) -> list[tuple]:
    """Paths of all fields of a nested config, inner nodes included."""
    found = [path] if path else []
    items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, value in items:
        found += leaves(value, (*path, key))
    return found


def mutate(cfg: dict, path: tuple, kind: str, rng: random.Random) -> Any:
    """Spoil one field; returns its new value."""
    node = cfg
    for key in path[:-1]:
        node = node[key]
    key, old = path[-1], node[path[-1]]
    if kind == 'dropped':
        del node[key]
        return None
    if kind == 'misspelt' and isinstance(node, dict):
        node[f'{key}_'] = node.pop(key)
        return f'{key}_'
    wrong = ['wrong', [1, 2], None, {'a': 1}] if isinstance(old, (int, float)) else [-3, 2.5, None, ['x']]
    ranges = [-1, 0, -0.5, 1.5, 10**6] if isinstance(old, int) else [-1.0, -0.01, 7.5, float('nan'), float('inf')]
    node[key] = rng.choice(ranges if kind == 'out of range' and isinstance(old, (int, float)) else wrong)
    return node[key]


def fuzz_work(folder: Path, path: tuple, kind: str, seed: int) -> None:
    """Spoil, build, train; write down how it ended."""
    import resource

    resource.setrlimit(resource.RLIMIT_AS, (12 << 30, 12 << 30))
    cfg = demo_config(folder / 'work')
    plain = cfg.to_dict()
    value = mutate(plain, path, kind, random.Random(seed))
    ended: dict[str, Any] = dict(value=repr(value))
    try:
        with explained_by(copy.deepcopy(plain)):  # as tools/train.py does
            spoilt = Config(plain)
            if isinstance(spoilt.get('train_dataloader'), dict):
                set_loader_defaults(spoilt, True, True)
            Runner.from_cfg(spoilt).train()
        ended['trained'] = True
    except BaseException as error:
        traceback.print_exc()
        frames = traceback.extract_tb(error.__traceback__)
        ended.update(
            error=type(error).__name__, message=str(error)[:3000], where=f'{frames[-1].filename}:{frames[-1].lineno}'
        )
    (folder / 'ended.json').write_text(json.dumps(ended))


def names_field(ended: dict, path: tuple) -> bool:
    """Whether an error says which field is at fault."""
    message = ended['message']
    if ended['error'] == 'KeyError' and len(message) < 40:
        return False  # bare
    names = [key for key in path if isinstance(key, str)]
    return names[-1] in message


def fuzz_trials(out: Path, results: Results, count: int, seed: int) -> None:
    """Configs with one spoilt field: each trains, or ends in an error that names the field."""
    rng = random.Random(seed)
    plain = demo_config(out / 'fuzz').to_dict()
    paths = [path for section in SECTIONS for path in leaves(plain[section], (section,))]
    kinds = ('dropped', 'mistyped', 'out of range', 'misspelt')
    trials = [(path, kind) for path in paths for kind in kinds]
    rng.shuffle(trials)
    for number, (path, kind) in enumerate(trials[:count]):
        trial = f'fuzz {number} {".".join(map(str, path))} {kind}'
        if trial in results.done:
            continue
        folder = out / 'fuzz' / str(number)
        shutil.rmtree(folder, ignore_errors=True)
        (code,) = join([fork(partial(fuzz_work, folder, path, kind, number), folder / 'log')])
        file = folder / 'ended.json'
        ended = json.loads(file.read_text()) if file.exists() else dict(error='none', message=f'exit code {code}')
        good = bool(ended.get('trained')) or names_field(ended, path)
        results.add(trial, f'config, a field {kind}', good, **ended)
        if good:
            shutil.rmtree(folder)


# ---------------------------------------------------------------------- memory


def memory_trial(out: Path, results: Results, iterations: int, held: bool) -> None:
    """Memory over many iterations: a line through the last three quarters.

    Neighbouring values are not independent, so the line goes through the means of a hundred iterations each.
    """
    kind = 'held' if held else 'resident'
    trial = f'memory {kind} over {iterations} iterations'
    if trial in results.done:
        return
    folder = out / f'memory_{kind}'
    log = folder / kind
    shutil.rmtree(folder, ignore_errors=True)
    hook = dict(type='mmengine.MemoryLog', _scope_='mmengine', path=str(log), held=held)
    work = partial(
        run,
        folder / 'work',
        hooks=(hook,),
        epochs=iterations // 100,
        dataset=noise_cfg(size=400),
        checkpoint=dict(interval=1, max_keep_ckpts=1),
    )
    (code,) = join([fork(work, folder / 'log')], timeout=3600)
    data = np.loadtxt(log)
    data = data[data[:, 0] > iterations / 4]
    means = data[: len(data) // 5 * 5].reshape(-1, 5, 2).mean(axis=1)  # a line in `log` is 20 iterations
    (slope, _), covariance = np.polyfit(means[:, 0], means[:, 1], 1, cov=True)
    error = float(np.sqrt(covariance[0, 0]))
    results.add(
        trial,
        f'growth of memory that is {kind}',
        code == 0 and slope < 2 * error,
        kib_per_iteration=round(float(slope), 4),
        standard_error=round(error, 4),
        kib_from_to=[round(float(data[0, 1])), round(float(data[-1, 1]))],
    )


@user_errors()
def main() -> None:
    """Run the parts asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--out', default='work_dirs/fault_drill', help='folder of results and of lost runs')
    parser.add_argument('--kills', type=int, default=30, help='SIGKILLs, half of them of two ranks, half of MSA')
    parser.add_argument('--seed', type=int, default=0, help='of the moments')
    parser.add_argument('--configs', type=int, default=200, help='spoilt configs')
    parser.add_argument('--iterations', type=int, default=2000, help='of the memory trial')
    parts = ('kill', *TEST_PARTS, 'fuzz', 'memory')
    parser.add_argument('--parts', nargs='+', choices=parts, default=parts, help='what to do; all by default')
    args = parser.parse_args()
    out = Path(args.out).resolve()
    results = Results(out)
    shutil.rmtree(out / 'warm', ignore_errors=True)
    for method in KILL_DATA:
        run(out / 'warm' / method, method=method, epochs=1)  # imports all that the children need
    if 'kill' in args.parts:
        kill_trials(out, results, args.kills, args.seed)
    injected_faults(out, results, [part for part in TEST_PARTS if part in args.parts])
    if 'fuzz' in args.parts:
        fuzz_trials(out, results, args.configs, args.seed)
    if 'memory' in args.parts:
        for held in (True, False):
            memory_trial(out, results, args.iterations, held)
    print(results.table())


if __name__ == '__main__':
    main()
