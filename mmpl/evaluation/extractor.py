"""Features of anybody's images from a checkpoint, without labels, config or data loader."""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from mmengine.config import Config
from mmengine.registry import TRANSFORMS
from mmpretrain.models.selfsup.base import BaseSelfSupervisor
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from mmpl.checkpoints.encoders import STUDENT, Checkpoint, heads_of, read_checkpoint
from mmpl.checkpoints.named_code import refuse_code
from mmpl.datasets.decode import decoder_of_transform, upright
from mmpl.datasets.image_check import inspect_image
from mmpl.datasets.image_facts import orientation_of
from mmpl.datasets.unlabelled_folder import UnlabelledFolder
from mmpl.export.spec import Preprocessing, loader_of, preprocessing
from mmpl.utils.fields import Count, check_device, checked
from mmpl.utils.seeds import preserve_rng_state
from mmpl.utils.user_errors import UserError

from .evaluate import build_model
from .features import _num_extra_tokens, _tokens, evaluation_mode, find_encoder, pool_tokens

Item: TypeAlias = str | os.PathLike | Image.Image | np.ndarray | Tensor
ImageSize = int | Sequence[int] | Literal['own'] | None

_EIGHT_BIT_MODES = ('1', 'L', 'LA', 'P', 'PA', 'RGB', 'RGBA', 'CMYK', 'YCbCr', 'HSV', 'LAB')


class ExtractorError(UserError, ValueError):
    """A checkpoint does not say what a feature extractor must know; the message names the field that says it."""


class ImageError(UserError, ValueError):
    """An image cannot be used; the message names it and the reason."""


@dataclass(frozen=True)
class Features:
    """Features of N images, in their order, float32.

    Attributes:
        cls: (N, D) class tokens; None if the encoder has none.
        mean: (N, D) means of the patch tokens.
        patches: (N, h, w, D) patch tokens; a list of N arrays (h, w, D) if ``image_size='own'`` made them differ.
        paths: The file of each image; None where an image was given as pixels.
    """

    cls: np.ndarray | None
    mean: np.ndarray
    patches: np.ndarray | list[np.ndarray]
    paths: list[str | None]

    def __len__(self) -> int:
        return len(self.paths)


class FeatureExtractor:
    """Features of images from a checkpoint of pre-training or fine-tuning, or from an export for mmpretrain.

    They are those of the encoder: the necks and heads of a task are left out.

    Files are read as the training that the checkpoint's config describes reads them, by :class:`mmpl.LoadImage` if it
    does not say; resized to the encoder's image size (Pillow's bicubic filter, the sides independently, nothing is cut
    off), and normalised as the config says::

        features = FeatureExtractor('epoch_400.pth')('my_images')
        features.cls, features.mean, features.patches, features.paths

    Args:
        checkpoint: The file, or what :func:`mmpl.checkpoints.encoders.read_checkpoint` read of it.
        source: Which encoder: 'student', or the attribute of a teacher of the model that was saved.
        image_size: What images are resized to: a side in pixels, (height, width), or 'own' for each image's own size,
            to the nearest multiple of a patch; None: the encoder's. Other sizes interpolate the position embedding.
        mean: Mean per channel, in 0..255 and in the encoder's order of the channels; None: the config's.
        std: As ``mean``; the two are given together.
        device: Where to compute; None: the first accelerator, or the CPU.
        batch_size: Images computed at once.

    Raises:
        ExtractorError: If the checkpoint has no config, or its config does not say how images are normalised.
        CheckpointMismatchError: If there is no such encoder, or its keys do not all fit.
    """

    @checked()
    def __init__(
        self,
        checkpoint: str | os.PathLike | Checkpoint,
        source: str = STUDENT,
        *,
        image_size: ImageSize = None,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        device: str | torch.device | None = None,
        batch_size: Count = 32,
    ) -> None:
        if device is not None:
            check_device('device', device)
        found = checkpoint if isinstance(checkpoint, Checkpoint) else read_checkpoint(checkpoint)
        self.path, self.source, self.batch_size = found.path, source, batch_size
        with preserve_rng_state():  # building draws random weights
            self.model = _build(found, source, device)
        self.encoder: Any = find_encoder(self.model, source)
        if not isinstance(self.model, BaseSelfSupervisor):  # a task's necks and heads are no part of its encoder
            self.model = self.encoder
        self.device = next(self.encoder.parameters()).device
        # a classifier of mean tokens has its norm behind the mean
        self._norm = self.encoder.ln2 if getattr(self.encoder, 'out_type', None) == 'avg_featmap' else nn.Identity()
        if getattr(self.encoder, 'out_type', None) in ('avg_featmap', 'cls_token', 'featmap'):  # of a task
            self.encoder.out_type = 'raw'
        self.loader_cfg = loader_of(found.config)
        self._loader = build_loader(self.loader_cfg, found.path)
        self._decoder = decoder_of_transform(self._loader)  # None for a loader of one's own
        projection = getattr(getattr(self.encoder, 'patch_embed', None), 'projection', None)
        self.in_channels = int(getattr(projection, 'in_channels', 3))
        self.fed = normalisation_of(found.config, self.in_channels, mean, std, found.path)
        self.patch_size = _token_size(self.encoder, projection)
        self.image_size = self._checked_size(image_size)

    def _checked_size(self, size: Any) -> tuple[int, int] | Literal['own']:
        if isinstance(size, str) and size == 'own':
            if self.patch_size is None:
                raise ValueError(
                    f"`image_size` must be a size in pixels for a {type(self.encoder).__name__}, but got 'own'"
                )
            return 'own'
        given = size
        if size is None:
            size = _image_size(self.encoder, self.patch_size)
            if size is None:
                raise ExtractorError(
                    f'`image_size` must be given: a {type(self.encoder).__name__} has no `img_size` of its own'
                )
        pair = (size, size) if isinstance(size, int) else size
        whole = isinstance(pair, Sequence) and not isinstance(pair, str) and len(pair) == 2
        if not whole or not all(isinstance(side, int) and not isinstance(side, bool) and side > 0 for side in pair):
            raise ValueError(
                f"`image_size` must be None, a side in pixels, (height, width) or 'own', but got {given!r}"
            )
        if self.patch_size and any(side % patch for side, patch in zip(pair, self.patch_size, strict=True)):
            raise ValueError(f'`image_size` must be a multiple of the patch size {self.patch_size}, but got {given!r}')
        return pair[0], pair[1]

    def __call__(self, images: Item | Iterable[Item], skipped: list[tuple[str, str]] | None = None) -> Features:
        """Features of one image or many.

        Args:
            images: One or many of: the path of a file; a folder, listed as :class:`mmpl.datasets.UnlabelledFolder`
                lists it; a PIL image; a numpy array (H, W, 3), uint8, RGB; a tensor (3, H, W), RGB, in 0..255
                (rounded to whole values). Arrays (N, H, W, 3) and tensors (N, 3, H, W) are many.
            skipped: Where to note files that cannot be read, as (path, reason), leaving them out; None: the first
                raises.

        Raises:
            ImageError: If an image cannot be used.
            FileNotFoundError: If a path does not exist.
        """
        parts: list[tuple[np.ndarray | None, np.ndarray, np.ndarray]] = []
        paths: list[str | None] = []
        items = list(_flat(images))
        if not items:
            raise ValueError('`images` must be at least one image, but got none')
        with preserve_rng_state(), evaluation_mode(self.model), ThreadPoolExecutor(8) as pool:
            for start in range(0, len(items), self.batch_size):
                chunk = items[start : start + self.batch_size]
                verdicts = [self._inspect(item) for item in chunk]  # one by one: Pillow's limit is global
                pixels: list[Tensor] = []
                for item, read in zip(chunk, pool.map(self._read, chunk, verdicts), strict=True):
                    if isinstance(read, ImageError):
                        if skipped is None or not isinstance(item, str):
                            raise read
                        skipped.append((item, str(read).removeprefix(f'{item}: ')))
                        continue
                    pixels.append(read)
                    paths.append(item if isinstance(item, str) else None)
                parts += [self._encode(torch.stack(group)) for group in _equal_runs(pixels)]
        return _joined(parts, paths)

    def _inspect(self, item: Item) -> str:
        """What is wrong with a file, by the eyes of the loader; one that is not known here may read anything."""
        if not isinstance(item, str) or self._decoder is None:
            return ''
        return inspect_image(item, decoder=self._decoder).bad

    def _read(self, item: Item, verdict: str) -> Tensor | ImageError:
        """An image as the config's pipeline would hand it to the data preprocessor: (C, h, w), or what is wrong."""
        try:
            if verdict:
                raise ImageError(f'{item}: {verdict}')
            image = self._load(item) if isinstance(item, str) else self._from_pixels(item)
            return self._resize(image)
        except ImageError as error:
            return error

    def _load(self, path: str) -> np.ndarray:
        """A file as the config's loading transform gives it: (H, W, C)."""
        try:
            image = self._loader(dict(img_path=path))['img']
        except Exception as error:  # decoders raise nearly anything
            raise ImageError(f'{path}: {type(error).__name__}: {error}') from error
        image = image[..., None] if image.ndim == 2 else image
        if image.shape[-1] != self.in_channels:
            raise ImageError(
                f'{path}: `{self.loader_cfg["type"]}` gave {image.shape[-1]} channels, the encoder takes '
                f'{self.in_channels}'
            )
        return image

    def _from_pixels(self, item: Any) -> np.ndarray:
        """RGB pixels in the order of the channels that the config's loading transform gives: (H, W, 3), uint8."""
        if self.in_channels != 3:
            raise ImageError(
                f'{_name(item)} cannot be used: the encoder takes {self.in_channels} channels, not RGB; give files'
            )
        if self.fed.bgr and self._decoder is None:
            raise ImageError(
                f'{_name(item)} cannot be used: the order of the channels of {self.loader_cfg["type"]!r} is not known; '
                'give files'
            )
        if self._decoder is not None and not self._decoder.plain:
            raise ImageError(
                f'{_name(item)} cannot be used: in training files were read by {self.loader_cfg}, and pixels in memory '
                'come without that; give files'
            )
        return _rgb(item)[..., ::-1]  # as OpenCV loads them

    def _resize(self, image: np.ndarray) -> Tensor:
        height, width = self._target(image.shape[0], image.shape[1])
        if image.dtype == np.uint8 and image.shape[2] in (1, 3):
            if image.shape[:2] != (height, width):
                pil = Image.fromarray(np.ascontiguousarray(image if image.shape[2] == 3 else image[..., 0]))
                image = np.asarray(pil.resize((width, height), Image.Resampling.BICUBIC)).reshape(height, width, -1)
            return torch.from_numpy(np.array(image)).permute(2, 0, 1)
        pixels = torch.from_numpy(image.astype(np.float32)).permute(2, 0, 1)[None]
        return F.interpolate(pixels, (height, width), mode='bicubic', antialias=True)[0]

    def _target(self, height: int, width: int) -> tuple[int, int]:
        if self.image_size != 'own':
            return self.image_size  # type: ignore[return-value]
        patch_h, patch_w = self.patch_size  # type: ignore[misc]
        return max(1, round(height / patch_h)) * patch_h, max(1, round(width / patch_w)) * patch_w

    def _encode(self, pixels: Tensor) -> tuple[np.ndarray | None, np.ndarray, np.ndarray]:
        """Class tokens, means and patches of equally large images (B, C, h, w) that come from :meth:`_read`."""
        inputs = pixels.to(self.device)
        if self.in_channels == 3 and not self.fed.bgr:
            inputs = inputs.flip(1)  # they are as OpenCV loads them
        numbers = torch.tensor([self.fed.mean, self.fed.std], device=self.device).view(2, -1, 1, 1)
        tokens = _tokens(self.model, self.source, (inputs.float() - numbers[0]) / numbers[1])
        if not bool(torch.isfinite(tokens).all()):
            raise ExtractorError(f'{self.path}: the {self.source!r} encoder gave NaN or infinity for an image')
        extra = _num_extra_tokens(self.encoder)
        mean = self._norm(pool_tokens(tokens, 'avg', extra)).float().cpu().numpy()
        if tokens.ndim == 4:
            return None, mean, tokens.permute(0, 2, 3, 1).float().cpu().numpy()
        grid = [side // patch for side, patch in zip(pixels.shape[-2:], self.patch_size or (1, 1), strict=True)]
        tokens = self._norm(tokens)
        patches = tokens[:, extra:]
        if patches.shape[1] != grid[0] * grid[1]:
            raise ExtractorError(
                f'{type(self.encoder).__name__} gave {patches.shape[1]} patch tokens, not {grid[0]} x {grid[1]}'
            )
        cls = pool_tokens(tokens, 'cls', extra).float().cpu().numpy() if extra else None
        return cls, mean, patches.unflatten(1, grid).float().cpu().numpy()


def _build(checkpoint: Checkpoint, source: str, device: Any) -> nn.Module:
    checkpoint.prefix(source)  # says which encoders there are
    model = checkpoint.config.get('model')
    if not isinstance(model, Mapping) or not (model.get('type') or model.get('backbone')):
        raise ExtractorError(
            f'{checkpoint.path}: the checkpoint carries no config (meta["cfg"]) with a `model`, so its encoder cannot '
            'be built; give a checkpoint of a training run, or one that mmpl.export wrote for mmpretrain'
        )
    arch = (model.get('backbone') or {}).get('arch')
    if isinstance(arch, Mapping) and 'num_layers' in arch and heads_of(model['backbone']) is None:
        raise ExtractorError(
            f'{checkpoint.path}: the weights do not tell the number of attention heads of an encoder '
            f'{arch.get("embed_dims")} wide: `mmpl export --num-heads` writes a file that says it'
        )
    try:
        refuse_code(dict(model=model, default_scope=checkpoint.config.get('default_scope')))
        return build_model(Config(dict(checkpoint.config)), checkpoint, source, device=device)
    except KeyError as error:
        raise ExtractorError(
            f'{checkpoint.path}: its model cannot be built; import the module that registers it first: {error}'
        ) from error


def build_loader(cfg: dict[str, Any], path: str) -> Any:
    """Build what :func:`loader_of` found in the file at ``path``."""
    try:
        refuse_code(cfg)
        return TRANSFORMS.build(dict(cfg))
    except KeyError as error:
        raise ExtractorError(
            f'{path}: its config reads files by {cfg["type"]!r}; import the module that registers it first'
        ) from error


def normalisation_of(
    config: Mapping[str, Any], in_channels: int, mean: Sequence[float] | None, std: Sequence[float] | None, path: str
) -> Preprocessing:
    """How images are fed to an encoder: as the config's data preprocessor says, with a mean and std that are given.

    Raises:
        ExtractorError: If the config does not say mean and std, and they are not given.
    """
    if (mean is None) != (std is None):
        raise ExtractorError(f'`mean` and `std` must be given together, but got mean={mean!r}, std={std!r}')
    fed = preprocessing(config, in_channels)
    if mean is not None and std is not None:
        given = dict(mean=list(mean), std=list(std))
        if max(given['std'], default=0) <= 1:
            raise ExtractorError(f'`mean` and `std` must be in 0..255, but got {given}: multiply them by 255')
        order = fed.config if fed is not None else dict(bgr_to_rgb=in_channels == 3)
        fed = preprocessing(dict(data_preprocessor=dict(order, **given)), in_channels)
    if fed is None or fed.config.get('mean') is None or fed.config.get('std') is None:
        raise ExtractorError(
            f'{path}: its config has no `model.data_preprocessor` with `mean` and `std`, so how its images were '
            f'normalised is not known: give mean= and std= ({in_channels} values each, in 0..255)'
        )
    if min(fed.std) <= 0:
        raise ExtractorError(f'`std` must be positive, but got {list(fed.std)}')
    return fed


def _image_size(encoder: Any, patch_size: tuple[int, int] | None) -> Any:
    """The size that an encoder is for: what it says, or that of its grid of patches, as of mmpretrain's Swin."""
    if hasattr(encoder, 'img_size') or patch_size is None or not hasattr(encoder, 'patch_resolution'):
        return getattr(encoder, 'img_size', None)
    return tuple(side * patch for side, patch in zip(encoder.patch_resolution, patch_size, strict=True))


def _token_size(encoder: Any, projection: Any) -> tuple[int, int] | None:
    """Pixels (height, width) of a token: what the encoder says, or those of the convolution that embeds patches."""
    if hasattr(encoder, 'token_size'):
        return encoder.token_size, encoder.token_size
    size = getattr(projection, 'kernel_size', None)
    return None if size is None else (int(size[0]), int(size[1]))


def _flat(images: Any) -> Iterator[Item]:
    """One item an image; files as strings."""
    if isinstance(images, str | os.PathLike):
        path = Path(images)
        if path.is_dir():
            folder = UnlabelledFolder(data_root=str(path))
            yield from (folder.get_data_info(index)['img_path'] for index in range(len(folder)))
        elif path.is_file():
            yield str(path)
        else:
            raise FileNotFoundError(f'{str(path)!r} is neither a file nor a folder')
    elif isinstance(images, Image.Image):
        yield images
    elif isinstance(images, np.ndarray | Tensor):
        yield from images if images.ndim == 4 else [images]
    elif isinstance(images, Iterable) and not isinstance(images, bytes | Mapping):
        for image in images:
            yield from _flat(image)
    else:
        raise TypeError(f'`images` must be paths, PIL images, numpy arrays or tensors, but got {type(images).__name__}')


def _name(item: Any) -> str:
    if isinstance(item, Image.Image):
        return f'a PIL image of mode {item.mode!r}'
    kind = 'numpy array' if isinstance(item, np.ndarray) else 'tensor'
    return f'a {kind} of shape {tuple(item.shape)} and type {item.dtype}'


def _rgb(item: Any) -> np.ndarray:
    """Pixels of an image in memory as (H, W, 3), uint8, RGB."""
    if isinstance(item, Image.Image):
        if item.mode not in _EIGHT_BIT_MODES:
            raise ImageError(f'{_name(item)} cannot be used: it is not of 8 bits a channel; convert it first')
        pixels = np.asarray(item.convert('RGB'))
        return upright(pixels, orientation_of(item))  # as files are
    if isinstance(item, np.ndarray):
        if item.ndim != 3 or item.shape[2] != 3 or item.dtype != np.uint8 or 0 in item.shape:
            raise ImageError(f'{_name(item)} cannot be used: expected (H, W, 3), uint8, RGB')
        return item
    if item.ndim != 3 or item.shape[0] != 3 or item.is_complex() or item.dtype == torch.bool or 0 in item.shape:
        raise ImageError(f'{_name(item)} cannot be used: expected (3, H, W), RGB, in 0..255')
    low, high = float(item.min()), float(item.max())
    if not (low >= 0 and high <= 255):  # also catches NaN
        raise ImageError(f'{_name(item)} cannot be used: its values must be in 0..255, but are in {low:g}..{high:g}')
    if item.is_floating_point() and 0 < high <= 1:
        raise ImageError(f'{_name(item)} cannot be used: its values are in 0..1, expected 0..255; multiply it by 255')
    return item.detach().cpu().float().round().to(torch.uint8).permute(1, 2, 0).numpy()


def _equal_runs(pixels: list[Tensor]) -> Iterator[list[Tensor]]:
    """Runs of neighbours of equal shape."""
    run: list[Tensor] = []
    for image in pixels:
        if run and (run[-1].shape, run[-1].dtype) != (image.shape, image.dtype):
            yield run
            run = []
        run.append(image)
    if run:
        yield run


def _joined(parts: list[tuple[np.ndarray | None, np.ndarray, np.ndarray]], paths: list[str | None]) -> Features:
    if not parts:  # nothing could be read
        return Features(None, np.zeros((0, 0), np.float32), [], paths)
    classes = [cls for cls, _, _ in parts if cls is not None]
    equal = len({patches.shape[1:] for _, _, patches in parts}) == 1
    return Features(
        np.concatenate(classes) if classes else None,
        np.concatenate([mean for _, mean, _ in parts]),
        np.concatenate([patches for _, _, patches in parts]) if equal else [p for _, _, many in parts for p in many],
        paths,
    )
