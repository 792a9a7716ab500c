"""Whether anchors and RoIs are placed with the strides that the feature pyramid has."""

from collections.abc import Sequence
from math import lcm
from typing import Any

import torch
from torch import Tensor, nn

from mmpl.datasets.agreement import Findings
from mmpl.evaluation.features import evaluation_mode

_COARSEST = 32  # pixels, of a usual feature pyramid


def _pair(stride: Any) -> tuple[float, float]:
    """A stride as (height, width) pixels; mmdet's anchors have (width, height)."""
    if isinstance(stride, Sequence):
        return float(stride[1]), float(stride[0])
    return float(stride), float(stride)


def declared_strides(model: nn.Module) -> dict[str, list[tuple[float, float]]]:
    """Strides in pixels, (height, width) of each level, by the config's field that says so."""
    found: dict[str, list[tuple[float, float]]] = {}
    for name, module in model.named_modules():
        generator = getattr(module, 'prior_generator', None) or getattr(module, 'anchor_generator', None)
        if generator is not None and hasattr(generator, 'strides'):
            found[f'model.{name}.anchor_generator.strides'] = [_pair(stride) for stride in generator.strides]
        if hasattr(module, 'featmap_strides'):
            found[f'model.{name}.featmap_strides'] = [_pair(stride) for stride in module.featmap_strides]
    return found


def encoder_stride(model: nn.Module) -> tuple[int, int] | None:
    """Stride of a plain Vision Transformer's patches, (height, width) pixels; None for other encoders."""
    projection = getattr(getattr(getattr(model, 'backbone', None), 'patch_embed', None), 'projection', None)
    stride = getattr(projection, 'stride', None)
    return (int(stride[0]), int(stride[1])) if isinstance(stride, tuple) else None


def measured_strides(model: nn.Module, side: int) -> list[tuple[float, float]]:
    """Strides of the feature maps that the heads get, from a black image of side x side pixels.

    The model is left as it was: nothing is learnt, counted or drawn.
    """
    parameter = next(model.parameters())
    channels = model.backbone.patch_embed.projection.in_channels  # type: ignore[union-attr]
    image = torch.zeros(1, channels, side, side, device=parameter.device, dtype=parameter.dtype)
    with evaluation_mode(model):
        maps: Sequence[Tensor] = model.extract_feat(image)
    return [(side / level.shape[-2], side / level.shape[-1]) for level in maps]


def _shown(strides: Sequence[tuple[float, float]]) -> str:
    return f'({", ".join(f"{h:g}" if h == w else f"{h:g} x {w:g}" for h, w in strides)})'


def check_strides(found: Findings, model: nn.Module) -> str | None:
    """Compare the strides of anchors and RoIs with those of the maps that backbone and neck make of an image.

    Only for encoders of patches: others come with the strides of their own configs.

    Args:
        found: Gets what is wrong.
        model: Without a wrapper.

    Returns:
        A sentence on the strides that there are, for the log; None if they say nothing.
    """
    declared, patch = declared_strides(model), encoder_stride(model)
    segments = hasattr(model, 'decode_head')
    if patch is None or not (declared or segments) or not hasattr(model, 'extract_feat'):
        return None
    whole = [int(value) for strides in declared.values() for pair in strides for value in pair if value.is_integer()]
    actual = measured_strides(model, 2 * lcm(*patch, *(whole or [_COARSEST])))
    patches = f'patches of {patch[0]} x {patch[1]} pixels'
    for field, strides in declared.items():
        levels = actual[: len(strides)] if field.endswith('featmap_strides') else actual
        if strides == levels:
            continue
        text = (
            f'`{field}`={_shown(strides)}, but the feature maps that the encoder ({patches}) and the neck make have '
            f'the strides {_shown(levels)}'
        )
        scales = getattr(getattr(model, 'neck', None), 'scale_factors', None)
        if scales is not None and len(strides) >= len(scales):
            fitting = tuple(patch[0] / wanted[0] for wanted in strides[: len(scales)])
            text += f'. Set the strides to these, or `model.neck.scale_factors` to {fitting}'
        found.error(text)
    size = getattr(getattr(model, 'data_preprocessor', None), 'size', None)
    if segments and size is not None and any(length % side for length, side in zip(size, patch, strict=True)):
        found.warn(
            f'`model.data_preprocessor.size`={tuple(size)} is no multiple of the {patches}: borders are filled up, and '
            'the maps of scores, stretched to the image, lie up to a patch beside it'
        )
    padding = getattr(getattr(model, 'data_preprocessor', None), 'test_cfg', None) or {}
    divisor = padding.get('size_divisor') or 1
    if segments and 'size' not in padding and any(divisor % side for side in patch):
        found.warn(
            f'`model.data_preprocessor.test_cfg` has the `size_divisor` {divisor}, no multiple of the {patches}: of '
            'images that they do not fill, the maps of scores lie up to a patch beside them in validation and test. '
            f'Set it to {actual[-1][0]:g}'
        )
    return f'feature maps have strides of {_shown(actual)} pixels, of {patches}'
