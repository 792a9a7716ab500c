"""Measure what the package computes, to the bit, for ``test_goldens.py`` to compare with ``goldens.json``.

Write the values of a config that is new::

    python tests/goldens/run.py --write 'train/ablations/my_config/*'

Write all of them again, or, with patterns (of ``fnmatch``), some of them::

    python tests/goldens/run.py --write

**Values that are there already may only be written again with a reason in the commit's message**: which change of
behaviour is meant, and why. A change that is not meant to change behaviour changes no value. See which values changed
with ``git diff``; those of configs that are no more are dropped.

What is pinned, by its id:

- ``train/<config>/<fp32|bf16>/<processes>``: twenty steps of each pre-training config at a tiny size: the losses of
  each process, and all tensors of the model's state after them (those of the first process).
- ``export/<config>/<encoder>/<library>``: names and values of what ``export_backbone.py`` writes.
- ``probe/<config>``: what kNN and the linear probe predict from frozen features.
- ``embedded/<size>/<variant>``: names and bytes of the files of an embedded data set.

The values are those of one thread and of code without CPU dispatch (:data:`ENVIRONMENT`, set for the processes that
measure), so they are the same on most x86 machines. Other versions of torch, OpenCV or pillow may compute other bits.
Some processors round otherwise whatever the environment asks for. :data:`CANARY`, a run of mmpretrain's MAE, of which
no line is ours, tells them apart: a value that was written where it has other bits says so in ``rounding``.

Imports nothing of mmpl but the package itself: configs, registries and the scripts of ``tools`` are the interface, and
modules may move. Nor does :func:`shrink` write a field of a hook: it takes hooks out by the name of their type.
"""

import argparse
import contextlib
import datetime
import fnmatch
import functools
import hashlib
import io
import json
import os
import runpy
import struct
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
GOLDENS = Path(__file__).with_name('goldens.json')
CANARY = 'train/benchmarks/methods/mae/fp32/1'
METHODS = ('mae', 'simmim', 'msa', 'pl_mae*')
PATTERNS = ('*.py', 'ablations/*.py', *(f'benchmarks/methods/{name}.py' for name in METHODS))
EXPORTED = dict(pl_mae_demo=('student', 'label_teacher', 'recon_teacher'), msa_demo=('student', 'align_teacher'))
LIBRARIES = ('mmpretrain', 'timm', 'huggingface')
TOOL_VARIANTS = ('plain', 'hard')  # the others are made by the data set itself
VARIANTS = (*TOOL_VARIANTS, 'surfaces', 'surfaces_exposure')
LEFT_OUT = ('FeatureProbeHook', 'VisualizationHook', 'FrozenWarmupHook')  # by the end of their names

STEPS, EPOCHS, BATCH, MAX_RANKS = 20, 2, 4, 2
ENVIRONMENT = dict(
    OMP_NUM_THREADS='1',
    MKL_NUM_THREADS='1',
    OPENBLAS_NUM_THREADS='1',
    MKL_CBWR='COMPATIBLE',
    ATEN_CPU_CAPABILITY='default',
    ONEDNN_MAX_CPU_ISA='SSE41',
    NPY_DISABLE_CPU_FEATURES='SSSE3 SSE41 POPCNT SSE42 AVX F16C FMA3 AVX2 AVX512F AVX512CD AVX512_SKX AVX512_CLX '
    'AVX512_CNL AVX512_ICL',
    OPENCV_CPU_DISABLE='SSE4.1,SSE4.2,AVX,FP16,AVX2,AVX512-SKX',
    OPENCV_IPP='disabled',
    PYTHONHASHSEED='0',
    CUDA_VISIBLE_DEVICES='',
)


def configs() -> list[str]:
    """Names of all pre-training configs: their paths below ``configs``, without ending."""
    folder = ROOT / 'configs'
    paths = [path for pattern in PATTERNS for path in sorted(folder.glob(pattern))]
    return [path.relative_to(folder).with_suffix('').as_posix() for path in paths]


def all_ids() -> list[str]:
    """Everything that is pinned."""
    trained = [f'train/{name}/{dtype}/{n}' for name in configs() for dtype in ('fp32', 'bf16') for n in (1, MAX_RANKS)]
    exported = [
        f'export/{name}/{source}/{to}' for name, sources in EXPORTED.items() for source in sources for to in LIBRARIES
    ]
    probes = [f'probe/{name}' for name in EXPORTED]
    return trained + exported + probes + [f'embedded/{size}/{name}' for size in ('test', 'demo') for name in VARIANTS]


# ---------------------------------------------------------------------- in the processes that measure


def hash_of(tensors: Any, digits: int = 64) -> str:
    """SHA-256 of names, dtypes, shapes and bytes of tensors, in the order of their names."""
    import torch

    digest = hashlib.sha256()
    for name, value in sorted(dict(tensors).items()):
        value = value.detach().cpu().contiguous()
        digest.update(f'{name} {value.dtype} {tuple(value.shape)}\n'.encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:digits]


def write_images(folder: Path) -> None:
    """Two classes in ImageNet's folder format: smooth noise with fine noise on top, half JPEG, half PNG."""
    import numpy as np
    from PIL import Image

    rng = np.random.default_rng(0)
    for number in range(STEPS // EPOCHS * BATCH * MAX_RANKS):
        coarse = Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)).resize((96, 72), Image.BICUBIC)
        pixels = np.asarray(coarse).astype(int) + rng.integers(-20, 21, (72, 96, 3))
        target = folder / 'train' / ('n01440764', 'n01443537')[number % 2]
        target.mkdir(parents=True, exist_ok=True)
        name = f'{number:03}.{("JPEG", "png")[number // 2 % 2]}'
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(target / name)


LIMITS = dict(  # largest value of a field of the model, wherever it stands
    hidden_dims=32,
    bottleneck_dims=8,
    out_dims=16,
    num_codes=32,
    chunk_size=16,
    depth=2,
    decoder_embed_dims=32,
    decoder_embed_dim=32,
    embed_dim=32,
)


def _shrink_model(cfg: Any, blocks: int) -> None:
    if isinstance(cfg, (list, tuple)):
        for item in cfg:
            _shrink_model(item, blocks)
    if not isinstance(cfg, dict):
        return
    for key, value in cfg.items():
        if key == 'arch' and 'depths' in (value or {}):  # Swin
            cfg[key] = dict(embed_dims=16, depths=[1, 1], num_heads=[2, 2])
        elif key == 'arch':
            cfg[key] = dict(embed_dims=32, num_layers=blocks, num_heads=4, feedforward_channels=64)
        elif key == 'num_prototypes':
            cfg[key] = min(32, max(16, value // 8))
        elif key in ('num_heads', 'decoder_num_heads'):
            cfg[key] = 4
        elif key == 'img_size' and value > 32:
            cfg.update(img_size=32, patch_size=8)
        elif key in LIMITS and isinstance(value, int):
            cfg[key] = min(value, LIMITS[key])
        else:
            _shrink_model(value, blocks)


def _shrink_pipeline(cfg: Any) -> None:
    if isinstance(cfg, (list, tuple)):
        for item in cfg:
            _shrink_pipeline(item)
    elif isinstance(cfg, dict):
        for key, value in cfg.items():
            if key == 'scale' and isinstance(value, int):
                cfg[key] = min(value, 32)
            else:
                _shrink_pipeline(value)


def shrink(cfg: Any, images: Path, embedded: Path, dtype: str, ranks: int) -> None:
    """Make a config small enough to be run in a second. What it is about stays as it is.

    Args:
        cfg (Config): Changed in place.
        images (Path): Folder in ImageNet's format.
        embedded (Path): Folder of the embedded data sets.
        dtype (str): ``'fp32'`` or ``'bf16'``.
        ranks (int): Number of processes.
    """
    swin = cfg.model.type == 'SimMIM'
    blocks = cfg.model.get('head', {}).get('target_blocks', 1)
    if Path(cfg.filename).stem == 'pl_mae_pixels':
        blocks = 4  # as deep as when it was written: its base's `target_blocks`, which pixels do not read
    _shrink_model(cfg.model, max(3, blocks))
    if swin:
        cfg.model.neck.in_channels = 32

    loader = cfg.train_dataloader
    share = BATCH / loader.batch_size
    loader.update(batch_size=BATCH, num_workers=0, persistent_workers=False, pin_memory=False)
    _shrink_pipeline(loader.dataset.pipeline)
    count = STEPS // EPOCHS * BATCH * ranks
    if loader.dataset.type == 'mmpl.EmbeddedClassification':
        loader.dataset.update(data_root=str(embedded), size='test')
        loader.dataset.indices = [4 * index for index in range(count)]  # of all classes
    else:
        loader.dataset.update(data_root=str(images), indices=count)
    if loader.dataset.type == 'ImageNet':
        loader.dataset.metainfo = dict(classes=('tench', 'goldfish'))

    by_epoch = 'max_epochs' in cfg.train_cfg
    length, field = (EPOCHS, 'max_epochs') if by_epoch else (STEPS, 'max_iters')
    ratio = length / cfg.train_cfg[field]
    cfg.train_cfg[field] = length
    for scheduler in cfg.param_scheduler:
        for key in {'begin', 'end'} & set(scheduler):
            place = min(length, max(0.1 * length, scheduler[key] * ratio)) if scheduler[key] else 0
            scheduler[key] = place if by_epoch else round(place)

    wrapper = cfg.optim_wrapper
    if dtype == 'bf16':
        wrapper.update(type='mmpl.AutocastOptimWrapper', dtype='bfloat16')
    elif wrapper.type == 'mmpl.AutocastOptimWrapper':
        wrapper.dtype = 'float32'
    if Path(cfg.filename).stem.startswith('pl_mae_vit'):
        wrapper.pop('clip_grad', None)  # as when the values were written; pl_mae_demo clips
    if cfg.get('auto_scale_lr'):  # as many steps as there are would move next to nothing
        cfg.auto_scale_lr.base_batch_size = max(1, round(cfg.auto_scale_lr.base_batch_size * share / 8))

    hooks = [hook for hook in cfg.get('custom_hooks', []) if not hook['type'].endswith(LEFT_OUT)]
    cfg.custom_hooks = hooks
    cfg.visualizer.vis_backends = []
    cfg.log_level = 'ERROR'
    if ranks > 1:
        cfg.launcher = 'pytorch'
        cfg.model_wrapper_cfg = dict(type='MMDistributedDataParallel', device_ids=None, broadcast_buffers=False)


class Measurer:
    """Measures by id, in a process of its own for each of ``ranks``."""

    def __init__(self, work: Path, ranks: int) -> None:
        self.work, self.ranks = work, ranks
        self.images = work / f'images_{os.environ["RANK"]}'
        self.digits = work / 'embedded'  # one process makes them, the others wait
        self.kept = functools.lru_cache(maxsize=None)(self._train)
        write_images(self.images)

    def __call__(self, golden: str) -> dict:
        """Measure one."""
        kind, rest = golden.split('/', 1)
        return getattr(self, kind)(rest)

    def train(self, rest: str) -> dict:
        """Twenty steps."""
        name, dtype, _ = rest.rsplit('/', 2)
        keep = name in EXPORTED and dtype == 'fp32' and self.ranks == 1
        return (self.kept if keep else self._train)(name, dtype)[0]

    def _train(self, name: str, dtype: str) -> tuple[dict, Any, Path]:
        """Golden, runner and folder of the checkpoints of a run."""
        from mmengine.config import Config
        from mmengine.hooks import Hook
        from mmengine.runner import Runner

        losses = []

        class Losses(Hook):
            def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None) -> None:
                losses.append(float(outputs['loss']))

        cfg = Config.fromfile(ROOT / 'configs' / f'{name}.py')
        shrink(cfg, self.images, self.digits, dtype, self.ranks)
        run = f'{name.replace("/", "-")}-{dtype}-{self.ranks}'
        cfg.update(work_dir=str(self.work / 'runs' / run), experiment_name=f'{run}-{os.environ.get("RANK", 0)}')
        runner = Runner.from_cfg(cfg)
        runner.register_hook(Losses(), priority='LOWEST')
        runner.train()
        assert len(losses) == STEPS, f'{name}: {len(losses)} steps instead of {STEPS}'
        model = getattr(runner.model, 'module', runner.model)
        state = model.state_dict()
        children: dict[str, dict] = {}
        for key, value in state.items():
            children.setdefault(key.split('.')[0], {})[key] = value
        golden = dict(
            weights=hash_of(state),
            children={child: hash_of(tensors, 8) for child, tensors in sorted(children.items())},
            losses=[losses],
        )
        return golden, runner, Path(cfg.work_dir)

    def export(self, rest: str) -> dict:
        """Tensors of what the tool writes."""
        import torch
        from safetensors.torch import load_file

        name, source, library = rest.split('/')
        _, _, folder = self.kept(name, 'fp32')
        out = self.work / 'exported' / rest / ('vit' if library == 'huggingface' else 'vit.pth')
        out.parent.mkdir(parents=True, exist_ok=True)
        arguments = [folder / f'epoch_{EPOCHS}.pth', out, '--source', source, '--to', library, '--no-verify']
        run_tool('model_converters/export_backbone.py', *arguments)
        tensors = {}
        for path in [out] if out.is_file() else sorted(out.iterdir()):
            if path.suffix == '.safetensors':
                tensors |= load_file(path)
            elif path.suffix in ('.pth', '.bin'):
                loaded = torch.load(path, map_location='cpu', weights_only=True)
                tensors |= loaded.get('state_dict', loaded)
        return dict(tensors=hash_of(tensors), count=len(tensors))

    def probe(self, rest: str) -> dict:
        """Predictions from frozen features."""
        import torch
        from mmengine.runner import Runner

        from mmpl.evaluation import extract_features, knn_predict, linear_probe

        _, runner, _ = self.kept(rest, 'fp32')
        dataset = dict(type='mmpl.EmbeddedClassification', data_root=str(self.digits), size='test')
        pipeline = [dict(type='LoadImageFromFile'), dict(type='PackInputs')]
        found = []
        for split in ('train', 'test'):
            loader = dict(
                batch_size=50,
                num_workers=0,
                sampler=dict(type='DefaultSampler', shuffle=False),
                collate_fn=dict(type='default_collate'),
                dataset=dict(dataset, split=split, pipeline=pipeline),
            )
            found.append(extract_features(runner.model, Runner.build_dataloader(loader, seed=0)))
        train, test = found
        golden = {}
        for pool in ('cls', 'avg'):
            sets = (train.features[pool], train.labels, test.features[pool])
            golden[f'features_{pool}'] = hash_of(dict(train=sets[0], test=sets[2]))
            golden[f'knn_{pool}'] = hash_of({str(k): v for k, v in knn_predict(*sets, k=[1, 5, 20]).items()})
            linear = linear_probe(*sets, test.labels)
            golden[f'linear_{pool}'] = hash_of(dict(predictions=torch.as_tensor(linear.predictions)))
        return golden

    def embedded(self, rest: str) -> dict:
        """Names and bytes of the files."""
        from mmengine.registry import DATASETS, DefaultScope

        size, variant = rest.split('/')
        root = self.work / 'made' / rest
        if variant in TOOL_VARIANTS:
            options = ['--size', size, '--variant', variant, '--no-progress']
            run_tool('dataset_converters/make_embedded_data.py', root, *options)
        else:
            cfg = dict(type='mmpl.EmbeddedClassification', data_root=str(root), size=size, variant=variant)
            with DefaultScope.overwrite_default_scope('mmpretrain'):
                DATASETS.build(cfg)
        files = [path for path in sorted(root.rglob('*')) if path.is_file() and path.suffix != '.lock']
        digest = hashlib.sha256()
        for path in files:
            content = path.read_bytes()
            digest.update(f'{path.relative_to(root).as_posix()} {len(content)}\n'.encode() + content)
        return dict(files=digest.hexdigest(), count=len(files))


def run_tool(path: str, *arguments: Any) -> None:
    """Run a script of ``tools`` in this process, as if from the command line."""
    before = sys.argv
    sys.argv = [path, *map(str, arguments)]
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            runpy.run_path(str(ROOT / 'tools' / path), run_name='__main__')
    finally:
        sys.argv = before


def measure_here(job: Path) -> None:
    """What a process that measures does: the job's ids, each value or error into a file of its rank."""
    import gc
    import warnings

    import mmengine
    import mmengine.runner.runner
    import torch

    warnings.filterwarnings('ignore')
    import mmpl  # noqa: F401

    ids, ranks, rank = json.loads(job.read_text()), int(os.environ['WORLD_SIZE']), int(os.environ['RANK'])
    torch.backends.mkldnn.set_flags(False)  # it asks the CPU, and not the environment, whether to compute bf16
    torch.set_num_threads(1)
    # Most of the time would go into pretty texts of configs, facts of the machine, and garbage among what was imported.
    mmengine.config.config.FormatCode = lambda text, **kwargs: (text, False)
    mmengine.runner.runner.collect_env = dict
    gc.freeze()
    if ranks > 1:
        timeout = datetime.timedelta(seconds=60)
        group = f'file://{job.with_name("group")}'
        torch.distributed.init_process_group('gloo', init_method=group, rank=rank, world_size=ranks, timeout=timeout)
    measurer = Measurer(job.parent, ranks)
    found = {}
    for golden in ids:
        try:
            found[golden] = measurer(golden)
        except (Exception, SystemExit):
            found[golden] = dict(error=traceback.format_exc())
    job.with_name(f'found_{rank}.json').write_text(json.dumps(found))
    if ranks > 1:
        torch.distributed.destroy_process_group()


# ---------------------------------------------------------------------- in the process that asks


def measure(ids: Iterable[str]) -> dict[str, dict]:
    """Measure in other processes, started with :data:`ENVIRONMENT`.

    Args:
        ids (Iterable[str]): Of :func:`all_ids`.

    Returns:
        dict[str, dict]: What was found; ``error`` alone where that failed.

    Raises:
        RuntimeError: A process ended early; the message ends with its output.
    """
    by_ranks: dict[int, list[str]] = {1: [], MAX_RANKS: []}
    for golden in ids:
        by_ranks[MAX_RANKS if needs_processes(golden) else 1].append(golden)
    found = {}
    for ranks, chosen in by_ranks.items():
        if chosen:
            found |= _measure(chosen, ranks)
    return found


def needs_processes(golden: str) -> bool:
    """Whether an id is of a run of several processes."""
    return golden.startswith('train/') and golden.endswith(f'/{MAX_RANKS}')


def _measure(ids: Sequence[str], ranks: int) -> dict[str, dict]:
    with tempfile.TemporaryDirectory(prefix='mmpl_goldens_') as name:
        work = Path(name)
        job = work / 'job.json'
        job.write_text(json.dumps(ids))
        processes = []
        for rank in range(ranks):
            env = os.environ | ENVIRONMENT | dict(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(ranks))
            env.setdefault('OPENBLAS_CORETYPE', 'Nehalem')
            env['PYTHONPATH'] = os.pathsep.join(filter(None, (str(ROOT), os.environ.get('PYTHONPATH'))))
            output = (work / f'output_{rank}.txt').open('w')
            command = [sys.executable, __file__, '--job', str(job)]
            processes.append(subprocess.Popen(command, env=env, cwd=work, stdout=output, stderr=subprocess.STDOUT))
        codes = [process.wait() for process in processes]
        if any(codes):
            tails = '\n'.join((work / f'output_{rank}.txt').read_text()[-4000:] for rank in range(ranks))
            raise RuntimeError(f'measuring failed with {codes}:\n{tails}')
        first, *others = [json.loads((work / f'found_{rank}.json').read_text()) for rank in range(ranks)]
    for other in others:
        for golden, value in other.items():
            if 'error' in value:
                first[golden] = value
            elif 'error' not in first[golden]:
                first[golden]['losses'] += value['losses']
    for value in first.values():
        if 'losses' in value:
            value['losses_hash'] = hash_of_losses(value['losses'])
    return first


def hash_of_losses(losses: Sequence[Sequence[float]]) -> str:
    """SHA-256 of the losses of all processes as float64, one process after the other."""
    return hashlib.sha256(b''.join(struct.pack('<d', loss) for row in losses for loss in row)).hexdigest()


def read_goldens() -> dict[str, dict]:
    """The values of ``goldens.json``."""
    return json.loads(GOLDENS.read_text()) if GOLDENS.exists() else {}


def rounding(canary: dict) -> str:
    """How the processor rounds that the canary was measured on."""
    return canary['weights'][:12]


def explain(golden: dict, found: dict) -> str:
    """Where two values of the same id differ; empty if they do not."""
    if 'error' in found:
        return found['error']
    lines = []
    for rank, (before, now) in enumerate(zip(golden.get('losses', []), found.get('losses', []), strict=False)):
        for step, (old, new) in enumerate(zip(before, now, strict=False)):
            if struct.pack('<d', old) != struct.pack('<d', new):
                lines.append(
                    f'loss of process {rank}: step {step + 1} is the first to differ: {old!r} -> {new!r} '
                    f'({new - old:+.3g}, {abs(new - old) / max(abs(old), 1e-300):.2g} of it)'
                )
                break
    before, now = golden.get('children', {}), found.get('children', {})
    for what, names in (
        ('differ', [name for name in before if name in now and before[name] != now[name]]),
        ('are gone', sorted(before.keys() - now.keys())),
        ('are new', sorted(now.keys() - before.keys())),
    ):
        if names:
            lines.append(f'weights that {what}: {", ".join(names)}')
    for key in sorted((golden.keys() | found.keys()) - {'losses', 'losses_hash', 'children', 'rounding'}):
        if golden.get(key) != found.get(key):
            lines.append(f'{key}: {golden.get(key)} -> {found.get(key)}')
    if not lines and golden != found:
        lines.append(f'{golden} -> {found}')
    return '\n'.join(lines)


def write(patterns: Sequence[str]) -> None:
    """Measure what matches and write it, one line a value."""
    known = all_ids()
    chosen = [golden for golden in known if any(fnmatch.fnmatch(golden, pattern) for pattern in patterns)]
    if not chosen:
        raise SystemExit(f'no id matches {" ".join(patterns)}; ids are such as {known[0]}, {known[-1]}')
    before, found = read_goldens(), measure(dict.fromkeys([CANARY, *chosen]))
    here = rounding(found[CANARY])
    if before and rounding(before[CANARY]) != here:
        del found[CANARY]
        found = {golden: value | dict(rounding=here) for golden, value in found.items()}
    errors = {golden: value['error'] for golden, value in found.items() if 'error' in value}
    found = {golden: value for golden, value in found.items() if golden not in errors}
    changed = [golden for golden, value in found.items() if before.get(golden, value) != value]
    values = before | found
    lines = [f'{json.dumps(golden)}: {json.dumps(values[golden])}' for golden in known if golden in values]
    GOLDENS.write_text('{\n' + ',\n'.join(lines) + '\n}\n')
    print(f'{len(found)} measured, {len(set(found) - set(before))} new, {len(changed)} changed: {" ".join(changed)}')
    for golden, error in errors.items():
        print(f'not measured: {golden}:\n{error}')
    if errors:
        raise SystemExit(1)


def main() -> None:
    """Write values, or do the job of a process that measures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument('--write', nargs='*', metavar='PATTERN', help='ids to write; all by default')
    what.add_argument('--job', type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.job:
        measure_here(args.job)
    else:
        write(args.write or ['*'])


if __name__ == '__main__':
    main()
