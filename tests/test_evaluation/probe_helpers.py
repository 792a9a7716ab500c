"""Folders of tiny images and a tiny MAE to probe."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
from PIL import Image

REPOSITORY = Path(__file__).parents[2]
MEAN, STD = [120.0, 110.0, 100.0], [60.0, 55.0, 50.0]
LOAD = dict(type='LoadImageFromFile')
RESIZE = dict(type='Resize', scale=(16, 16), backend='pillow', interpolation='bicubic')
PACK = dict(type='PackInputs')
SCENE_CLASSES = ('sky', 'sea', 'sand')
SCENE_COLOURS = np.array([(40, 60, 220), (20, 160, 90), (210, 190, 60)])


def run_script(script, *arguments, processes=1):
    """Run a Python file in one process, or in several by torchrun, on the CPU."""
    start = ['-m', 'torch.distributed.run', '--standalone', f'--nproc_per_node={processes}'] if processes > 1 else []
    environment = dict(os.environ, OMP_NUM_THREADS='1', CUDA_VISIBLE_DEVICES='-1')
    environment['PYTHONPATH'] = os.pathsep.join(filter(None, [str(REPOSITORY), os.environ.get('PYTHONPATH')]))
    command = [sys.executable, *start, str(script), *map(str, arguments)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)


def write_roots(folder):
    """Folders of 18 images to learn from and 9 to score."""
    return write_images(folder / 'train', 6, seed=0), write_images(folder / 'val', 3, seed=1)


def write_images(root, per_class=6, size=16, seed=0):
    """Write class folders of noisy PNGs, 3 classes whose colours overlap."""
    rng = np.random.default_rng(seed)
    colours = {'bright': (200, 200, 200), 'dark': (40, 40, 40), 'red': (200, 40, 40)}
    for name, mean in colours.items():
        folder = root / name
        folder.mkdir(parents=True)
        for index in range(per_class):
            colour = rng.normal(mean, 70)
            image = np.clip(rng.normal(colour, 30, (size, size, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(image).save(folder / f'{index:03d}.png')
    return root


def loader_cfg(root, batch_size=4, **kwargs):
    """Dataloader config of a class folder, as a mmpretrain user writes it."""
    pipeline = [dict(type='LoadImageFromFile'), dict(type='PackInputs')]
    dataset = dict(type='mmpretrain.CustomDataset', data_root=str(root), pipeline=pipeline)
    return dict(batch_size=batch_size, num_workers=0, dataset=dataset, **kwargs)


def write_scenes(root, count, seed, size=(16, 24), noise=25):
    """Scenes of 4 x 4 blocks of one class each, with noise; the last rows of pixels are ignored."""
    rng = np.random.default_rng(seed)
    for name in ('images', 'maps'):
        (root / name).mkdir(parents=True)
    for index in range(count):
        blocks = rng.integers(0, 3, (size[0] // 4, size[1] // 4))
        labels = blocks.repeat(4, 0).repeat(4, 1).astype(np.uint8)
        pixels = SCENE_COLOURS[labels] + rng.normal(0, noise, (*size, 3))
        labels[-2:] = 255
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(root / 'images' / f'{index}.png')
        Image.fromarray(labels).save(root / 'maps' / f'{index}.png')
    return root


def scenes_cfg(root, **kwargs):
    """Dataloader config of scenes with label maps, as a mmseg user writes it."""
    pipeline = [dict(type='LoadImageFromFile'), dict(type='mmseg.LoadAnnotations'), dict(type='mmseg.PackSegInputs')]
    dataset = dict(
        type='mmseg.BaseSegDataset',
        data_root=str(root),
        data_prefix=dict(img_path='images', seg_map_path='maps'),
        img_suffix='.png',
        metainfo=dict(classes=SCENE_CLASSES),
        pipeline=pipeline,
    )
    return dict(batch_size=3, num_workers=0, dataset=dataset, **kwargs)


def mae_cfg():
    """A tiny mmpretrain MAE for 16 x 16 images."""
    arch = dict(embed_dims=16, num_layers=2, num_heads=2, feedforward_channels=32)
    return dict(
        type='MAE',
        data_preprocessor=dict(
            type='SelfSupDataPreprocessor', mean=[123.0, 117.0, 104.0], std=[58.0, 57.0, 57.0], bgr_to_rgb=True
        ),
        backbone=dict(type='MAEViT', arch=arch, img_size=16, patch_size=4, mask_ratio=0.75, drop_rate=0.1),
        neck=dict(
            type='MAEPretrainDecoder',
            num_patches=16,
            patch_size=4,
            embed_dim=16,
            decoder_embed_dim=16,
            decoder_depth=1,
            decoder_num_heads=2,
        ),
        head=dict(
            type='MAEPretrainHead',
            norm_pix=True,
            patch_size=4,
            loss=dict(type='PixelReconstructionLoss', criterion='L2'),
        ),
    )


def build_mae(seed=0):
    """Build and initialise the tiny MAE."""
    from mmengine.registry import init_default_scope
    from mmengine.runner import set_random_seed
    from mmpretrain.registry import MODELS

    init_default_scope('mmpretrain')
    set_random_seed(seed)
    model = MODELS.build(mae_cfg())
    model.init_weights()
    return model


def build_loader(root, **kwargs):
    """Build a dataloader; the sampler is mmengine's default unless given."""
    from mmengine.registry import init_default_scope
    from mmengine.runner import Runner

    init_default_scope('mmpretrain')
    kwargs.setdefault('sampler', dict(type='DefaultSampler', shuffle=False))
    return Runner.build_dataloader(loader_cfg(root, **kwargs), seed=0)


def plmae_config(**preprocessor):
    """Config of a PL-MAE with teachers, and of how its images are read."""
    from mmengine.config import Config

    from tests.test_models.helpers import plmae_cfg

    model = plmae_cfg()
    model['data_preprocessor'] = dict(type='SelfSupDataPreprocessor', mean=MEAN, std=STD, **preprocessor)
    return Config(
        dict(
            model=model,
            default_scope='mmpretrain',
            train_dataloader=dict(dataset=dict(type='RepeatDataset', dataset=dict(pipeline=[LOAD, RESIZE, PACK]))),
        )
    )


def write_checkpoint(path, config):
    """A checkpoint in which every tensor, also of the teachers, has values of its own."""
    import torch
    from mmengine.registry import MODELS, init_default_scope

    init_default_scope('mmpretrain')
    torch.manual_seed(0)
    state = {
        key: torch.randn_like(value) * 0.2 if value.is_floating_point() else value
        for key, value in MODELS.build(config.model.to_dict()).state_dict().items()
    }
    torch.save(dict(meta=dict(cfg=config.pretty_text), state_dict=state), path)
    return path
