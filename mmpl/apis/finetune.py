"""The work behind ``mmpl finetune``: annotations of one's own and an encoder become a config, and the config a run."""

import glob
import json
import os
import re
import statistics
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from mmengine.registry import TRANSFORMS
from mmengine.utils import import_modules_from_strings
from PIL import Image

from mmpl.checkpoints import read_checkpoint
from mmpl.checkpoints.encoders import STUDENT, Checkpoint
from mmpl.checkpoints.files import candidates
from mmpl.compat import set_load_policy
from mmpl.datasets.agreement.detection import faults_of_file, is_box
from mmpl.datasets.agreement.findings import IMAGE_SUFFIXES, evenly, size_of_image
from mmpl.datasets.decode import NOT_TURNED, decoder_of_transform
from mmpl.datasets.image_facts import read_facts
from mmpl.datasets.listing import Listing, list_images, read_lines, split_folders
from mmpl.datasets.unlabelled_folder import EXTENSIONS
from mmpl.evaluation.extractor import build_loader, normalisation_of
from mmpl.export.spec import EncoderSpec, Preprocessing, infer_spec, loader_of
from mmpl.utils.cores import usable_cores
from mmpl.utils.fields import Count, ImageSide, Natural, checked
from mmpl.utils.paths import absolute
from mmpl.utils.seeds import derive_seed
from mmpl.utils.user_errors import UserError

from .check_dataset import check_files, look_for_files
from .train import parse_train_args, process_as_it_was, train, train_config
from .written import config_folder, publish, render

WORDS = dict(  # split -> words in the names of COCO files
    train=('train', 'training', 'trainset', 'trainval'),
    val=('val', 'valid', 'validation', 'valset', 'minival'),
    test=('test', 'testing', 'testset'),
)
VAL_SHARE = 0.2  # of the images, where no split is given; our choice
LOOKED_AT = 64  # images that are opened
LABEL_MAPS = 1000  # of a split, whose values are read
CHECKED = 20_000  # images whose heads and ends are read
FEW = 2000  # of them are read by one process
OWN_LOADER, STOCK_LOADER = dict(type='mmpl.LoadImage'), dict(type='LoadImageFromFile')
IGNORED = 255  # in label maps
STEPS = 1000  # of a default run of segmentation or detection, at least
BASES = dict(
    classification='downstream/classification/vitb_finetune_100e_in1k.py',
    segmentation='downstream/segmentation/upernet_vitb_160k_ade20k.py',
    detection='downstream/detection/mask_rcnn_vitb_1x_coco.py',
)
SWIN = dict(
    classification='configs/downstream/classification/swinb_finetune_100e_in1k.py',
    segmentation='configs/downstream/segmentation/upernet_swinb_160k_ade20k.py',
    detection='configs/downstream/detection/mask_rcnn_swinb_1x_coco.py',
)
BATCH = dict(classification=64, segmentation=8, detection=4)
# Learning rate of an encoder 192 wide for so many images; narrower for wider ones by the root of the width, and for
# other batches by the root of their share. Our choice, from the small siblings in configs/downstream.
RATE = dict(classification=1e-3, segmentation=1e-3, detection=7e-4)


class FinetuneError(UserError, ValueError):
    """A run cannot be made of what was given; the message says why."""


@dataclass(frozen=True)
class Annotated:
    """What a data set holds: the fields of its template, and what the rest is chosen from.

    Attributes:
        classes: Names, in the order of their numbers.
        fields: Of the template.
        count: Images to train on.
        sides: Height and width in pixels, medians.
        images: The files, also those to validate on.
        files: Text of files for the work folder, by name.
        notes: What is left out.
    """

    classes: tuple[str, ...]
    fields: Mapping[str, Any]
    count: int
    sides: tuple[int, int]
    images: Sequence[Path]
    files: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


@checked()
@process_as_it_was()
def finetune(
    task: Literal['classification', 'segmentation', 'detection'],
    data: str | os.PathLike,
    checkpoint: str | os.PathLike,
    source: str = STUDENT,
    image_size: ImageSide | None = None,
    batch_size: Count | None = None,
    epochs: Count | None = None,
    classes: Sequence[str] | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    work_dir: str | os.PathLike | None = None,
    workers: Natural | None = None,
    dry_run: bool = False,
    trust: bool = False,
    say: Callable[[str], None] = print,
) -> Path:
    """Fine-tune an encoder on annotations of one's own: write a config beside the work folder, and run it.

    Sizes of the encoder and the normalisation come from the checkpoint, names of the classes from the annotations.
    Called again with the same arguments it goes on where it was stopped.

    Args:
        task: ``'classification'``: ``data`` holds a folder for each class, or ``train`` and ``val`` with such folders.
            ``'segmentation'``: ``images`` and ``annotations`` (or ``masks``, ``labels``), each with ``train`` and
            ``val`` or not, label maps that hold the number of the class, and ``classes.txt``. ``'detection'``: COCO
            files, in ``data``, in ``annotations`` or in ``train`` and ``val``, with ``train`` and ``val`` in their
            names or their folders', or one file. What has no split gets one: a fifth of the images, by their names, is
            for validation. Where there is no ``val``, ``test`` is taken; :data:`mmpl.datasets.listing.SPLITS` has
            other names of these folders.
        data: The folder.
        checkpoint: Of pre-training, or public weights.
        source: Which encoder of it: 'student' or a teacher.
        image_size: Side in pixels. Classification: of the images; by default that of pre-training. Segmentation: of
            the crops. Detection: of the square that images are scaled into. By default what fits the images.
        batch_size: Images a step; by default 64, 8 and 4, or fewer if there are few.
        epochs: By default 50 for classification; for the others as many as make 1,000 steps, at least 12, at most 200.
        classes: Names of the classes of a segmentation, instead of ``classes.txt``.
        mean: By which images are normalised, in 0..255 and in the encoder's order of the channels, where the
            checkpoint does not say it.
        std: The same; the two are given together.
        work_dir: For logs and checkpoints, ``work_dirs/finetune_<task>_<name of the folder>`` by default; the config
            has the same name with ``.py``.
        workers: Processes that load images; by default one a core, at most 4.
        dry_run: Write the config and stop.
        trust: Whether the checkpoint may run code.
        say: Where lines about what was chosen go.

    Returns:
        The config.

    Raises:
        FinetuneError: The folder does not hold what the task needs.
        ValueError: A number is not allowed.
    """
    if classes is not None and task != 'segmentation':
        raise FinetuneError(f'`classes` must be left out for {task}, whose annotations name them, but got {classes!r}')
    root = Path(data).absolute()
    if not root.is_dir():
        raise FileNotFoundError(f'{str(data)!r} is no folder')
    set_load_policy(trust)
    found = read_checkpoint(os.fspath(checkpoint))
    encoder = found.encoder(source)
    if any(key.startswith('stages.') for key in encoder):
        raise FinetuneError(
            f'{found.path}: its encoder is a Swin transformer, and `mmpl finetune` writes configs of plain ViTs. '
            f'{SWIN[task]} takes it: `python tools/train.py` with `--cfg-options '
            'model.backbone.init_cfg.checkpoint=...`, and your data in a config that inherits from it'
        )
    spec = infer_spec(encoder, found.config)
    if spec.patch_size[0] != spec.patch_size[1] or spec.img_size[0] != spec.img_size[1] or spec.in_channels != 3:
        raise FinetuneError(f'{found.path}: square images and patches of 3 channels are needed, but it has {spec}')
    fed = normalisation_of(found.config, 3, mean, std, found.path)
    place = Path(work_dir or Path('work_dirs') / f'finetune_{task}_{root.name}')
    if place.resolve().is_relative_to(root.resolve()):
        raise FinetuneError(
            f'`work_dir` {str(place)!r} lies inside of the data {str(root)!r}: name another, or start from another '
            'folder'
        )
    look = dict(classification=_class_folders, segmentation=_label_maps, detection=_coco_files)[task]
    annotated = look(root, place, classes) if task == 'segmentation' else look(root, place)  # type: ignore[operator]
    least = 2 if task == 'segmentation' else 1  # UperNet's batch norm takes the mean of one pixel an image
    if annotated.count < least:
        raise FinetuneError(f'{str(root)!r} must have {least} images to train a {task} on, but has {annotated.count}')
    batch = batch_size or max(least, min(BATCH[task], annotated.count // 4))
    if batch < least:
        raise FinetuneError(f'`batch_size` must be at least {least} for {task}, but got {batch}')
    if batch > annotated.count:
        raise FinetuneError(f'`batch_size` must be at most {annotated.count}, the images to train on, but got {batch}')
    per_epoch = -(-annotated.count // batch)
    epochs = epochs or (50 if task == 'classification' else min(200, max(12, -(-STEPS // per_epoch))))
    if epochs * per_epoch < 3 and task != 'detection':  # whose warm-up may be all there is
        raise FinetuneError(
            f'`epochs` must make at least 3 steps of {batch} images, but {epochs} make {epochs * per_epoch}'
        )
    loader, imports = loader_in_config(found, annotated.images, trust)
    if not candidates(place):  # else they were looked at before
        loader = _check_images(root, annotated.images, loader, found, say)
    sizes = dict(classification=_sizes_cls, segmentation=_sizes_seg, detection=_sizes_det)[task]
    fields = _encoder_fields(spec, fed, absolute(os.fspath(checkpoint)), found.prefix(source))
    fields |= annotated.fields
    fields |= dict(
        base=str(config_folder() / BASES[task]),
        classes=annotated.classes,
        num_classes=len(annotated.classes),
        data_root=str(root),
        batch_size=batch,
        encoder_sha256=found.digest(source),
        loader=loader,
        imports=imports,
        workers=min(4, usable_cores()) if workers is None else workers,
        lr=float(f'{RATE[task] * (192 / max(192, spec.embed_dims)) ** 0.5 * (batch / BATCH[task]) ** 0.5:.2g}'),
        epochs=epochs,
        steps=epochs * per_epoch,
        warmup=max(min(5, epochs / 10), 2 / per_epoch),  # one step would never leave the start of mmengine's LinearLR
        warmup_steps=min(500, max(2, epochs * per_epoch // 20)),
        val_every=max(1, epochs // 5),
        val_steps=max(1, epochs * per_epoch // 5),
        **sizes(spec, annotated, image_size),
    )
    config = place.with_name(f'{place.name}.py')
    publish(config, render(f'{task}.py.jinja', **fields), workers_asked=workers is not None)
    for name, text in annotated.files.items():  # not of a run that was refused
        _write(place / name, text)
    say(
        f'{annotated.count} images to train on, {len(annotated.classes)} classes ({", ".join(annotated.classes[:8])}'
        f'{", ..." if len(annotated.classes) > 8 else ""}); at {fields["image_size"]} x {fields["image_size"]}, '
        f'{epochs} epochs of {per_epoch} steps of {batch} images'
    )
    for note in annotated.notes:
        say(note)
    if loader != STOCK_LOADER:
        say(
            f'files are read by {loader["type"]}, as in pre-training; the inferencers of mmpretrain, mmseg and mmdet '
            'know their own loader only: tools/test.py takes what is trained here'
        )
    say(f'wrote {config}')
    del annotated, fields  # lists of all files
    argv = [str(config), '--work-dir', str(place), '--resume', *(['--trust'] if trust else [])]
    if dry_run:
        train_config(parse_train_args(argv))  # what is wrong with it shows here
        return config
    train(argv)
    return config


# ---- the encoder


def _encoder_fields(spec: EncoderSpec, fed: Preprocessing, checkpoint: str, prefix: str) -> dict[str, Any]:
    arch = {name: getattr(spec, name) for name in ('embed_dims', 'num_layers', 'num_heads', 'feedforward_channels')}
    return dict(
        width=spec.embed_dims,
        arch=', '.join(f'{name}={value}' for name, value in arch.items()),
        patch_size=spec.patch_size[0],
        pretrained_size=spec.img_size[0],
        norm_eps=None if spec.norm_eps == 1e-6 else spec.norm_eps,
        qkv_bias=spec.qkv_bias,
        checkpoint=checkpoint,
        prefix=prefix or None,
        mean=list(fed.mean),
        std=list(fed.std),
        bgr=fed.bgr,
    )


def loader_in_config(
    found: Checkpoint, images: Sequence[Path], trust: bool
) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """The transform that reads files as pre-training did, and the ``custom_imports`` that register it.

    mmcv's stands for mmpl's where the two read these images alike: the inferencers of mmseg and mmdet look for it.
    """
    loader = {field: value for field, value in loader_of(found.config).items() if field != 'backend_args'}
    if loader == OWN_LOADER and all(_read_alike(images[index]) for index in evenly(len(images), LOOKED_AT)):
        return dict(STOCK_LOADER), None
    name = str(loader['type'])
    if '.' in name or name in TRANSFORMS:
        return loader, None
    imports = found.config.get('custom_imports')
    if not imports or not trust:
        raise FinetuneError(
            f'{found.path}: pre-training read images by {name!r}, a transform of its own'
            + (
                f'; `--trust` imports {imports["imports"]}, which its config names'
                if imports
                else ', but its config has no `custom_imports` that say where it is from'
            )
        )
    import_modules_from_strings(**imports)  # the user trusts it
    return loader, dict(imports, imports=[*dict.fromkeys(['mmpl', *imports['imports']])])


def _read_alike(path: Path) -> bool:
    """Whether mmcv's loader reads a file as ``mmpl.LoadImage`` does."""
    try:
        with path.open('rb') as file:
            facts = read_facts(file)
    except Exception:  # of a damaged file nearly anything; neither of the two reads it
        return True
    return facts is None or (facts.plain and (facts.orientation == 1 or facts.format not in NOT_TURNED))


def _multiple(size: int, of: int) -> int:
    return max(of, size // of * of)


def _check_multiple(size: int | None, of: int, why: str) -> None:
    if size is not None and size % of:
        raise FinetuneError(
            f'`image_size` must be a multiple of {of}, {why}, such as {_multiple(size, of)} or '
            f'{_multiple(size, of) + of}, but got {size}'
        )


def _sizes_cls(spec: EncoderSpec, annotated: Annotated, image_size: int | None) -> dict[str, Any]:
    _check_multiple(image_size, spec.patch_size[0], 'the patch size')
    return dict(image_size=image_size or spec.img_size[0])


def _sizes_seg(spec: EncoderSpec, annotated: Annotated, image_size: int | None) -> dict[str, Any]:
    patch = spec.patch_size[0]
    if spec.num_layers < 4:
        raise FinetuneError(f'segmentation takes the outputs of 4 blocks, but the encoder has {spec.num_layers}')
    rescales = [4, 2, 1, 0.5] if patch >= 8 else [2, 1, 0.5, 0.25]  # strides of 2 to 16 pixels at least
    coarsest = int(patch / rescales[-1])
    _check_multiple(image_size, coarsest, 'the stride of the coarsest map')
    size = image_size or _multiple(min(512, min(annotated.sides)), coarsest)
    return dict(
        image_size=size,
        coarsest=coarsest,
        stride=_multiple(size * 2 // 3, patch),
        rescales=rescales,
        channels=min(512, max(64, spec.embed_dims // 2)),
        out_indices=[(i + 1) * spec.num_layers // 4 - 1 for i in range(4)],
    )


def _sizes_det(spec: EncoderSpec, annotated: Annotated, image_size: int | None) -> dict[str, Any]:
    patch = spec.patch_size[0]
    steps = (patch * 2.0**power for power in range(-2, 4))  # for patches of 8 and 16: 4, 8, 16, 32
    strides = [int(step) for step in steps if step.is_integer() and 3 <= step <= 48][: 3 if patch <= 4 else 4]
    _check_multiple(image_size, strides[-1], 'the stride of the coarsest map')
    size = image_size or _multiple(min(1024, max(annotated.sides) + strides[-1] - 1), strides[-1])
    box = annotated.fields['box_side'] * size / max(annotated.sides)
    middle = statistics.geometric_mean(strides)
    depth = spec.num_layers
    return dict(
        image_size=size,
        strides=strides,
        scale=min((2, 4, 8), key=lambda scale: abs(np.log(scale * middle / max(1.0, box)))),
        channels=256 if spec.embed_dims >= 768 else 128 if spec.embed_dims >= 384 else 64,
        box_side=round(box),
        window_size=14 if patch >= 16 else 8,
        global_attn_indexes=sorted({(i + 1) * depth // 4 - 1 for i in range(4) if (i + 1) * depth // 4 > 0}),
    )


# ---- classification


def _class_folders(root: Path, place: Path) -> Annotated:
    train, val = _train_and_val(root)
    if (train is None) != (val is None):
        raise FinetuneError(
            f'{str(root)!r} has {train or val!r}, but lacks the other: `train` and `val` with a folder for each class, '
            'or folders of classes alone, which are split'
        )
    written: dict[str, str] = {}
    images: list[Path] = []
    files, loose, listing = _by_class(root / train if train else root)
    classes = tuple(files)
    notes = []
    if len(classes) < 2:
        raise FinetuneError(
            f'{str(root)!r} must hold a folder of images for each of 2 or more classes, has {classes}'
            + (f' and {len(loose)} images beside' if loose else '')
            + '; with a list of images and labels write a config (`ann_file` of CustomDataset; docs/own_annotations.md)'
        )
    if train and val:
        fields = {
            f'{split}_data': dict(data_prefix=part, extensions=EXTENSIONS)
            for split, part in (('train', train), ('val', val))
        }
        count = sum(map(len, files.values()))
        in_val = list_images(str(root / val), EXTENSIONS).files
        images = [root / val / path for path in in_val]
        loose += [os.path.join(val, path) for path in in_val if os.sep not in path]
        there = {part: _folders(root / part) for part in (train, val)}
        if there[train] != there[val]:  # by which mmpretrain numbers the classes
            raise FinetuneError(
                f'{str(root)!r}: {train} and {val} must have the same folders, of which those in {val} may be '
                f'empty, but differ in {sorted(there[train] ^ there[val])}'
            )
    else:
        lines: dict[str, list[str]] = dict(train=[], val=[])
        for number, (name, paths) in enumerate(files.items()):
            for split, chosen in zip(lines, _split(paths, f'class {name!r}'), strict=True):
                lines[split] += [f'{path} {number}' for path in chosen]
        written = {f'{split}.txt': '\n'.join(text) + '\n' for split, text in lines.items()}
        fields = {
            f'{split}_data': dict(ann_file=str((place / f'{split}.txt').absolute()), data_prefix='') for split in lines
        }
        count = len(lines['train'])
        notes += _passed_over(root, listing)
    base = root / train if train else root
    sample = [base / path for paths in files.values() for path in paths[: max(1, LOOKED_AT // len(files))]]
    if loose:
        notes.append(f'left out: {len(loose)} images that are in no folder of a class, such as {loose[0]!r}')
    images += [base / path for paths in files.values() for path in paths]
    return Annotated(classes, fields, count, _median_sides(sample), images, written, tuple(notes))


def _by_class(folder: Path) -> tuple[dict[str, list[str]], list[str], Listing]:
    """Images of each class by relative path, in mmpretrain's order, that of the names; those of none; and all."""
    listing = list_images(str(folder), EXTENSIONS)
    files = listing.files
    found: dict[str, list[str]] = {}
    for path in files:
        if os.sep in path:
            found.setdefault(path.split(os.sep)[0], []).append(path)
    if found and (empty := sorted(_folders(folder) - set(found))):
        raise FinetuneError(f'{str(folder)!r}: the folders {empty} hold no image, and would be no class: remove them')
    return dict(sorted(found.items())), [path for path in files if os.sep not in path], listing


def _passed_over(folder: Path, listing: Listing) -> list[str]:
    text = listing.passed_over()
    return [f'left out in {str(folder)!r}: {text}'] if text else []


def _folders(folder: Path) -> set[str]:
    return {place.name for place in folder.iterdir() if place.is_dir() and not place.name.startswith('.')}


# ---- segmentation


def _label_maps(root: Path, place: Path, names: Sequence[str] | None) -> Annotated:
    images, maps = _subfolder(root, ('images', 'img', 'imgs')), _subfolder(root, ('annotations', 'masks', 'labels'))
    if images is None or maps is None:
        raise FinetuneError(
            f'{str(root)!r} must hold `images` and `annotations` (or `masks`, `labels`), each with `train` and `val` '
            f'inside or not, but has {sorted(path.name for path in root.iterdir())[:8]}'
        )
    train, val = _train_and_val(root / images)
    folders = [train, val] if train and val else ['']
    listings = {folder: list_images(str(root / images / folder), EXTENSIONS) for folder in folders}
    listed = {folder: listing.files for folder, listing in listings.items()}
    first = listed[folders[0]]
    if not first:
        raise FinetuneError(f'{str(root / images / folders[0])!r} holds no image')
    endings = Counter(Path(path).suffix for paths in listed.values() for path in paths).most_common()
    if len(endings) > 1:
        raise FinetuneError(
            f'{str(root / images)!r} has images that end in {", ".join(f"{end} ({count})" for end, count in endings)}, '
            'and a data set of mmseg takes one ending, in one case: convert or rename the others'
        )
    suffix = endings[0][0]
    stems = {folder: [path.removesuffix(suffix) for path in paths] for folder, paths in listed.items()}
    map_suffix = _map_suffix(root / maps / folders[0], stems[folders[0]])
    looked = [
        root / maps / folder / (stems[folder][index] + map_suffix)
        for folder in folders
        for index in evenly(len(stems[folder]), LABEL_MAPS)
    ]
    values = {path: _values_of(path) for path in looked if path.is_file()}
    classes = _names_of(root, names, sorted(set().union(*values.values())))
    for path, found in values.items():
        if beyond := sorted(value for value in found if value >= len(classes) and value != IGNORED):
            raise FinetuneError(
                f'{str(path)!r} has the values {beyond[:8]}, but the classes {list(classes)[:8]} are 0 to '
                f'{len(classes) - 1}, and {IGNORED} is ignored'
            )
    written: dict[str, str] = {}
    if train and val:
        data: list[dict[str, Any]] = [
            dict(data_prefix=dict(img_path=f'{images}/{f}', seg_map_path=f'{maps}/{f}')) for f in (train, val)
        ]
        count = len(stems[train])
    else:
        parts = _split(stems[''], str(root / images))
        data = []
        for split, chosen in zip(('train', 'val'), parts, strict=True):
            written[f'{split}.txt'] = '\n'.join(chosen) + '\n'
            ann = str((place / f'{split}.txt').absolute())
            data.append(dict(ann_file=ann, data_prefix=dict(img_path=images, seg_map_path=maps)))
        count = len(parts[0])
    sample = [root / images / folders[0] / (s + suffix) for s in stems[folders[0]][:LOOKED_AT]]
    fields = dict(train_data=data[0], val_data=data[1], img_suffix=suffix, seg_map_suffix=map_suffix)
    files = [root / images / folder / path for folder, paths in listed.items() for path in paths]
    notes = [note for folder, listing in listings.items() for note in _passed_over(root / images / folder, listing)]
    return Annotated(classes, fields, count, _median_sides(sample), files, written, tuple(notes))


def _values_of(label_map: Path) -> set[int]:
    """Which values the pixels of a label map have."""
    try:
        with Image.open(label_map) as opened:
            return {int(value) for value in np.unique(np.asarray(opened))}
    except (OSError, SyntaxError) as error:
        raise FinetuneError(f'{str(label_map)!r} cannot be read as a label map: {error}') from error


def _map_suffix(folder: Path, stems: Sequence[str]) -> str:
    """What follows the name of an image in that of its label map: what most of the images looked at have."""
    ends: Counter[str] = Counter()
    for stem in stems[:LOOKED_AT]:
        near = ((folder / stem).parent).glob(f'{glob.escape(Path(stem).name)}*')
        ends.update(path.name.removeprefix(Path(stem).name) for path in near if path.suffix.lower() in IMAGE_SUFFIXES)
    if not ends:
        raise FinetuneError(
            f'{str(folder)!r} holds no label map of {stems[0]!r}: its file must be called as the image, such as '
            f'{Path(stems[0]).name}.png'
        )
    most = [end for end, count in ends.items() if count == max(ends.values())]
    if len(most) > 1:
        raise FinetuneError(
            f'{str(folder)!r} holds several files for each image, which end in {sorted(most)}: leave the label maps '
            'alone there'
        )
    return most[0]


def _names_of(root: Path, names: Sequence[str] | None, values: Sequence[int]) -> tuple[str, ...]:
    """Names of the classes of label maps that hold these values."""
    file = root / 'classes.txt'
    if names is None and file.is_file():
        names = [line.strip() for line in read_lines(str(file)) if line.strip()]
    if names is None:
        raise FinetuneError(
            f'the names of the classes are needed, in {str(file)!r} (one a line) or as `--classes`: the label maps '
            f'hold the values {list(values)[:20]}, so the first name is that of the value 0'
        )
    if again := [name for name, count in Counter(names).items() if count > 1]:
        raise FinetuneError(f'the names of the classes must differ, but {again} occur more than once in {list(names)}')
    return tuple(names)


# ---- detection


def _coco_files(root: Path, place: Path) -> Annotated:
    parts = [root, root / 'annotations', *(root / part for part in split_folders(root).values())]
    files = [file for part in parts for file in sorted(part.glob('*.json'))]
    written: dict[str, str] = {}
    notes: list[str] = []
    named = {split: [file for file in files if _split_of(file, root) == split] for split in WORDS}
    for split, several in named.items():  # beside captions and key points
        named[split] = [file for file in several if 'instances' in file.stem] or several
    validating = named['val'] or named['test']
    if len(files) == 1:
        contents, moved = _split_coco(_read_coco(files[0]), files[0])
        chosen = {split: place / f'{split}.json' for split in contents}
        written = {f'{split}.json': json.dumps(content) for split, content in contents.items()}
        if moved:
            notes.append(f'{moved} images are trained on instead of validated on: no other has their classes')
    elif len(named['train']) == len(validating) == 1:
        chosen = dict(train=named['train'][0], val=validating[0])
        contents = {split: _read_coco(file) for split, file in chosen.items()}
    else:
        raise FinetuneError(
            f'{str(root)!r} must hold one COCO file, or one with the word `train` and one with `val` (or `test`) in '
            "its name or its folder's, there, in `annotations`, or in `train` and `val`, but has "
            f'{[str(file.relative_to(root)) for file in files]}'
        )
    classes = tuple(str(category['name']) for category in contents['train']['categories'])
    fields: dict[str, Any] = {}
    folders = {}
    for split, content in contents.items():
        one = files[0] if len(files) == 1 else None
        folders[split] = _image_folder(root, content, one or chosen[split], None if one else split)
        fields[f'{split}_data'] = (str(chosen[split].absolute()), f'{folders[split]}/')
    boxes = [a['bbox'] for a in contents['train']['annotations'] if is_box(a['bbox'])]
    if not boxes:
        raise FinetuneError(f'{chosen["train"]}: no annotation has a `bbox` [x, y, width, height]')
    fields['box_side'] = float(np.median([(max(0.0, box[2]) * max(0.0, box[3])) ** 0.5 for box in boxes]))
    all_annotations = [a for content in contents.values() for a in content['annotations']]
    without = sum(not a.get('segmentation') for a in all_annotations)
    fields['masks'] = not without
    if 0 < without < len(all_annotations):
        notes.append(f'{without} of {len(all_annotations)} annotations have no `segmentation`: boxes alone are trained')
    sizes = [(int(i['height']), int(i['width'])) for i in contents['train']['images'] if 'height' in i and 'width' in i]
    if not sizes:
        raise FinetuneError(f'{chosen["train"]}: its images have no `height` and `width`')
    sides = tuple(int(statistics.median(values)) for values in zip(*sizes, strict=True))
    images = [folders[s] / str(image['file_name']) for s, content in contents.items() for image in content['images']]
    count = len(contents['train']['images'])
    return Annotated(classes, fields, count, (sides[0], sides[1]), images, written, tuple(notes))


def _split_of(file: Path, root: Path) -> str | None:
    """The split that a file's name, or its folder's, has the word of; None if there is none, or there are several."""
    for name in (file.stem, '' if file.parent == root else file.parent.name):
        words = {word.lower() for word in re.findall('[A-Z]?[a-z]+|[A-Z]+', name)}
        found = [split for split, known in WORDS.items() if words & set(known)]
        if found:
            return found[0] if len(found) == 1 else None
    return None


def _read_coco(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text(encoding='utf-8'))
    except ValueError as error:
        hint = '; save it without a byte-order mark' if 'BOM' in str(error) else ''
        raise FinetuneError(f'{str(file)!r} is no JSON: {error}{hint}') from error
    parts = content if isinstance(content, dict) else {}
    lacking = [name for name in ('images', 'annotations', 'categories') if not parts.get(name)]
    if lacking:
        raise FinetuneError(f'{str(file)!r} is no COCO file with boxes: it has no {", ".join(lacking)}')
    if faults := faults_of_file(str(file), content):
        raise FinetuneError(faults)
    return content


def _split_coco(content: Mapping[str, Any], file: Path) -> tuple[dict[str, dict[str, Any]], int]:
    """A file to train on and one to validate on, and how many images the former got for their classes."""
    by_name = {str(image['file_name']): image for image in content['images']}
    if len(by_name) < len(content['images']):
        again = [name for name, count in Counter(str(i['file_name']) for i in content['images']).items() if count > 1]
        raise FinetuneError(f'{str(file)!r}: {len(again)} names of `images` occur more than once, such as {again[0]!r}')
    known = {image['id'] for image in content['images']}
    if strangers := [a['image_id'] for a in content['annotations'] if a['image_id'] not in known]:
        raise FinetuneError(
            f'{str(file)!r}: {len(strangers)} of {len(content["annotations"])} annotations have an `image_id` that is '
            f'none of the ids of `images`, such as {strangers[0]!r}; ids are such as {min(known, key=str)!r}'
        )
    train, val = ({by_name[name]['id'] for name in names} for names in _split(sorted(by_name), str(file)))
    classes: dict[Any, set] = {key: set() for key in known}
    for annotation in content['annotations']:
        classes[annotation['image_id']].add(annotation['category_id'])
    taught = Counter(name for key in train for name in classes[key])  # images of each class
    moved = {key for key in val if any(name not in taught for name in classes[key])}
    taught.update(name for key in moved for name in classes[key])
    train, val = train | moved, val - moved
    if not any(classes[key] for key in val):
        spare = (k for k in sorted(train, key=str) if classes[k] and all(taught[name] > 1 for name in classes[k]))
        if (other := next(spare, None)) is None:
            raise FinetuneError(f'{str(file)!r} has too few annotated images to train on some and validate on others')
        train, val = train - {other}, val | {other}
    parts = {}
    for split, ids in (('train', train), ('val', val)):
        parts[split] = dict(content, images=[i for i in content['images'] if i['id'] in ids])
        own = (a for a in content['annotations'] if a['image_id'] in ids)
        parts[split]['annotations'] = [dict(a, id=number) for number, a in enumerate(own, 1)]  # as scoring needs them
    return parts, len(moved)


def _image_folder(root: Path, content: Mapping[str, Any], file: Path, split: str | None) -> Path:
    """The folder in which the files of a COCO file's images are, by the first of them; without a split any will do."""
    name = str(content['images'][0]['file_name'])
    tried = [root, root / 'images', file.parent]
    for base in filter(Path.is_dir, tried[:2]):
        parts = dict(zip(('train', 'val'), _train_and_val(base), strict=True))
        tried += [base / part for part in (parts.values() if split is None else [parts[split]]) if part]
    folder = next((place for place in tried if (place / name).is_file()), None)
    if folder is None:
        raise FinetuneError(
            f'{str(file)!r}: its image {name!r} is in none of {sorted({str(place) for place in tried})}'
        )
    return folder


# ---- shared


def _train_and_val(root: Path) -> tuple[str | None, str | None]:
    """The folders to train on and to validate on, if there are any."""
    found = split_folders(root)
    return found.get('train'), found.get('val', found.get('test'))


def _subfolder(root: Path, names: Sequence[str]) -> str | None:
    return next((name for name in names if (root / name).is_dir()), None)


def _split(items: Sequence[str], what: str) -> tuple[list[str], list[str]]:
    """Training and validation, a function of the names alone: who adds images keeps the split of the others."""
    val = [item for item in items if derive_seed('split', item) % 1000 < 1000 * VAL_SHARE]
    if not val or len(val) == len(items):
        val = sorted(items, key=lambda item: derive_seed('split', item))[: max(1, round(VAL_SHARE * len(items)))]
    train = [item for item in items if item not in set(val)]
    if not train:
        raise FinetuneError(f'{what} has {len(items)} images, too few to train on some and validate on others')
    return train, val


def _check_images(
    root: Path, images: Sequence[Path], loader: dict[str, Any], found: Checkpoint, say: Callable[[str], None]
) -> dict[str, Any]:
    """Refuse files that training would stop at, by their heads and ends; the loader that reads them all."""
    chosen = [str(images[index]) for index in evenly(len(images), CHECKED)]
    if len(chosen) > FEW:
        say(f'looking at {len(chosen)} images')
    bad = _faults(chosen, loader, found)
    if bad and loader == STOCK_LOADER and loader_of(found.config).get('type') == OWN_LOADER['type']:
        loader = dict(OWN_LOADER)  # reads more
        bad = _faults([fault['path'] for fault in bad], loader, found)
    if bad:
        raise FinetuneError(
            f'{len(bad)} of {len(chosen)} images of {str(root)!r} cannot be used, such as {bad[0]["path"]!r}: '
            f'{bad[0]["reason"]}; mend them, or take them and their annotations out'
        )
    return loader


def _faults(files: Sequence[str], loader: dict[str, Any], found: Checkpoint) -> list[dict[str, str]]:
    decoder = decoder_of_transform(build_loader(loader, found.path))
    if decoder is None:  # a loader of one's own may read anything
        return look_for_files(files).bad
    return check_files(files, workers=0 if len(files) > FEW else 1, min_side=1, decoder=decoder).bad


def _median_sides(paths: Sequence[Path]) -> tuple[int, int]:
    """Medians of height and width, of images as they are shown."""
    sizes = [size for path in paths if (size := size_of_image(str(path))) is not None]
    if not sizes:
        raise FinetuneError(f'none of the images that were looked at can be read, such as {str(paths[0])!r}')
    return int(statistics.median(h for h, _ in sizes)), int(statistics.median(w for _, w in sizes))


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding='utf-8')
