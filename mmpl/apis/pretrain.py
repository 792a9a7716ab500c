"""The work behind ``mmpl pretrain``: a folder of images becomes a config, and the config a run."""

import hashlib
import logging
import os
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import cv2
import numpy as np
import torch
from mmengine import fileio
from mmengine.config import Config
from mmengine.dataset import default_collate
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, init_default_scope

from mmpl.checkpoints import read_checkpoint
from mmpl.checkpoints.encoders import STUDENT, Checkpoint
from mmpl.checkpoints.files import candidates
from mmpl.compat import set_load_policy
from mmpl.datasets.decode import Decoder
from mmpl.datasets.guarded import GuardedDataset
from mmpl.datasets.image_check import inspect_image
from mmpl.datasets.unlabelled_folder import UnlabelledFolder
from mmpl.evaluation.extractor import normalisation_of
from mmpl.export.spec import infer_spec, loader_of
from mmpl.utils.cores import usable_cores
from mmpl.utils.fields import Count, ImageSide, Interval, Natural, check_choice, checked
from mmpl.utils.paths import absolute
from mmpl.utils.seeds import preserve_rng_state
from mmpl.utils.user_errors import UserError

from .train import parse_train_args, process_as_it_was, train, train_config
from .written import config_folder, publish, render

LOOKED_AT = 256  # images from which sizes, brightness and faults are taken, evenly spaced; our choice
MIN_IMAGES = 16  # labels are balanced over a batch
IMAGE_SIDES = (32, 64, 96)  # of which, and of that of given weights, the default is the largest that the images fill
PATCHES = (4, 8, 16)
MAX_PATCHES = 196  # of the default patch size: those of 224 x 224 in patches of 16
LOADING = ('scaling', 'percentiles', 'bands', 'pages')
MAX_BAD = 0.1  # share of the images that may be bad
VIEWS = 1_000_000  # images seen in a default run, by epochs of at least 100 and at most 800
RATE, RATE_BATCH = 1e-3, 64  # of configs/pl_mae_small_folder.py; other batches by the square root of their share
CONTINUE_RATE = 1e-4  # of configs/pl_mae_vitb_continue.py, for as many
TIMED_STEPS = 3


class PretrainError(UserError, ValueError):
    """A run cannot be made of what was given; the message says why."""


@dataclass(frozen=True)
class Size:
    """An encoder and what is in proportion to it: the decoder is half as wide, with heads of 32; projectors twice."""

    arch: str | dict
    width: int
    prototypes: int
    preset: str = 'pl_mae_small_folder.py'

    def parts(self) -> dict[str, int]:
        """Sizes of decoder and labelling heads."""
        decoder = max(32, self.width // 64 * 32)
        return dict(
            decoder_dims=decoder,
            decoder_heads=decoder // 32,
            prototypes=self.prototypes,
            hidden_dims=2 * self.width,
            bottleneck_dims=max(32, self.width // 3),
        )


ARCHS = {
    'vit-t': Size('deit-t', 192, 256, 'pl_mae_tiny_folder.py'),
    'vit-s': Size('deit-s', 384, 512),
    'vit-b': Size('b', 768, 1024),
    'vit-l': Size('l', 1024, 1024),
}


@dataclass(frozen=True)
class Images:
    """What a folder holds, by a look at some of its files.

    Attributes:
        count: How many images there are.
        side: Median of the shorter sides in pixels.
        mean: Of the pixels, one number for each of red, green and blue, in 0..255.
        std: The same.
        bad: Faults of the files that were looked at, by path.
        looked_at: How many those were.
    """

    count: int
    side: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    bad: Mapping[str, str]
    looked_at: int


def look_at(folder: str, decoder: Decoder) -> Images:
    """Look at images of a folder, evenly spaced, as they will be loaded.

    Raises:
        PretrainError: They are too few or all alike, or more than a tenth of those looked at cannot be used.
        FileNotFoundError: There is no such folder.
    """
    if not Path(folder).is_dir():
        raise FileNotFoundError(f'{folder!r} is no folder of images')
    init_default_scope('mmpretrain')
    with _quiet():
        dataset = UnlabelledFolder(data_root=folder, pipeline=[])
    count = len(dataset)
    if count < MIN_IMAGES:
        raise PretrainError(
            f'{folder!r} holds {count} images, but at least {MIN_IMAGES} are needed: pseudo labels are balanced over '
            'the images of a batch'
        )
    numbers = sorted({round(i * (count - 1) / (min(count, LOOKED_AT) - 1)) for i in range(min(count, LOOKED_AT))})
    bad, sides, sums, seen = {}, [], [], set()
    for number in numbers:
        path = dataset.get_data_info(number)['img_path']
        if fault := inspect_image(path, decoder=decoder).bad:
            bad[path] = fault
            continue
        pixels = decoder(fileio.get(path), path).img
        if pixels.ndim != 3 or pixels.shape[2] != 3:
            raise PretrainError(
                f'{path!r} is loaded with the shape {pixels.shape}, but 3 channels are needed: see `bands`'
            )
        sides.append(min(pixels.shape[:2]))
        seen.add(hashlib.sha256(pixels.tobytes()).digest())
        first, spread = (np.asarray(values, np.float64).ravel() for values in cv2.meanStdDev(pixels))
        sums.append((first, spread**2 + first**2))
    if len(bad) > MAX_BAD * len(numbers):
        path, fault = next(iter(bad.items()))
        raise PretrainError(
            f'{len(bad)} of {len(numbers)} images looked at in {folder!r} cannot be used, such as {path!r}: {fault} '
            '(`mmpl check` lists all; docs/own_images.md tells how other kinds of images are loaded)'
        )
    if len(seen) == 1:
        raise PretrainError(
            f'all {len(sums)} images looked at in {folder!r} have the same pixels: there is nothing to tell apart'
        )
    mean = np.mean([first for first, _ in sums], 0)
    std = np.sqrt(np.mean([second for _, second in sums], 0) - mean**2)
    return Images(
        count,
        int(statistics.median(sides)),
        tuple(round(float(v), 2) for v in mean[::-1]),
        tuple(round(max(1.0, float(v)), 2) for v in std[::-1]),
        bad,
        len(numbers),
    )


@checked()
@process_as_it_was()
def pretrain(
    folder: str | os.PathLike,
    arch: Literal['vit-t', 'vit-s', 'vit-b', 'vit-l'] | None = None,
    image_size: ImageSide | None = None,
    patch_size: Count | None = None,
    batch_size: Annotated[int, Interval(MIN_IMAGES)] | None = None,
    epochs: Count | None = None,
    start: str | os.PathLike | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    loading: Mapping[str, Any] | None = None,
    work_dir: str | os.PathLike | None = None,
    workers: Natural | None = None,
    dry_run: bool = False,
    trust: bool = False,
    say: Callable[[str], None] = print,
) -> Path:
    """Pre-train by PL-MAE on a folder of images: write a config beside the work folder, and run it.

    What is not given is chosen from the images, and said. Called again with the same arguments it goes on where it was
    stopped.

    Args:
        folder: Images, also in subfolders; no labels.
        arch: ``'vit-t'``, ``'vit-s'``, ``'vit-b'`` or ``'vit-l'``; by default tiny below 10,000 images, else small, and
            with ``start`` that of the checkpoint.
        image_size: Side in pixels; by default the largest of 32, 64 and 96 that half of the images fill.
        patch_size: Side in pixels; by default the smallest of 4, 8, 16 that makes at most 196 patches.
        batch_size: Images a step and process; 64 by default, or fewer if there are fewer.
        epochs: By default as many as see a million images, at least 100 and at most 800.
        start: Weights to continue from: ours, or public ones of MAE, timm, Hugging Face or mmpretrain.
        mean: Of red, green and blue in 0..255, by which images are normalised; by default that of the images, and with
            ``start`` that of the weights, which has to be given where their file does not say it.
        std: The same; the two are given together.
        loading: How files are read that are no pictures of 8 bits: ``scaling``, ``percentiles``, ``bands`` (three) and
            ``pages`` of :class:`mmpl.LoadImage`; with ``start`` by default those that the weights were trained with.
        work_dir: For logs and checkpoints, ``work_dirs/pretrain_<name of the folder>`` by default; the config has the
            same name with ``.py``.
        workers: Processes that load images; by default one a core, at most 8.
        dry_run: Write the config, measure some steps, and stop.
        trust: Whether ``start`` may run code.
        say: Where lines about what was chosen go.

    Returns:
        The last checkpoint; with ``dry_run`` the config.

    Raises:
        PretrainError: Too few images can be used, or ``arch`` and ``start`` do not agree.
        ValueError: A number is not allowed.
    """
    folder = os.path.abspath(folder)
    if (mean is None) != (std is None) or any(len(values) != 3 for values in (mean, std) if values is not None):
        raise PretrainError(f'`mean` and `std` must be given together, 3 numbers each, but got {mean!r} and {std!r}')
    place = Path(work_dir or Path('work_dirs') / f'pretrain_{Path(folder).name}').absolute()
    if place.resolve().is_relative_to(Path(folder).resolve()):
        raise PretrainError(
            f'`work_dir` {str(place)!r} lies inside of the images {folder!r}: pictures that are drawn there would be '
            'trained on. Name another, or start from another folder'
        )
    set_load_policy(trust)
    found = None if start is None else read_checkpoint(os.fspath(start))
    if loading is None and found is not None:  # as mean and std are those of the weights
        loading = {name: value for name, value in loader_of(found.config).items() if name in LOADING}
        if loading:
            say(f'files are read as those were that {found.path} was trained on: {loading}')
    loading = dict(loading or {})
    for name in loading:
        check_choice('loading', name, LOADING)
    images = look_at(folder, Decoder.of(**loading))
    if images.bad:
        path, fault = next(iter(images.bad.items()))
        say(f'{len(images.bad)} of {images.looked_at} images looked at are bad, such as {path}: {fault}; `mmpl check`')
    fields = _chosen(images, arch, image_size, patch_size, batch_size, epochs, found, mean, std, workers)
    config = place.with_name(f'{place.name}.py')
    publish(
        config, render('pretrain.py.jinja', folder=folder, loading=loading, **fields), workers_asked=workers is not None
    )
    options = parse_train_args([str(config), '--work-dir', str(place), *(['--trust'] if trust else [])])
    cfg = train_config(options)
    say(
        f'{images.count} images, their shorter sides about {images.side} pixels: {fields["arch_text"]}, '
        f'{fields["epochs"]} epochs of {images.count // fields["batch_size"]} steps of {fields["batch_size"]} images'
    )
    say(f'wrote {config}')
    say(estimate(cfg, fields['steps']))
    if dry_run:
        return config
    train([str(config), '--work-dir', str(place), *(['--trust'] if trust else [])])
    return candidates(place)[0]


def _chosen(
    images: Images,
    arch: str | None,
    image_size: int | None,
    patch_size: int | None,
    batch_size: int | None,
    epochs: int | None,
    found: Checkpoint | None,
    given_mean: Sequence[float] | None,
    given_std: Sequence[float] | None,
    workers: int | None,
) -> dict[str, Any]:
    """The fields of the config's template."""
    if found is None:
        size = ARCHS[arch or ('vit-t' if images.count < 10_000 else 'vit-s')]
        preset, backbone = size.preset, dict[str, Any](arch=size.arch)
        mean, std = images.mean, images.std
        if given_mean:
            fed = normalisation_of({}, 3, given_mean, given_std, '')
            mean, std = fed.mean, fed.std
        bgr, mean_text = (
            False,
            'As was asked.' if given_mean else f'Of {images.looked_at} of the images: red, green, blue.',
        )
    else:
        size, patch_size, backbone, own_side = _size_of(found, arch, patch_size)
        preset = 'pl_mae_vitb_continue.py'
        fed = normalisation_of(found.config, 3, given_mean, given_std, found.path)
        mean, std, bgr, mean_text = fed.mean, fed.std, fed.bgr, 'As the weights that it starts from were fed.'
    known = IMAGE_SIDES if found is None else (*IMAGE_SIDES, own_side)
    side = image_size or max([s for s in known if s <= images.side], default=IMAGE_SIDES[0])
    if patch_size and not image_size:  # of weights, or asked for: whole patches
        side = max(side // patch_size, 1) * patch_size
    patch = patch_size or next((p for p in PATCHES if (side / p) ** 2 <= MAX_PATCHES), PATCHES[-1])
    if side % patch:
        near = sorted({max(patch, side // patch * patch), -(-side // patch) * patch})
        raise PretrainError(
            f'`image_size` must be a multiple of the patch size {patch}, such as '
            f'{" or ".join(map(str, near))}, but got {side}'
        )
    if (side // patch) ** 2 < 16:
        raise PretrainError(
            f'`image_size` {side} has {(side // patch) ** 2} patches of {patch} pixels, but at least 16 are needed to '
            f'hide three quarters of them: at least {4 * patch} pixels, or smaller patches'
        )
    batch = batch_size or min(RATE_BATCH, 1 << (images.count.bit_length() - 1))
    if batch > images.count:
        raise PretrainError(f'`batch_size` must be at most {images.count}, the number of images, but got {batch}')
    epochs = epochs or min(800, max(100, VIEWS // images.count))
    per_epoch = images.count // batch
    steps = epochs * per_epoch
    if steps < 4:
        raise PretrainError(f'`epochs` must make at least 4 steps of {batch} images, but {epochs} make {steps}')
    rate = CONTINUE_RATE if found else RATE
    backbone |= dict(img_size=side, patch_size=patch)
    on_gpu = torch.cuda.is_available()
    named = next((name for name, known in ARCHS.items() if known.arch == size.arch), f'ViT {size.width} wide')
    return dict(
        base=str(config_folder() / preset),
        arch_text=f'{named} at {side} x {side} with patches of {patch}'
        + (f' (the weights are for {own_side} x {own_side})' if found and own_side != side else ''),
        count=images.count,
        epochs=epochs,
        steps=steps,
        warmup=max(epochs / 20, 2 / per_epoch),  # one step would never leave the start of mmengine's LinearLR
        backbone=', '.join(f'{name}={value!r}' for name, value in backbone.items()),
        image_size=side,
        mean=list(mean),
        std=list(std),
        mean_text=mean_text,
        bgr=bgr,
        max_bad=MAX_BAD,
        horizon_label=float(f'{min(1, max(0.008, 10 / steps)):.2g}'),  # ten steps at least
        horizon_recon=float(f'{min(1, max(0.08, 20 / steps)):.2g}'),
        batch_size=batch,
        workers=min(8, usable_cores()) if workers is None else workers,
        dtype='bfloat16' if on_gpu and torch.cuda.is_bf16_supported(including_emulation=False) else 'float32',
        lr=float(f'{rate * (batch / RATE_BATCH) ** 0.5:.2g}'),
        save_every=max(1, epochs // 20),
        start=None if found is None else absolute(str(found.path)),
        encoder_sha256='' if found is None else found.digest(STUDENT),
        start_text='' if found is None else f'{found.path} (layout of {found.layout})',
        **size.parts(),
    )


def _size_of(found: Checkpoint, arch: str | None, patch_size: int | None) -> tuple[Size, int, dict[str, Any], int]:
    """Size, patch, backbone fields and image side of the encoder that a run starts from; what is asked must agree."""
    encoder = found.encoder(STUDENT)
    if any(key.startswith('stages.') for key in encoder):
        raise PretrainError(f'{found.path}: its encoder is a Swin transformer, but `mmpl pretrain` trains plain ViTs')
    spec = infer_spec(encoder, found.config)
    if spec.patch_size[0] != spec.patch_size[1] or spec.in_channels != 3:
        raise PretrainError(f'{found.path}: square patches of 3 channels are needed, but it has {spec}')
    if patch_size not in (None, spec.patch_size[0]):
        raise PretrainError(f'`patch_size` must be {spec.patch_size[0]}, that of {found.path}, but got {patch_size}')
    known = [name for name, size in ARCHS.items() if _sizes(size.arch) == _sizes(spec)]
    if arch is not None and arch not in known:
        has = f'{known[0]}' if known else f'{spec.num_layers} blocks of width {spec.embed_dims}'
        raise PretrainError(f'`arch` must fit the encoder of {found.path}, {has}, but got {arch!r}; it can be left out')
    plain = dict(zip(('embed_dims', 'num_layers', 'num_heads', 'feedforward_channels'), _sizes(spec), strict=True))
    size = ARCHS[known[0]] if known else Size(plain, spec.embed_dims, 512)
    backbone: dict[str, Any] = dict(arch=size.arch)
    if spec.norm_eps != 1e-6:
        backbone['norm_cfg'] = dict(type='LN', eps=spec.norm_eps)
    if not spec.qkv_bias:
        backbone['qkv_bias'] = False
    return size, spec.patch_size[0], backbone, min(spec.img_size)


def _sizes(arch: Any) -> tuple[int, ...]:
    names = ('embed_dims', 'num_layers', 'num_heads', 'feedforward_channels')
    if isinstance(arch, str):
        from mmpretrain.models.backbones import VisionTransformer

        arch = next(zoo for keys, zoo in VisionTransformer.arch_zoo.items() if arch in keys)
    return tuple(arch[name] if isinstance(arch, Mapping) else getattr(arch, name) for name in names)


def estimate(cfg: Config, steps: int) -> str:
    """Take some real steps of a run, without its hooks, and say how long all will take, and in how much memory.

    Args:
        cfg: The run's config; not changed.
        steps: Of the whole run.
    """
    init_default_scope('mmpretrain')
    device = torch.device('cuda' if torch.cuda.is_available() else 'cpu')
    loader = cfg.train_dataloader
    batch_size = loader.batch_size
    with _quiet(), preserve_rng_state():
        dataset = GuardedDataset(loader.dataset.to_dict())
        model: Any = MODELS.build(cfg.model).to(device).train()
        model.attach_updater('the estimate')
        model.set_length(steps, 1)
        wrapper = build_optim_wrapper(model, cfg.optim_wrapper)
        loading, computing = [], []
        for turn in range(TIMED_STEPS):
            begin = time.perf_counter()
            order = [(turn * batch_size + i) % len(dataset) for i in range(batch_size)]
            batch = default_collate([dataset[i] for i in order])
            loading.append(time.perf_counter() - begin)
            model.train_step(batch, wrapper)
            model.after_step(0.0, 0)
            if device.type == 'cuda':
                torch.cuda.synchronize()
            computing.append(time.perf_counter() - begin - loading[-1])
    parameters = sum(p.numel() for p in model.parameters() if p.requires_grad)
    each = max(min(computing), min(loading) / max(1, loader.num_workers))
    memory = f'{torch.cuda.max_memory_allocated() / 2**30:.1f} GiB of GPU memory, ' if device.type == 'cuda' else ''
    return (
        f'{parameters / 1e6:.1f} million trained parameters, {memory}{each:.2g} s a step on {device} '
        f'(loading {min(loading):.2g} s for {loader.num_workers} processes to share): about {_duration(each * steps)} '
        f'for {steps} steps, by {TIMED_STEPS} that were timed'
    )


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what is logged for information: the run logs it again."""
    logging.disable(logging.INFO)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)


def _duration(seconds: float) -> str:
    for unit, size in (('days', 86_400), ('hours', 3600), ('minutes', 60)):
        if seconds >= 1.5 * size:
            return f'{seconds / size:.1f} {unit}'
    return f'{seconds:.0f} seconds'
