"""Architecture of an encoder, told from its tensors and, where they do not say it, from the training config."""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from mmpl.checkpoints.encoders import heads_of
from mmpl.checkpoints.fit import CheckpointMismatchError, check_state_dict
from mmpl.checkpoints.layouts import plain_vit_keys
from mmpl.utils.seeds import preserve_rng_state

_SHOWN = 6
_OWN_LOADER = 'mmpl.LoadImage'
_DECODING = ('backend_args', 'bands', 'color_type', 'pages', 'percentiles', 'scaling')  # its fields
_REASONS = {  # part of a key -> what a plain ViT does not have
    'gamma': 'layer scale (layer_scale_init_value > 0), which an export to mmpretrain folds into the layers',
    'ffn.w12': 'SwiGLU feed-forward (ffn_type="swiglu_fused")',
    'ffn.w3': 'SwiGLU feed-forward (ffn_type="swiglu_fused")',
    'pre_norm': 'pre_norm=True',
}


class ExportError(ValueError):
    """An encoder cannot be handed over; the message says which field, value and remedy."""


@dataclass(frozen=True)
class EncoderSpec:
    """Architecture of a plain ViT encoder, by mmpretrain's names."""

    embed_dims: int
    num_layers: int
    num_heads: int
    feedforward_channels: int
    img_size: tuple[int, int]  # (height, width) in pixels that the position embedding is for
    patch_size: tuple[int, int]  # (height, width) in pixels
    in_channels: int
    qkv_bias: bool
    norm_eps: float  # of every LayerNorm

    def __str__(self) -> str:
        """In words."""
        return (
            f'ViT, {self.num_layers} blocks of width {self.embed_dims}, {self.num_heads} heads, images '
            f'{self.img_size[0]} x {self.img_size[1]}, patches {self.patch_size[0]} x {self.patch_size[1]}'
        )


@dataclass(frozen=True)
class SwinSpec:
    """Architecture of a Swin transformer, by mmpretrain's names; stages in their order."""

    embed_dims: int  # of the first stage
    depths: tuple[int, ...]
    num_heads: tuple[int, ...]
    window_size: int
    img_size: tuple[int, int]
    patch_size: tuple[int, int]
    in_channels: int
    out_indices: tuple[int, ...]  # stages that have a norm of their own
    norm_eps: float = 1e-5

    def __str__(self) -> str:
        """In words."""
        return (
            f'Swin transformer, stages of {", ".join(map(str, self.depths))} blocks, the first {self.embed_dims} wide, '
            f'windows {self.window_size} x {self.window_size}, images {self.img_size[0]} x {self.img_size[1]}, '
            f'patches {self.patch_size[0]} x {self.patch_size[1]}'
        )


Spec = EncoderSpec | SwinSpec


def spec_of(
    encoder: Mapping[str, Tensor], config: Mapping[str, Any] | None = None, num_heads: int | None = None
) -> Spec:
    """Tell what an encoder is: a Swin transformer if it has stages, or else a plain ViT; see :func:`infer_spec`."""
    if any(key.startswith('stages.') for key in encoder):
        return infer_swin(encoder, config)
    return infer_spec(encoder, config, num_heads)


def infer_swin(encoder: Mapping[str, Tensor], config: Mapping[str, Any] | None = None) -> SwinSpec:
    """Tell the architecture of a Swin transformer from the shapes; only the image size needs the config.

    Args:
        encoder: Tensors by mmpretrain's keys without prefix.
        config: The training config, of which ``model.backbone.img_size`` counts.

    Raises:
        ExportError: If a key or a shape is not that of such a Swin transformer, or the image size is not said.
    """
    from mmpretrain.models import SwinTransformer

    blocks: dict[int, list[int]] = {}  # heads of each stage's blocks
    window_size = 0
    for key, value in encoder.items():
        if key.startswith('stages.') and key.endswith('.relative_position_bias_table'):
            blocks.setdefault(int(key.split('.')[1]), []).append(value.shape[1])
            window_size = (math.isqrt(len(value)) + 1) // 2
    given = _section(_section(config or {}, 'model'), 'backbone').get('img_size')
    if given is None or not blocks or 'patch_embed.projection.weight' not in encoder:
        lacks = 'the config in the checkpoint names no model.backbone.img_size' if blocks else 'it has no windows'
        raise ExportError(f'the encoder has stages, but it cannot be told which Swin transformer it is: {lacks}')
    embed_dims, in_channels, *patch_size = encoder['patch_embed.projection.weight'].shape
    spec = SwinSpec(
        embed_dims=embed_dims,
        depths=tuple(len(blocks[stage]) for stage in sorted(blocks)),
        num_heads=tuple(blocks[stage][0] for stage in sorted(blocks)),
        window_size=window_size,
        img_size=_pair(given, 'model.backbone.img_size'),
        patch_size=(patch_size[0], patch_size[1]),
        in_channels=in_channels,
        out_indices=tuple(stage for stage in sorted(blocks) if f'norm{stage}.weight' in encoder),
    )
    with preserve_rng_state():  # which building draws from; Swin transformers cannot be built on torch's meta device
        model = SwinTransformer(**swin_fields(spec))
    try:
        check_state_dict(model, encoder)
    except CheckpointMismatchError as error:
        raise ExportError(f'only a Swin transformer as mmpretrain makes it can be exported: {error}') from None
    return spec


def swin_fields(spec: SwinSpec) -> dict[str, Any]:
    """Fields of mmpretrain's ``SwinTransformer``."""
    return dict(
        arch=dict(embed_dims=spec.embed_dims, depths=list(spec.depths), num_heads=list(spec.num_heads)),
        img_size=spec.img_size,
        patch_size=spec.patch_size,
        in_channels=spec.in_channels,
        window_size=spec.window_size,
        out_indices=spec.out_indices,
    )


def infer_spec(
    encoder: Mapping[str, Tensor], config: Mapping[str, Any] | None = None, num_heads: int | None = None
) -> EncoderSpec:
    """Tell the architecture from the shapes; only the number of heads and the norm's epsilon need the config.

    Args:
        encoder: Tensors by mmpretrain's keys without prefix.
        config: The training config, of which ``model.backbone`` counts.
        num_heads: Attention heads; None: those of ``model.backbone.arch`` of the config.

    Raises:
        ExportError: If keys are missing or cannot be mapped, or if ``num_heads`` is known from nowhere.
    """
    num_layers = _check_keys(encoder)
    backbone = _section(_section(config or {}, 'model'), 'backbone')
    layers = backbone.get('layer_cfgs') or []
    for layer in layers if isinstance(layers, Sequence) else [layers]:
        activation = _section(layer, 'act_cfg').get('type', 'GELU')
        if activation != 'GELU':
            raise ExportError(f'model.backbone.layer_cfgs act_cfg type={activation!r}: only GELU can be exported')
    embed_dims, in_channels, *patch_size = encoder['patch_embed.projection.weight'].shape
    norm_cfg = backbone.get('norm_cfg')
    return EncoderSpec(
        embed_dims=embed_dims,
        num_layers=num_layers,
        num_heads=_num_heads(backbone, embed_dims, num_heads),
        feedforward_channels=encoder['layers.0.ffn.layers.0.0.weight'].shape[0],
        img_size=_img_size(backbone, encoder['pos_embed'].shape[1] - 1, tuple(patch_size)),
        patch_size=tuple(patch_size),
        in_channels=in_channels,
        qkv_bias='layers.0.attn.qkv.bias' in encoder,
        # nn.LayerNorm's own default if a norm_cfg without eps was given; mmpretrain's ViT default otherwise
        norm_eps=float(norm_cfg.get('eps', 1e-5)) if isinstance(norm_cfg, Mapping) else 1e-6,
    )


@dataclass(frozen=True)
class Preprocessing:
    """What an encoder was fed with: pictures as OpenCV reads them (BGR), swapped or not, then normalised.

    Attributes:
        config: Of the data preprocessor, with its ``type``.
        mean: Of each channel as the encoder sees them, in units of [0, 255].
        std: The same.
        bgr: Whether the encoder sees blue first.
    """

    config: dict[str, Any]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    bgr: bool

    def in_rgb_order(self) -> dict[str, list[float]]:
        """Mean and std of red, green and blue (or of the channels as they are) in units of [0, 1]."""
        step = -1 if self.bgr else 1
        return dict(mean=[v / 255 for v in self.mean[::step]], std=[v / 255 for v in self.std[::step]])


def preprocessing(config: Mapping[str, Any], in_channels: int) -> Preprocessing | None:
    """How the config's data preprocessor feeds its encoder; None if the config has no such part.

    Raises:
        ExportError: The channels are swapped in a way that does not follow from OpenCV's order, or mean and std are not
            one number a channel.
    """
    model = _section(config, 'model')
    given = _section(model, 'data_preprocessor') or _section(config, 'data_preprocessor')
    if not given and model.get('data_preprocessor') is None and not model.get('type'):
        return None  # a config of an encoder alone; of a whole model it means: as they are loaded
    _check_pipeline(config)
    if given.get('rgb_to_bgr'):
        raise ExportError(
            'data_preprocessor.rgb_to_bgr=True: images that are RGB before it come from a loader of which the config '
            'does not say so; train with the default loader and bgr_to_rgb, or export with a config that says that'
        )
    swapped = bool(given.get('bgr_to_rgb') or given.get('to_rgb'))
    kind = 'ClsDataPreprocessor' if 'to_rgb' in given or 'num_classes' in given else 'SelfSupDataPreprocessor'
    numbers = {}
    for name, neutral in dict(mean=0.0, std=1.0).items():
        values = given.get(name)
        if isinstance(values, int | float):
            values = [values]
        values = [float(v) for v in values] if values else [neutral]
        if len(values) not in (1, in_channels):
            raise ExportError(
                f'data_preprocessor.{name}={given[name]!r} must have one number for each of the {in_channels} channels '
                'of the encoder'
            )
        numbers[name] = tuple(values * in_channels if len(values) == 1 else values)
    return Preprocessing(dict(given, type=given.get('type') or kind), bgr=in_channels == 3 and not swapped, **numbers)


def loader_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """Config of the transform that reads files as a config's training set does; ``mmpl.LoadImage`` if it names none.

    ``mmpl.LoadRandomResizedCrop`` decodes by the same fields as ``mmpl.LoadImage``, which also takes the place of the
    stock loader in ``mmpl.UnlabelledFolder``.
    """
    dataset = dataset_with_pipeline(config.get('train_dataloader')) or {}
    for transform in dataset.get('pipeline', ()):
        if not isinstance(transform, Mapping):
            continue
        name = str(transform.get('type', '')).split('.')[-1]
        if name == 'LoadRandomResizedCrop':
            return dict(type=_OWN_LOADER, **{field: transform[field] for field in _DECODING if field in transform})
        if name.startswith('Load') and not name.endswith('Crop'):
            in_own_folder = str(dataset.get('type', '')).split('.')[-1] == 'UnlabelledFolder'
            stock = name == 'LoadImageFromFile' and set(transform) <= {'type', 'color_type', 'backend_args'}
            if in_own_folder and stock and transform.get('color_type', 'color') in ('color', 'grayscale'):
                return dict(transform, type=_OWN_LOADER)
            return dict(transform)
    return dict(type=_OWN_LOADER)


def dataset_with_pipeline(node: Any) -> Mapping[str, Any] | None:
    """The first config of a dataset that has a pipeline, however deep it is wrapped."""
    if isinstance(node, Mapping):
        if isinstance(node.get('pipeline'), list | tuple):
            return node
        node = list(node.values())
    for child in node if isinstance(node, list | tuple) else ():
        if found := dataset_with_pipeline(child):
            return found
    return None


def _check_pipeline(config: Mapping[str, Any]) -> None:
    """Refuse transforms that normalise images or swap their channels before the preprocessor does."""
    for path, kind in _types(_section(_section(config, 'train_dataloader'), 'dataset'), 'train_dataloader.dataset'):
        if re.split(r'[./]', kind)[-1] in ('Normalize', 'NumpyToPIL', 'PILToNumpy'):
            raise ExportError(
                f'{path} is {kind}: what it does to the channels and to their numbers cannot be handed over; let '
                'data_preprocessor do it'
            )


def _types(node: Any, path: str) -> Iterator[tuple[str, str]]:
    """The paths of all parts of a config, however deep, with their types."""
    if isinstance(node, Mapping):
        yield path, str(node.get('type', ''))
        for key, value in node.items():
            yield from _types(value, f'{path}.{key}')
    elif isinstance(node, list | tuple):
        for index, value in enumerate(node):
            yield from _types(value, f'{path}[{index}]')


def _section(config: Any, name: str) -> dict[str, Any]:
    section = config.get(name) if isinstance(config, Mapping) else None
    return dict(section) if isinstance(section, Mapping) else {}


def _check_keys(encoder: Mapping[str, Tensor]) -> int:
    """Require exactly the keys of a plain ViT, none missing, none that a library could not hold; count its blocks."""
    indices = [key.split('.')[1] for key in encoder if key.startswith('layers.')]
    num_layers = max((int(index) for index in indices if index.isdigit()), default=-1) + 1
    if num_layers == 0:
        raise ExportError('the encoder has no key "layers.*": it is not a ViT of mmpretrain')
    known = plain_vit_keys(num_layers)
    if unmapped := sorted(set(encoder) - known):
        raise ExportError(
            f'{len(unmapped)} encoder keys cannot be mapped to a plain ViT: {_some(unmapped)}; '
            f'reason: {"; ".join(sorted(set(map(_reason, unmapped))))}. '
            'Only a plain ViT (GELU MLP) can be taken'
        )
    qkv_biases = {f'layers.{i}.attn.qkv.bias' for i in range(num_layers)}
    optional = set() if qkv_biases & set(encoder) else qkv_biases
    if missing := sorted(known - set(encoder) - optional):
        raise ExportError(
            f'{len(missing)} encoder keys are missing: {_some(missing)}; '
            'the checkpoint is incomplete or was trained without a class token or final norm'
        )
    return num_layers


def _some(keys: list[str]) -> str:
    return f'{keys[:_SHOWN]}{" ..." if len(keys) > _SHOWN else ""}'


def _reason(key: str) -> str:
    if key.startswith('ln2.'):
        return 'out_type="avg_featmap" (a norm after pooling, of a fine-tuned classifier: give the one of pre-training)'
    return next((reason for part, reason in _REASONS.items() if part in key), 'not a key of the plain ViT')


def _num_heads(backbone: Mapping[str, Any], embed_dims: int, num_heads: int | None) -> int:
    num_heads = heads_of(backbone) if num_heads is None else num_heads
    if num_heads is None:
        raise ExportError(
            'num_heads cannot be told from the weights, and the config in the checkpoint (meta["cfg"]) names no '
            'model.backbone.arch to read it from: `mmpl export` takes --num-heads, and writes a file that says it'
        )
    if num_heads < 1 or embed_dims % num_heads:
        raise ExportError(f'num_heads={num_heads} must divide embed_dims={embed_dims}')
    return int(num_heads)


def _img_size(backbone: Mapping[str, Any], patches: int, patch_size: tuple[int, int]) -> tuple[int, int]:
    given = backbone.get('img_size')
    if given is not None:  # 196 patches may be 14 x 14, or 7 x 28
        height, width = _pair(given, 'model.backbone.img_size')
        if (height // patch_size[0]) * (width // patch_size[1]) == patches:
            return height, width
    side = math.isqrt(patches)
    if side * side == patches:
        return side * patch_size[0], side * patch_size[1]
    raise ExportError(
        f'pos_embed has {patches} patch positions, which is not a square grid, and the img_size in the config '
        f'({given!r}) does not explain it'
    )


def _pair(value: Any, field: str) -> tuple[int, int]:
    pair = (value, value) if isinstance(value, int) else tuple(value)
    if len(pair) != 2 or not all(isinstance(item, int) and item > 0 for item in pair):
        raise ExportError(f'{field}={value!r} must be a positive integer or two of them')
    return pair[0], pair[1]
