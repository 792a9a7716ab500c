#!/usr/bin/env python
"""Nine minutes with a GPU: what can only be known on one, as one table and one JSON.

``gpu_check.sh`` finds the Python. Each part runs in a process of its own and leaves a JSON; one that is there and
passed is not run again. Without a GPU the parts run in a tiny form, and the table says what was left out.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pandas as pd
import torch
from mmengine.hooks import Hook
from mmengine.runner import Runner

import fake_cuda
from bench.arguments import CONFIGS
from bench.jobs import Ended, Job, run_jobs
from bench.results import num_masks, write_json
from bench.tables import as_markdown
from mmpl.utils.cfg_options import merge_options
from mmpl.utils.config_errors import read_config
from mmpl.utils.user_errors import UserError, user_errors
from pretrain_speed import matmul_gflops

ROOT = CONFIGS.parent
GIB = fake_cuda.GIB
MEASURED = ('pl_mae_vitb', 'pl_mae_vitb_fast', 'msa_vitb')
LIMITS = dict(environment=40, expected=90, tests=150) | dict.fromkeys(MEASURED, 80)  # seconds with a GPU: 8.7 minutes
SLOWER = 6  # times these without one
WARM, STEPS, WATCHED = 5, 20, 3  # iterations; none of those watched is one at which health is looked at
TINY = {'model.backbone.arch': 'deit-t', 'model.neck.depth': 1, 'train_dataloader.batch_size': 2}
NO_GPU = 'there is no GPU'
EARLIER = 'the parts before failed'


def limit_of(part: str) -> int:
    """Seconds that a part may take on this machine."""
    return LIMITS[part] * (1 if torch.cuda.is_available() else SLOWER)


class Measure(Hook):
    """Times iterations, counts the host's waits in some more, and ends the run."""

    priority = 'VERY_LOW'

    def __init__(self, warm: int, steps: int, watched: int) -> None:
        self.marks = (warm, warm + steps, warm + steps + watched)
        self.cuda = torch.cuda.is_available()
        self.seconds = self.loss = 0.0
        self.peak = 0
        self.waits: Counter = Counter()
        self._watch = warnings.catch_warnings(record=True)
        self._seen: Any = []

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """Begin or end what begins or ends here."""
        warm, timed, watched = self.marks
        if batch_idx == warm:
            self._wait()
            if self.cuda:
                torch.cuda.reset_peak_memory_stats()
            self.seconds = -time.perf_counter()
        if batch_idx == timed:
            self._wait()
            self.seconds += time.perf_counter()
            self.peak = torch.cuda.max_memory_allocated() if self.cuda else 0
            self._seen = self._watch.__enter__()
            warnings.simplefilter('always')
            if self.cuda:
                torch.cuda.set_sync_debug_mode('warn')
        if batch_idx == watched:
            if self.cuda:
                torch.cuda.set_sync_debug_mode('default')
            self._watch.__exit__(None, None, None)
            self.waits.update(
                f'{Path(warning.filename).name}:{warning.lineno}'
                for warning in self._seen
                if 'synchroniz' in str(warning.message)
            )
            raise fake_cuda.Stop

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: dict | None = None
    ) -> None:
        """Keep the last loss."""
        self.loss = (outputs or {})['loss']

    def _wait(self) -> None:
        if self.cuda:
            torch.cuda.synchronize()


def environment(out: Path) -> dict[str, Any]:
    """Driver, card, versions, free memory, and the rate of a matrix product in bf16."""
    cuda = torch.cuda.is_available()
    size, device = (8192, 'cuda') if cuda else (512, 'cpu')
    rate = matmul_gflops('bfloat16', device, torch.get_num_threads(), 'wall', size, 2.0 if cuda else 0.2)
    found = dict(torch=torch.__version__, cuda=torch.version.cuda, gflops=rate)
    if cuda:
        query = ['nvidia-smi', '--query-gpu=driver_version', '--format=csv,noheader']
        with suppress(OSError):
            found['driver'] = subprocess.run(query, capture_output=True, text=True).stdout.split('\n')[0]
        free, total = torch.cuda.mem_get_info()
        major, minor = torch.cuda.get_device_capability()
        found |= dict(device=torch.cuda.get_device_name(), capability=f'{major}.{minor}', free=free, total=total)
        said = f'{found["device"]}, sm_{major}{minor}, {free / GIB:.1f} of {total / GIB:.1f} GiB free, '
        said += f'driver {found.get("driver", "?")}, '
    else:
        said = ''
    said += f'torch {torch.__version__} (CUDA {torch.version.cuda}); bf16 product of {size}²: {rate / 1000:.3g} TFLOP/s'
    return dict(said=said, left_out='' if cuda else f'card, driver, memory: {NO_GPU}', **found)


def expected(out: Path) -> dict[str, Any]:
    """Memory, FLOP and waits of the configs as fake_cuda.py works them out, by one process."""
    command = [sys.executable, '-W', 'ignore', str(Path(fake_cuda.__file__)), '--json', '--world', '1', '--jobs', '3']
    command += [str(CONFIGS / f'{name}.py') for name in MEASURED]
    if not torch.cuda.is_available():
        command += ['--options', *(f'{key}={value}' for key, value in TINY.items())]
    hidden = {**os.environ, 'CUDA_VISIBLE_DEVICES': ''}
    limit = limit_of('expected') - 5  # so that it does not outlive this process
    done = subprocess.run(command, capture_output=True, text=True, env=hidden, timeout=limit)
    if done.returncode:
        raise RuntimeError(done.stderr[-3000:])
    runs = json.loads(done.stdout.splitlines()[-1])
    sizes = ', '.join(f'{name} {max(run["peak"].values()) / GIB:.2f}' for name, run in runs.items())
    return dict(said=f'peak of a step without a GPU (GiB): {sizes}', runs=runs)


def tests(out: Path) -> dict[str, Any]:
    """The tests of tests/test_cuda.py."""
    report = out / 'tests.xml'
    command = [sys.executable, '-m', 'pytest', '-q', '-p', 'no:cacheprovider', '--junitxml', str(report)]
    done = subprocess.run([*command, str(ROOT / 'tests/test_cuda.py')], cwd=ROOT, timeout=limit_of('tests') - 5)
    if not report.is_file():
        raise RuntimeError(f'pytest ended with {done.returncode} and no report: is it installed?')
    outcomes: dict[str, str] = {}
    for case in ElementTree.parse(report).iter('testcase'):
        bad = {child.tag for child in case} & {'failure', 'error', 'skipped'}
        outcomes[str(case.get('name'))] = min(bad, default='passed')
    counts = Counter(outcomes.values())
    failed = [name for name, outcome in outcomes.items() if outcome in ('failure', 'error')]
    if failed or done.returncode:
        raise RuntimeError(f'{counts["passed"]} passed, but these failed: {", ".join(failed) or done.returncode}')
    left_out = f'{counts["skipped"]} tests: {NO_GPU}' if counts['skipped'] else ''
    return dict(said=f'{counts["passed"]} tests passed', left_out=left_out, outcomes=outcomes)


def measured(name: str, out: Path) -> dict[str, Any]:
    """Steps of a config at full size: masked views a second, MFU, memory and waits beside what was worked out."""
    cuda = torch.cuda.is_available()
    cfg = read_config(CONFIGS / f'{name}.py')
    if not cuda:
        merge_options(cfg, TINY)
    plan = (read(out / 'expected.json') or {}).get('runs', {}).get(name)
    batch = cfg.train_dataloader.batch_size
    if cuda and plan:
        room = torch.cuda.mem_get_info()[0] - fake_cuda.RESERVE * GIB - plan['rest']
        fits = int(room / ((max(plan['peak'].values()) - plan['rest']) / plan['batch']))
        batch = min(batch, fits // 8 * 8)
        if batch < 8:
            raise RuntimeError(
                f'{torch.cuda.mem_get_info()[0] / GIB:.1f} GiB are free, which is too little for 8 images'
            )
    warm, steps, watched = (WARM, STEPS, WATCHED) if cuda else (1, 2, 1)
    measure = Measure(warm, steps, watched)
    with tempfile.TemporaryDirectory() as work_dir:
        intervals = cfg.custom_hooks[0].health_interval, cfg.default_hooks.logger.interval
        cfg.train_dataloader.batch_size = batch
        cfg = fake_cuda.prepare(cfg, 1, work_dir)
        cfg.custom_hooks[0].health_interval, cfg.default_hooks.logger.interval = intervals
        loader = cfg.train_dataloader
        loader.dataset.count = batch * (warm + steps + watched + 1)
        loader.update(num_workers=min(8, os.cpu_count() or 1) if cuda else 0, pin_memory=cuda)
        runner = Runner.from_cfg(cfg)
        runner.register_hook(measure, priority='VERY_LOW')
        with suppress(fake_cuda.Stop):
            runner.train()
    loss, views = float(measure.loss), batch * num_masks(cfg)
    found: dict[str, Any] = dict(batch=batch, loss=loss, seconds_a_step=measure.seconds / steps, waits=measure.waits)
    found['views_per_s'] = views / found['seconds_a_step']
    if loss != loss or abs(loss) == float('inf'):
        raise RuntimeError(f'the loss after {sum(measure.marks)} steps is {loss}')
    said = f'{batch} images, {views} masked views a step: '
    if not cuda:
        said += f'{steps} steps of a tiny form'
        return dict(said=said, left_out=f'full size, views/s, MFU, memory, waits: {NO_GPU}', **found)
    said += f'{found["views_per_s"]:.0f} views/s, {found["seconds_a_step"]:.3f} s a step'
    rate, left_out = (read(out / 'environment.json') or {}).get('gflops'), []
    if plan and rate:
        found['mfu'] = plan['flops'] * batch / plan['batch'] / found['seconds_a_step'] / (rate * 1e9)
        said += f', {found["mfu"]:.3f} of the matrix product'
    else:
        left_out.append(f'MFU: {EARLIER}')
    if plan:
        more = (max(plan['peak'].values()) - plan['rest']) * batch / plan['batch']
        found |= dict(peak_bytes=measure.peak, expected_bytes=plan['rest'] + more)
        said += f'; {measure.peak / GIB:.1f} GiB at the peak, {found["expected_bytes"] / GIB:.1f} worked out'
    said += f'; {sum(measure.waits.values())} waits in {watched} steps'
    if measure.waits:
        raise RuntimeError(f'{said}: {dict(measure.waits)}')
    return dict(said=said, left_out='; '.join(left_out), **found)


def refuse_unusable_gpu() -> None:
    """Refuse a machine with a GPU that torch cannot use: the check of one without it would pass there.

    Raises:
        UserError: With the reason that torch gives.
    """
    if torch.cuda.is_available() or os.environ.get('CUDA_VISIBLE_DEVICES') in ('', '-1'):  # there is none on purpose
        return
    try:
        listed = subprocess.run(['nvidia-smi', '-L'], capture_output=True, text=True, timeout=20)
        found = listed.stdout.splitlines()[0] if listed.returncode == 0 and listed.stdout.strip() else None
    except FileNotFoundError:
        found = None
    except subprocess.TimeoutExpired:
        found = 'what nvidia-smi does not tell within 20 s'
    if found is None:
        return
    reason = 'torch sees no device'
    try:
        torch.cuda.init()
    except (RuntimeError, AssertionError) as error:
        reason = str(error)
    raise UserError(f'torch {torch.__version__} (CUDA {torch.version.cuda}) cannot use {found}: {reason}')


def read(path: Path) -> Any:
    """A JSON, or None."""
    return json.loads(path.read_text()) if path.is_file() else None


def run_part(name: str, out: Path) -> None:
    """Do a part in this process, and write what it found."""
    parts: dict[str, Callable[[Path], dict]] = dict(environment=environment, expected=expected, tests=tests)
    part = parts.get(name) or (lambda folder: measured(name, folder))
    write_json(out / f'{name}.json', part(out))


def check(out: Path, anew: bool) -> list[dict[str, Any]]:
    """Run the parts that have no result; rows of all."""
    rows = []
    for name in LIMITS:
        result, ended = out / f'{name}.json', list[Ended]()
        if anew or EARLIER in (read(result) or {}).get('left_out', ''):  # which may have passed by now
            result.unlink(missing_ok=True)
        command = [sys.executable, str(Path(__file__).resolve()), '--run', name, '--out', str(out)]
        job = Job(name, command, out / f'{name}.log', partial(read, result))
        run_jobs([job], 1, ended.append, torch.get_num_threads(), limit_of(name))
        found = read(result)
        row = dict(part=name, outcome='passed' if found else 'failed', seconds=round(ended[0].seconds) if ended else 0)
        if found is None:
            print(ended[0].failure, flush=True)
            lines = job.log.read_text(errors='replace').split('Traceback')[-1].strip().splitlines()
            found = dict(said=f'exit code {ended[0].code}: {lines[-1] if lines else ""}')
        row |= dict(found=found['said'], left_out=found.get('left_out', ''), details=found)
        rows.append(row)
        print(f'{name}: {row["outcome"]}, {row["seconds"]} s: {row["found"]}', flush=True)
    return rows


@user_errors()
def main(argv: Sequence[str] | None = None) -> int:
    """Run the check; 1 if a part failed."""
    parser = argparse.ArgumentParser(description=str(__doc__).split('\n')[0])
    parser.add_argument('--out', type=Path, default=Path('work_dirs/gpu_check'), help='default: work_dirs/gpu_check')
    parser.add_argument('--anew', action='store_true', help='run parts again that have passed')
    parser.add_argument('--run', choices=LIMITS, help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if options.run:
        run_part(options.run, options.out)
        return 0
    refuse_unusable_gpu()
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else 'no GPU'
    out = options.out.resolve() / re.sub(r'\W+', '_', device)
    out.mkdir(parents=True, exist_ok=True)
    rows = check(out, options.anew)
    table = as_markdown(pd.DataFrame(rows).drop(columns='details').astype(str).replace('', '–'))
    (out / 'table.md').write_text(table + '\n')
    write_json(out / 'results.json', dict(device=device, parts={row['part']: row for row in rows}))
    print(f'\n{device}\n\n{table}\n\nwrote {out / "table.md"} and {out / "results.json"}')
    return int(any(row['outcome'] == 'failed' for row in rows))


if __name__ == '__main__':
    sys.exit(main())
