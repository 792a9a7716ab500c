"""What every test shares."""

import gc
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.logging import MMLogger
from mmengine.registry import DefaultScope
from PIL import Image

from mmpl.compat.torch_load import restored_load_policy
from mmpl.utils.paths import restored_path_policy


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what needs a GPU where there is none."""
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker('cuda'):
                item.add_marker(pytest.mark.skip(reason='there is no GPU'))


@contextmanager
def _process_as_it_was() -> Iterator[None]:
    """Undo what is changed for the whole process: what may be loaded, ``logging.disable``, mmengine's logger and scope.

    Those that are current are the youngest ones.
    """
    disabled, kept = logging.root.manager.disable, MMLogger._instance_dict.copy()
    scopes = DefaultScope._instance_dict.copy()
    with restored_load_policy(), restored_path_policy():
        yield
    for instances, before in ((MMLogger._instance_dict, kept), (DefaultScope._instance_dict, scopes)):
        instances.clear()
        instances.update(before)
    logging.disable(disabled)
    for logger in kept.values():
        logger._cache.clear()  # logging does so for its own loggers only


@pytest.fixture(autouse=True, scope='session')
def _configs_in_long_lines() -> Iterator[None]:
    """A run writes its config several times; yapf takes a quarter of a second to lay it out, each time anew."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr('yapf.yapflib.yapf_api.FormatCode', lambda text, **kwargs: (text, True))
        yield


@pytest.fixture(autouse=True, scope='module')
def _module_undone() -> Iterator[None]:
    """Nothing of a file's fixtures is left to the next file.

    What was imported is no garbage: without it a full collection, as after each checkpoint, takes a tenth of the time.
    """
    gc.collect()
    gc.freeze()
    with _process_as_it_was():
        yield


@pytest.fixture(autouse=True)
def _test_undone(_module_undone: None) -> Iterator[None]:
    """Nothing of a test is left to the next test."""
    with _process_as_it_was():
        yield


@pytest.fixture(scope='session')
def noise_images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of sixteen 16x16 noise images, ``0.png`` to ``15.png``."""
    folder = tmp_path_factory.mktemp('noise')
    rng = np.random.default_rng(0)
    for i in range(16):
        Image.fromarray(rng.integers(0, 255, (16, 16, 3), dtype=np.uint8)).save(folder / f'{i}.png')
    return folder


@pytest.fixture
def tiny_mae_config(noise_images: Path, tmp_path: Path) -> Path:
    """Config file of mmpretrain's MAE, small enough to train two epochs of four steps in a second."""
    path = tmp_path / 'tiny_mae.py'
    path.write_text(f"""
default_scope = 'mmpretrain'
model = dict(
    type='MAE',
    data_preprocessor=dict(type='SelfSupDataPreprocessor', mean=[127.0] * 3, std=[127.0] * 3, to_rgb=True),
    backbone=dict(
        type='MAEViT', img_size=16, patch_size=4, mask_ratio=0.75,
        arch=dict(embed_dims=16, num_layers=1, num_heads=2, feedforward_channels=32)),
    neck=dict(
        type='MAEPretrainDecoder', num_patches=16, patch_size=4, in_chans=3, embed_dim=16, decoder_embed_dim=16,
        decoder_depth=1, decoder_num_heads=2, mlp_ratio=2.0),
    head=dict(type='MAEPretrainHead', norm_pix=True, patch_size=4,
              loss=dict(type='PixelReconstructionLoss', criterion='L2')))
train_dataloader = dict(
    batch_size=4, num_workers=0, sampler=dict(type='DefaultSampler', shuffle=True),
    dataset=dict(type='CustomDataset', data_root={str(noise_images)!r}, with_label=False,
                 pipeline=[dict(type='LoadImageFromFile'), dict(type='PackInputs')]))
optim_wrapper = dict(type='OptimWrapper', optimizer=dict(type='AdamW', lr=1e-3))
param_scheduler = [dict(type='CosineAnnealingLR', T_max=4, by_epoch=True)]
train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=2)
default_hooks = dict(logger=dict(type='LoggerHook', interval=1), checkpoint=dict(type='CheckpointHook', interval=1))
auto_scale_lr = dict(base_batch_size=8)
randomness = dict(seed=0)
work_dir = {str(tmp_path / 'work')!r}
""")
    return path


@pytest.fixture
def write_tiny_classifier(tmp_path: Path) -> Callable[[int], Path]:
    """Writes the config that tests a classifier of a number of classes on the folders in ``images`` of ``tmp_path``."""

    def write(num_classes: int) -> Path:
        config = tmp_path / 'classifier.py'
        config.write_text(f"""
default_scope = 'mmpretrain'
model = dict(
    type='ImageClassifier',
    data_preprocessor=dict(mean=[127.0] * 3, std=[127.0] * 3, to_rgb=True),
    backbone=dict(type='VisionTransformer', img_size=16, patch_size=4,
                  arch=dict(embed_dims=16, num_layers=1, num_heads=2, feedforward_channels=32)),
    head=dict(type='VisionTransformerClsHead', num_classes={num_classes}, in_channels=16))
test_dataloader = dict(
    batch_size=4, num_workers=0, sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(type='CustomDataset', data_root={str(tmp_path / 'images')!r},
                 pipeline=[dict(type='LoadImageFromFile'), dict(type='PackInputs')]))
test_cfg = dict()
test_evaluator = dict(type='Accuracy', topk=(1,))
work_dir = {str(tmp_path / 'work')!r}
""")
        return config

    return write
