"""Tiny training runs in this process."""

import numpy as np
import torch
from mmengine.config import Config
from mmengine.registry import DATASETS
from mmengine.runner import Runner
from mmpretrain.structures import DataSample
from torch.utils.data import Dataset

from tests.test_models.helpers import msa_cfg, plmae_cfg

METHODS = dict(plmae=(plmae_cfg, 1), msa=(msa_cfg, 2))  # config of the model, and views of each image


@DATASETS.register_module(force=True)
class NoiseImages(Dataset):
    """Images that are a function of their index; more views are the same with other noise on top."""

    def __init__(self, size: int = 16, side: int = 16, views: int = 1) -> None:
        self.size, self.side, self.views = size, side, views

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> dict:
        rng = np.random.default_rng(index)
        image = torch.from_numpy(rng.normal(size=(3, self.side, self.side)).astype(np.float32))
        if self.views == 1:
            return dict(inputs=image, data_samples=index)
        noise = torch.from_numpy(rng.normal(size=(self.views - 1, *image.shape)).astype(np.float32))
        sample = DataSample(metainfo=dict(view_boxes=None))  # the views share their geometry
        return dict(inputs=[image, *(image + 0.3 * noise)], data_samples=sample)


def run_cfg(work_dir, model: dict | None = None, hook: dict | None = None, method: str = 'plmae', **kwargs) -> Config:
    """Config of a run of four iterations an epoch, of PL-MAE unless told otherwise."""
    model_cfg, views = METHODS[method]
    cfg = dict(
        default_scope='mmpretrain',
        work_dir=str(work_dir),
        model=model_cfg(data_preprocessor=dict(type='SelfSupDataPreprocessor'), **(model or {})),
        train_dataloader=dict(
            batch_size=4,
            num_workers=0,
            sampler=dict(type='DefaultSampler', shuffle=True),
            collate_fn=dict(type='default_collate'),
            dataset=dict(type='mmengine.NoiseImages', _scope_='mmengine', views=views),
        ),
        optim_wrapper=dict(type='OptimWrapper', optimizer=dict(type='AdamW', lr=1e-3)),
        train_cfg=dict(type='EpochBasedTrainLoop', max_epochs=2),
        default_hooks=dict(
            logger=dict(type='LoggerHook', interval=1), checkpoint=dict(type='CheckpointHook', interval=1)
        ),
        custom_hooks=[dict(type='mmpl.DualTeacherHook', health_interval=1, **(hook or {}))],
        randomness=dict(seed=0, deterministic=True),
        log_level='WARNING',
        experiment_name=f'run_{np.random.default_rng().integers(1 << 60)}',
    )
    cfg.update(kwargs)
    return Config(cfg)


def train(*args, **kwargs) -> Runner:
    """Build and run one."""
    runner = Runner.from_cfg(run_cfg(*args, **kwargs))
    runner.train()
    return runner
