"""Tiny runs that are stopped, poisoned and resumed; shared with ``tools/benchmarks/fault_drill.py``."""

import datetime
import os
import random
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from mmengine.config import Config
from mmengine.dataset import Compose
from mmengine.hooks import Hook
from mmengine.registry import DATASETS, HOOKS, DefaultScope
from mmengine.runner import Runner
from torch import Tensor
from torch.utils.data import Dataset

import mmpl.engine
import mmpl.methods  # noqa: F401  (now, and not in the first run)
from mmpl.compat import load_checkpoint
from mmpl.utils.fields import Count, checked
from tests.test_models.helpers import msa_cfg, plmae_cfg


@DATASETS.register_module(force=True)
class AugmentedNoise(Dataset):
    """Images that are a function of their index, with augmentations from all three global generators."""

    @checked()
    def __init__(self, size: Count, side: Count) -> None:
        self.size, self.side = size, side

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> dict:
        image = np.random.default_rng(index).normal(size=(3, self.side, self.side)).astype(np.float32)
        image = image * np.float32(random.uniform(0.5, 1.5)) + np.float32(np.random.normal())
        return dict(inputs=torch.from_numpy(image) + torch.randn(()), data_samples=index)


@DATASETS.register_module(force=True)
class NoisePairs(Dataset):
    """Weak and strong views, with crops of their own, of images that are a function of their index."""

    @checked()
    def __init__(self, size: Count, side: Count) -> None:
        self.size, self.side = size, side
        geometry = [
            dict(type='mmpl.BoxedResizedCrop', scale=side, crop_ratio_range=(0.4, 1.0)),
            dict(type='RandomFlip', prob=0.5),
        ]
        strong = [
            dict(type='ColorJitter', brightness=0.4, contrast=0.4, saturation=0.4),
            dict(type='GaussianBlur', magnitude_range=(0.1, 1.0), magnitude_std='inf', prob=0.5),
        ]
        with DefaultScope.overwrite_default_scope('mmpretrain'):
            self.pipeline = Compose(
                [
                    dict(type='mmpl.TwoViews', geometry=geometry, strong=strong, own_crop=True),
                    dict(type='PackInputs', meta_keys=('view_boxes',)),
                ]
            )

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> dict:
        image = np.random.default_rng(index).integers(0, 256, (2 * self.side, 2 * self.side, 3), dtype=np.uint8)
        return self.pipeline(dict(img=image, img_shape=image.shape[:2]))


def noise_cfg(kind: str = 'AugmentedNoise', size: int = 24, side: int = 16) -> dict:
    """Config of one of the datasets above; they have no defaults, so that a field left out is an error."""
    return dict(type=f'mmengine.{kind}', _scope_='mmengine', size=size, side=side)


@HOOKS.register_module(force=True)
class StopAt(Hook):
    """Ends the process' run after an iteration, as a kill would: no hook after it, nothing is saved."""

    priority = 'LOWEST'

    class Stopped(RuntimeError):
        pass

    def __init__(self, iteration: int) -> None:
        self.iteration = iteration

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None) -> None:
        if runner.iter + 1 == self.iteration:
            raise self.Stopped


EVERY = dict(iter_interval=1)  # a checkpoint every iteration
VARIANTS: dict[str, dict] = dict(
    plain={},
    bf16_accumulation_masks=dict(
        optim_wrapper=dict(accumulative_counts=2, dtype='bfloat16'), model=dict(masking=dict(num_masks=2))
    ),
    sinkhorn_discrete=dict(model=dict(head=dict(target='discrete'), label_head=dict(assignment='sinkhorn'))),
    msa=dict(
        method='msa',
        optim_wrapper=dict(accumulative_counts=2, dtype='bfloat16'),
        model=dict(masking=dict(num_masks=2)),
    ),
)
METHODS: dict[str, tuple] = dict(  # config of the model, its dataset, and fields of its preprocessor
    plmae=(plmae_cfg, 'AugmentedNoise', {}),
    msa=(msa_cfg, 'NoisePairs', dict(mean=[127.0] * 3, std=[60.0] * 3)),
)


def fault_cfg(
    work_dir: str | Path,
    hooks: tuple = (),
    epochs: int = 3,
    method: str = 'plmae',
    model: dict | None = None,
    dataset: dict | None = None,
    **fields,
) -> Config:
    """Config of a run of six iterations an epoch, with everything of the default runtime that matters.

    ``optim_wrapper``, ``loader``, ``loop``, ``checkpoint`` and ``non_finite`` add to the fields of these parts; all
    else replaces a field of the config.
    """
    model_cfg, dataset_type, preprocessor = METHODS[method]
    backbone = dict(drop_path_rate=0.3, drop_rate=0.1)
    if model_cfg()['backbone']['type'] == 'mmpl.MaskedViT':
        arch = dict(embed_dims=32, num_layers=2, num_heads=2, feedforward_channels=64)
        backbone.update(arch=arch, img_size=16, patch_size=4)
    data_preprocessor = dict(type='SelfSupDataPreprocessor', **preprocessor)
    parts = dict(
        loader=dict(
            batch_size=4,
            num_workers=0,
            drop_last=True,
            sampler=dict(type='DefaultSampler', shuffle=True),
            collate_fn=dict(type='default_collate'),
            dataset=dataset or noise_cfg(dataset_type),
        ),
        optim_wrapper=dict(
            type='mmpl.AutocastOptimWrapper',
            dtype='float32',
            clip_grad=dict(max_norm=1.0),
            optimizer=dict(type='AdamW', lr=1e-3),
        ),
        loop=dict(type='mmpl.ExactEpochLoop', max_epochs=epochs),
        checkpoint=dict(type='mmpl.SafeCheckpointHook', interval=1),
        non_finite=dict(type='mmpl.NonFiniteHook'),
    )
    for name, part in parts.items():
        part.update(fields.pop(name, {}))
    cfg = dict(
        default_scope='mmpretrain',
        work_dir=str(work_dir),
        model=model_cfg(**dict(backbone=backbone, data_preprocessor=data_preprocessor) | (model or {})),
        train_dataloader=parts['loader'],
        optim_wrapper=parts['optim_wrapper'],
        param_scheduler=[
            dict(type='LinearLR', start_factor=0.1, by_epoch=True, end=1, convert_to_iter_based=True),
            dict(type='CosineAnnealingLR', by_epoch=True, begin=1, end=epochs + 1, convert_to_iter_based=True),
        ],
        train_cfg=parts['loop'],
        default_hooks=dict(logger=dict(type='LoggerHook', interval=1), checkpoint=parts['checkpoint']),
        custom_hooks=[dict(type='mmpl.DualTeacherHook', health_interval=2), parts['non_finite'], *hooks],
        randomness=dict(seed=0, deterministic=True, diff_rank_seed=True),
        resume=True,
        log_level='WARNING',
        experiment_name=f'run_{np.random.default_rng().integers(1 << 60)}',
    )
    return Config(cfg | fields)


def run_rank(rank: int, world_size: int, group_file: str, *args, **kwargs) -> Runner:
    """One process of a distributed run on the CPU."""
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(world_size))
    if world_size == 1:
        return run(*args, **kwargs)
    if not dist.is_initialized():
        timeout = datetime.timedelta(seconds=60)
        dist.init_process_group(
            'gloo', init_method=f'file://{group_file}', rank=rank, world_size=world_size, timeout=timeout
        )
    wrapper = dict(type='MMDistributedDataParallel', device_ids=None, broadcast_buffers=False)
    return run(*args, launcher='pytorch', model_wrapper_cfg=wrapper, **kwargs)


def run(*args, **kwargs) -> Runner:
    """Build and train one, to its end or to the hook that stops it."""
    runner = Runner.from_cfg(fault_cfg(*args, **kwargs))
    runner.train()
    return runner


def own_hook(kind: str, **fields) -> dict:
    """Config of a hook that a test has registered."""
    return dict(type=f'mmengine.{kind}', _scope_='mmengine', **fields)


def stop_at(iteration: int) -> tuple[dict]:
    """The hooks of a run that ends as by a kill after an iteration."""
    return (own_hook('StopAt', iteration=iteration),)


def stopped(work_dir: Path, iteration: int, **kwargs) -> None:
    """Leave what a run leaves that is killed after an iteration."""
    with pytest.raises(StopAt.Stopped):
        run(work_dir, hooks=stop_at(iteration), **kwargs)


def logs_of(work_dir: Path) -> str:
    """What all runs and processes in a work folder logged."""
    return ''.join(path.read_text() for path in work_dir.glob('*/*.log'))


def differences(a: dict, b: dict, where: str = '') -> list[str]:
    """Places where two nested states differ in any bit."""
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        same = a.dtype == b.dtype and a.shape == b.shape and torch.equal(_bits(a), _bits(b))
        return [] if same else [where]
    if type(a) is not type(b):
        return [f'{where}: {type(a).__name__} and {type(b).__name__}']
    if isinstance(a, dict):
        found = [f'{where}.{key} on one side' for key in a.keys() ^ b.keys()]
        return found + [d for key in a.keys() & b.keys() for d in differences(a[key], b[key], f'{where}.{key}')]
    if isinstance(a, (list, tuple)):
        if len(a) != len(b):
            return [f'{where}: lengths']
        return [d for i, (x, y) in enumerate(zip(a, b, strict=True)) for d in differences(x, y, f'{where}[{i}]')]
    return [] if a == b else [f'{where}: {a!r} and {b!r}']


def _bits(x: Tensor) -> Tensor:
    return x.contiguous().view(torch.uint8) if x.ndim else x.reshape(1).view(torch.uint8)


def final_state(path: str | Path) -> dict:
    """All of a checkpoint that has to be the same after a resume."""
    checkpoint = load_checkpoint(path)
    return {key: checkpoint[key] for key in ('state_dict', 'optimizer', 'param_schedulers', 'mmpl_resume')} | {
        key: checkpoint['meta'][key] for key in ('epoch', 'iter', 'seed')
    }
