"""What ``walk.py --all`` changes in the blocks of the docs, what it does not run, and the data that it runs on.

A command is named by its page and its beginning. ``tests/test_docs`` holds that every entry names one that is there.
"""

import json
import os
import subprocess
import sys
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
_T = TypeVar('_T')
_INSTALLS, _MACHINES, _SLURM = 'it installs packages', 'it needs several machines', 'it needs Slurm'
_OUTPUT, _PART = 'it is no command', 'a shortened part of a file that the contract test runs'

NOT_RUN = {
    ('README.md', 'bash tools/run_tests.sh'): 'it is what CI runs',
    ('README.md', 'pip install'): _INSTALLS,
    ('docs/adding_a_method.md', '@MODELS.register_module()'): _PART,
    ('docs/adding_a_method.md', '@property'): _PART,
    ('docs/adding_a_method.md', 'custom_hooks'): _PART,
    ('docs/evidence.md', 'python tools/benchmarks/compare_methods.py  '): 'hours; --quick and --only are run',
    ('docs/evidence.md', 'python tools/benchmarks/compare_methods.py --full'): 'days; --quick and --only are run',
    ('docs/evidence.md', 'python tools/benchmarks/compare_methods.py --config'): 'hours',
    ('docs/getting_started.md', 'bash tools/run_tests.sh'): 'it is what CI runs',
    ('docs/own_images.md', '8 files'): _OUTPUT,
    ('docs/performance.md', 'NNODES=4'): _MACHINES,
    ('docs/performance.md', 'bash tools/benchmarks/gpu_check.sh'): 'a test runs it',
    ('docs/robustness.md', '#SBATCH'): _SLURM,
    ('docs/robustness.md', 'srun'): _SLURM,
    ('docs/robustness.md', '[ $? -eq 75 ]'): _SLURM,
    ('docs/training.md', 'NNODES=4'): _MACHINES,
    ('docs/training.md', 'tools/slurm_train.sh'): _SLURM,
    ('docs/training.md', 'mim search'): 'openmim asks for a setuptools that torch does not run with',
    ('docs/training.md', 'mim train'): 'openmim asks for a setuptools that torch does not run with',
    ('docs/vqa.md', 'pip install'): _INSTALLS,
    ('docs/vqa.md', 'v2_OpenEnded'): _OUTPUT,
}

_FEW = 'default_hooks.checkpoint.interval=3 default_hooks.logger.interval=1'
_QUESTIONS = ' '.join(f'{split}_dataloader.dataset.indices=250' for split in ('train', 'val', 'test'))
SMALL = (  # page or '*', pattern, what stands in its place
    ('*', r'--epochs \d+', '--epochs 1'),
    ('*', r'(?<=pretrain_my_images/)epoch_\d+', 'epoch_1'),
    ('*', r'(mmpl pretrain my_images)(?! .*--from)', r'\1 --batch-size 16 --workers 0 --image-size 32'),
    ('*', r'(mmpl pretrain my_images)(?= .*--from)', r'\1 --batch-size 16 --workers 0 --image-size 64 --epochs 1'),
    ('*', r'(mmpl finetune .*?)( --epochs 1)?$', r'\1 --epochs 1 --batch-size 8 --image-size 64 --workers 0'),
    ('*', r'^(SEEDS=.*)?bash tools/demo.sh.*', 'bash tools/demo.sh small_demo.py small_surfaces.py'),
    ('*', r'configs/pl_mae_vitb(_folder)?\.py 8', 'tiny.py 2'),
    ('*', r'arch=.b.,', "arch='deit-t',"),
    ('*', r"checkpoint='[\w/]*epoch_400.pth'", "checkpoint='mae_pretrain_vit_base.pth'"),
    ('README.md', r'(--query \d+)', r'\1 --k 3'),
    ('docs/data.md', r'\./configs/pl_mae_vitb_folder\.py', './tiny.py'),
    ('docs/data.md', r'/data/train-\{000000\.\.000146\}', 'shards/train-{000000..000001}'),
    ('docs/evidence.md', r'(--quick) .*', r'\1 --only surfaces-images-pl_mae-0'),
    ('docs/evidence.md', r'(--out docs/evidence) .*', r'\1 --only surfaces-images-random-0'),
    ('docs/features.md', r'run/epoch_400', 'run/epoch_1'),
    ('docs/features.md', r'run/iter_1', 'run/epoch_1'),
    ('docs/features.md', r'data/mmpl_embedded/demo/cls/val', 'data/mmpl_embedded/test/cls/val'),
    ('docs/features.md', r'digit_3/1501_0.png', '0'),
    ('docs/getting_started.md', r'--variant surfaces', '--variant surfaces --size test'),
    ('docs/getting_started.md', r'data/demo_surfaces', 'data/test_surfaces'),
    ('docs/getting_started.md', r'pretrain_train/epoch_\d+|(?<=coco/)epoch_4', r'pretrain_train/epoch_1'),
    ('docs/own_annotations.md', r'CHECKPOINT', 'run/epoch_1.pth'),
    ('docs/own_images.md', r'FOLDER', 'thermal'),
    ('docs/own_images.md', r'configs/pl_mae_vitb_folder\.py', 'tiny_files.py'),
    ('docs/performance.md', r'--views \d+', '--views 8'),
    ('docs/performance.md', r'^(.*_speed\.py\S*)', r'\1 --rounds 1'),
    ('docs/recipes.md', r'configs/pl_mae_vitb_folder\.py', 'tiny.py'),
    ('docs/recipes.md', r'FOLDER train_dataloader.batch_size=64', 'my_images train_dataloader.batch_size=8'),
    ('docs/robustness.md', r'configs/pl_mae_vitb\.py', 'small_demo.py'),
    ('docs/robustness.md', r'work_dirs/a/epoch_400\.pth', 'run/epoch_1.pth'),
    ('docs/robustness.md', r'DATA_FOLDER_OR_CONFIG', 'tiny.py'),
    ('docs/training.md', r'/path/to/images', 'my_images'),
    ('docs/training.md', r'configs/pl_mae_demo\.py', 'small_demo.py'),
    ('docs/transfer.md', r'pl_mae_demo/seed_\*/epoch_\d+', 'small_demo/seed_*/epoch_1'),
    (
        'docs/transfer.md',
        r'work_dirs/demo/\w+_surfaces\w*/seed_\*/epoch_\d+',
        'work_dirs/demo/small_surfaces/seed_*/epoch_1',
    ),
    (
        'docs/transfer.md',
        r'(transfer\.sh [^#]*)',
        r'\1 --seeds 0 --tasks classification --cfg-options train_cfg.max_epochs=1 ',
    ),
    ('docs/vqa.md', r'(vqa/(mae|pl_mae|msa)\.py .*?)(#.*)?$', rf'\1 --cfg-options train_cfg.max_iters=3 {_FEW}'),
    ('docs/vqa.md', r'iter_(600|1200)', 'iter_3'),
    ('docs/vqa.md', r'(vqa\.sh .*)', rf'\1 --seeds 0 --cfg-options train_cfg.max_epochs=1 {_QUESTIONS}'),
    ('docs/vqa.md', r'CHECKPOINT', f'work_dirs/vqa_mae/iter_3.pth train_cfg.max_epochs=1 {_QUESTIONS}'),
    ('docs/vqa.md', r'(tools/test.py .*)', rf'\1 --cfg-options {_QUESTIONS}'),
    ('docs/vqa.md', r'vqa/epoch_3', 'vqa/epoch_1'),
    ('docs/vqa.md', r'epoch_10\.pth', 'work_dirs/vqa/epoch_1.pth'),
)


@dataclass(frozen=True)
class Piece:
    """How a block of Python is run that is no program by itself."""

    before: str = ''
    after: str = ''  # a use of what the block defines
    file: str = ''  # the block is a config: written there ...
    command: str = ''  # ... and run so

    def steps(self, block: str) -> list[tuple[str, str]]:
        """Language and text of what is run."""
        text = self.before + block + self.after
        if not self.file:
            return [('python', text)]
        write = ('python', f'open({self.file!r}, "w").write({text!r})')
        return [write, ('bash', self.command)] if self.command else [write]


_TINY = "_base_ = './tiny.py'\n"
_LOAD = '\nfrom mmengine.registry import MODELS\nimport mmpretrain\nMODELS.build(backbone).init_weights()\n'
_INIT = "backbone = dict(type='mmpretrain.VisionTransformer', arch='deit-t',\n"
PIECES = {
    ('README.md', 'backbone = dict('): Piece(after=_LOAD),
    ('docs/data.md', '_base_'): Piece(file='shards.py', command='python tools/train.py shards.py'),
    ('docs/data.md', 'train_dataloader = dict('): Piece(_TINY, file='rows.py', command='python tools/train.py rows.py'),
    ('docs/data.md', 'images = dict('): Piece(_TINY, file='folders.py', command='python tools/train.py folders.py'),
    ('docs/migration.md', 'custom_hooks'): Piece(
        after='from mmengine.registry import HOOKS\nHOOKS.build(custom_hooks[0])\n'
    ),
    ('docs/migration.md', 'backbone = dict('): Piece(after=_LOAD),
    ('docs/own_annotations.md', "_base_ = './configs/downstream/detection"): Piece(file='own_boxes.py'),
    ('docs/own_annotations.md', "_base_ = './configs/downstream/segmentation"): Piece(
        file='own_maps.py', command='python tools/train.py own_maps.py --cfg-options model.backbone.init_cfg=None'
    ),
    ('docs/own_annotations.md', "_base_ = './configs/downstream/classification"): Piece(
        file='own_folders.py', command='python tools/train.py own_folders.py --cfg-options model.backbone.init_cfg=None'
    ),
    ('docs/weights.md', 'init_cfg = dict('): Piece(
        after="backbone = dict(type='mmpretrain.VisionTransformer', arch='deit-t', init_cfg=init_cfg)\n" + _LOAD
    ),
}


def found(table: Mapping[tuple[str, str], _T], page: str, text: str) -> _T | None:
    """The entry of a table that a command's page and beginning name."""
    return next(
        (value for (name, start), value in table.items() if name == page and text.lstrip().startswith(start)), None
    )


# ------------------------------------------------------------------ data

_TINY_CONFIG = """
_base_ = './configs/pl_mae_vitb_folder.py'
max_epochs = 2
warmup_epochs = 1
model = dict(
    backbone=dict(
        arch=dict(_delete_=True, embed_dims=32, num_layers=2, num_heads=2, feedforward_channels=64),
        img_size=32,
        patch_size=8,
    ),
    neck=dict(decoder_embed_dims=32, depth=1, num_heads=2),
    label_head=dict(num_prototypes=16, hidden_dims=32, bottleneck_dims=16),
)
train_pipeline = [
    dict(type={loader!r}),
    dict(type='RandomResizedCrop', scale=32, crop_ratio_range=(0.2, 1.0), backend='pillow', interpolation='bicubic'),
    dict(type='PackInputs'),
]
train_dataloader = dict(
    batch_size={batch},
    num_workers=0,
    persistent_workers=False,
    dataset=dict(data_root='my_images', pipeline=train_pipeline),
)
optim_wrapper = dict(dtype='float32')
"""
_SMALL_CONFIG = """
_base_ = './configs/pl_mae_{name}.py'
max_epochs = 1
loaders = {{
    name: dict(_base_.probe[name], dataset=dict(_base_.probe[name].dataset, size='test'))
    for name in ('train_dataloader', 'val_dataloader')
}}
custom_hooks = [_base_.teacher_hook, dict(_base_.probe, **loaders), _base_.non_finite_hook]
train_dataloader = dict(batch_size=16, num_workers=0, persistent_workers=False, dataset=dict(size='test'))
param_scheduler = [dict(type='CosineAnnealingLR', by_epoch=True, begin=0, end=1, convert_to_iter_based=True)]
train_cfg = dict(max_epochs=1)
"""


def prepare(folder: Path, env: dict[str, str], checkpoint: bool) -> list[Path]:
    """Make what the pages take for granted: folders of images, annotations, public weights, a checkpoint.

    Args:
        folder: Where; must not be there.
        env: Of the commands.
        checkpoint: Whether one is needed, which takes a short run.

    Returns:
        What every page finds in its folder: this, and the repository's folders.
    """
    from mmpl.datasets import build_embedded

    folder.mkdir()
    build_embedded(folder / 'data' / 'mmpl_embedded', 'test', 'surfaces', progress=False)
    surfaces = folder / 'data' / 'mmpl_embedded' / 'test_surfaces'
    pictures = sorted((surfaces / 'cls' / 'train').rglob('*.png'))[::5]
    for name, files in dict(my_images=pictures, many_images=pictures[:48], few_images=pictures[48:]).items():
        (folder / name).mkdir()
        for number, path in enumerate(files):
            (folder / name / f'{number}.png').symlink_to(path)
    (folder / 'few_images' / 'list.txt').write_text('# three of them\n0.png\n3.png\n5.png\n')
    (folder / 'my_coco_folder').symlink_to(surfaces / 'coco')
    write_annotated(folder / 'data' / 'mine')
    _write_thermal(folder / 'thermal')
    _write_shards(folder / 'shards', pictures)
    _write_public_weights(folder / 'mae_pretrain_vit_base.pth')
    _write_rows(folder / 'saved_folder', pictures)
    (folder / 'tiny.py').write_text(_TINY_CONFIG.format(loader='LoadImageFromFile', batch=16))
    (folder / 'tiny_files.py').write_text(_TINY_CONFIG.format(loader='mmpl.LoadImage', batch=4))
    for name in ('demo', 'surfaces'):
        (folder / f'small_{name}.py').write_text(_SMALL_CONFIG.format(name=name))
    names = ('configs', 'tools', 'tests', 'requirements', 'requirements.txt', 'pyproject.toml')
    for name in names:
        (folder / name).symlink_to(ROOT / name)
    if checkpoint:
        command = [sys.executable, 'tools/train.py', 'small_demo.py', '--work-dir', 'run']
        subprocess.run(command, cwd=folder, env=env, check=True)
    return sorted(folder.iterdir())


def write_annotated(folder: Path) -> None:
    """Four pictures a split, with boxes in COCO's format, label maps, and in folders of two classes."""
    for split in ('train', 'val'):
        content: dict[str, list] = dict(
            images=[], annotations=[], categories=[dict(id=3, name='cat'), dict(id=5, name='dog')]
        )
        for i in range(4):
            name = f'{split}_{i}.jpg'
            _picture(folder / 'images' / name, i)
            content['images'].append(dict(id=i, file_name=name, height=72, width=96))
            content['annotations'].append(
                dict(id=i + 1, image_id=i, category_id=(3, 5)[i % 2], bbox=[8, 8, 40, 30], area=1200, iscrowd=0)
                | dict(segmentation=[[8, 8, 48, 8, 48, 38, 8, 38]])
            )
            _picture(folder / split / f'{i}.jpg', i)
            values = np.zeros((72, 96), np.uint8)
            values[10:40, 10:60] = 1
            (folder / f'{split}_maps').mkdir(exist_ok=True)
            Image.fromarray(values).save(folder / f'{split}_maps' / f'{i}.png')
            _picture(folder / 'classes' / split / ('cat', 'dog')[i % 2] / f'{i}.jpg', i)
        (folder / f'{split}.json').write_text(json.dumps(content))


def _picture(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    small = np.random.default_rng(seed).integers(0, 255, (9, 12, 3), np.uint8)
    Image.fromarray(np.kron(small, np.ones((8, 8, 1), np.uint8))).save(path)


def _write_thermal(folder: Path) -> None:
    folder.mkdir()
    for seed in range(8):
        small = np.random.default_rng(seed).integers(27_010, 30_989, (6, 8), np.uint16)
        Image.fromarray(np.kron(small, np.ones((8, 8), np.uint16))).save(folder / f'{seed}.png')


def _write_shards(folder: Path, pictures: list[Path]) -> None:
    folder.mkdir()
    for number in range(2):
        with tarfile.open(folder / f'train-{number:06d}.tar', 'w') as shard:
            for index, path in enumerate(pictures[number::2]):
                shard.add(path, f'{index:04d}.png')


def _write_public_weights(path: Path) -> None:
    """An encoder 192 wide with random weights, under the names of MAE's official files."""
    import timm
    import torch

    state = timm.create_model('vit_tiny_patch16_224', num_classes=0).state_dict()
    torch.save(dict(model=state), path)


def _write_rows(folder: Path, pictures: list[Path]) -> None:
    """What ``Dataset.save_to_disk`` of the package ``datasets`` writes."""
    import datasets

    rows = datasets.Dataset.from_dict(dict(image=[str(path) for path in pictures]))
    rows = rows.cast_column('image', datasets.Image())
    datasets.DatasetDict(train=rows).save_to_disk(os.fspath(folder))
