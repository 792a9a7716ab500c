"""Public weights of plain vision transformers: which library wrote them, and what they hold by mmpretrain's names."""

import json
import logging
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from mmengine.logging import print_log
from torch import Tensor

from mmpl.compat.torch_load import load_checkpoint
from mmpl.utils.user_errors import UserError

from .files import candidates
from .fit import CheckpointMismatchError
from .layouts import DINOV2, HUGGINGFACE, HUGGINGFACE_DECODER, MAE_DECODER, TIMM, Layout, plain_vit_keys, restore

_OWN = 'patch_embed.projection.weight'
_TIMM = 'patch_embed.proj.weight'
_HUGGINGFACE = 'embeddings.patch_embeddings.projection.weight'
_HEADS = {192: 3, 384: 6, 768: 12, 1024: 16, 1280: 16}  # of the published ViT-Ti, S, B, L and H, by their width
_IMAGENET = dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], bgr_to_rgb=True)
_SHOWN = 6
_REFUSED = {  # part of a key -> what a plain ViT does not have
    'register_tokens': 'register tokens (DINOv2 with registers)',
    'reg_token': 'register tokens (DINOv2 with registers)',
    'relative_position': 'a relative position bias (BEiT)',
    'q_norm': 'normed queries and keys',
    'mlp.w12': 'SwiGLU feed-forward (DINOv2 giant)',
    'mlp.weights_in': 'SwiGLU feed-forward (DINOv2 giant)',
    'fc1_g': 'SwiGLU feed-forward',
    'norm_pre': 'a norm before the blocks (CLIP)',
    'dist_token': 'a distillation token (DeiT)',
    'distillation_token': 'a distillation token (DeiT)',
    'downsample': 'stages (Swin)',
}
_NO_ENCODER = ('head', 'fc', 'fc_norm', 'classifier', 'pooler', 'mask_token', 'decoder', 'embeddings.mask_token')


class MissingSafetensorsError(UserError, ImportError):
    """The package that reads safetensors files is not installed."""


class Foreign(NamedTuple):
    """What a file of another library holds.

    Attributes:
        layout: Whose names it uses, in words.
        state_dict: By mmpretrain's names: the encoder under ``backbone.``, a pixel decoder under ``neck.``.
        left_aside: Keys that have no place there, such as a classifier's.
        config: ``model`` with what is known of the encoder and of how images were normalised.
    """

    layout: str
    state_dict: dict[str, Tensor]
    left_aside: tuple[str, ...]
    config: dict[str, Any]


def read_file(path: str, trust: bool | None = None) -> tuple[dict[str, Any], Path]:
    """Read a file of any kind: torch's, safetensors, or a folder as ``save_pretrained`` of transformers writes it.

    Returns:
        The content, and the file.

    Raises:
        FileNotFoundError: There is no such file, or a folder holds no weights.
    """
    file = Path(path)
    if '://' not in path and file.is_dir():
        names = ('model.safetensors', 'pytorch_model.bin')
        file = next((file / name for name in names if (file / name).is_file()), file / names[0])
        if not file.is_file():
            runs = [str(name) for name in candidates(path)[:1]]
            hint = f'; the checkpoint of a run is {runs[0]!r}' if runs else ''
            raise FileNotFoundError(f'{path!r} is a folder without {" or ".join(names)}{hint}')
    if file.suffix != '.safetensors':
        return load_checkpoint(path if '://' in path else str(file), trust=trust), file
    if not file.is_file():
        raise FileNotFoundError(f'checkpoint {str(file)!r} does not exist')
    try:
        from safetensors import SafetensorError
        from safetensors.torch import load_file
    except ImportError as error:
        raise MissingSafetensorsError(f'{path}: this file needs the package: pip install safetensors') from error
    try:
        return load_file(file), file
    except SafetensorError as error:
        raise CheckpointMismatchError(f'{path}: damaged or no safetensors file: {error}') from error


def _said_beside(file: Path) -> dict[str, Any]:
    """What ``config.json`` and ``preprocessor_config.json`` of transformers say, if they lie beside a file."""
    said: dict[str, Any] = {}
    for name in ('config.json', 'preprocessor_config.json'):
        if (file.parent / name).is_file():
            try:
                said |= json.loads((file.parent / name).read_text(encoding='utf-8'))
            except (ValueError, TypeError) as error:
                raise CheckpointMismatchError(f'{file.parent / name} cannot be read: {error}') from error
    return said


def translate(state_dict: Mapping[str, Tensor], path: str, file: Path) -> Foreign | None:
    """Bring the weights of timm, MAE or Hugging Face to mmpretrain's names; None if they are no such weights.

    Args:
        state_dict: As it lies in the file.
        path: For errors.
        file: What ``config.json`` beside it says counts for Hugging Face's.

    Raises:
        CheckpointMismatchError: They are weights of such a library, but not of one plain ViT with class token, position
            embedding and final norm; the message says what it is that does not fit.
    """
    if any(key.endswith(_OWN) for key in state_dict):
        return None
    layouts: tuple[Layout, ...]
    for sign, layouts in ((_HUGGINGFACE, (HUGGINGFACE, DINOV2)), (_TIMM, (TIMM,))):  # noqa: B007
        prefixes = sorted(key.removesuffix(sign) for key in state_dict if key.endswith(sign))
        if len(prefixes) > 1:
            raise CheckpointMismatchError(f'{path}: holds several encoders, under the prefixes {prefixes}: save one')
        if prefixes:
            break
    else:
        return None
    prefix, swin = prefixes[0], any('.blocks.' in key and 'layers.' in key for key in state_dict)
    inside = {key.removeprefix(prefix): value for key, value in state_dict.items() if key.startswith(prefix)}
    layout = next((x for x in layouts if any('norm1' in key for key in inside) == (x is DINOV2)), layouts[0])
    encoder, unknown = restore(inside, layout)
    decoder, rest, decoder_layout = _decoder(state_dict, inside, unknown, prefix)
    name = {HUGGINGFACE: 'Hugging Face ViT', DINOV2: 'Hugging Face DINOv2', TIMM: 'timm'}[layout]
    if decoder:
        name = "MAE's official, with its decoder" if layout is TIMM else 'Hugging Face ViTMAE, with its decoder'
    refusals = {reason for part, reason in _REFUSED.items() if any(part in key for key in inside)}
    into, out_of = (encoder.get(f'layers.0.ffn.layers.{name}.weight') for name in ('0.0', '1'))
    if into is not None and out_of is not None and len(into) != out_of.shape[1]:  # timm's, under names of an MLP
        refusals.add('SwiGLU feed-forward (DINOv2 giant)')
    if swin:
        refusals.add('stages (Swin)')
    if refusals:
        raise CheckpointMismatchError(
            f'{path}: layout of {name}, but no plain ViT: it has {", ".join(sorted(refusals))}'
        )
    strange = [key for key in rest if not key.startswith(tuple(f'{part}.' for part in _NO_ENCODER) + _NO_ENCODER)]
    if strange:
        raise CheckpointMismatchError(
            f'{path}: layout of {name}, but {len(strange)} keys belong to no plain ViT: {strange[:_SHOWN]}'
        )
    said = {} if layout is TIMM else _said_beside(file)
    if said.get('hidden_act', 'gelu') != 'gelu':
        raise CheckpointMismatchError(
            f'{path}: layout of {name}, but hidden_act={said["hidden_act"]!r}: only gelu fits'
        )
    spec = _architecture(encoder, said, layout, name, path)
    outside = [key for key in state_dict if not key.startswith(prefix) and key not in decoder_layout]
    return Foreign(
        name,
        {f'backbone.{key}': value for key, value in encoder.items()} | {f'neck.{k}': v for k, v in decoder.items()},
        tuple(sorted([prefix + key for key in rest] + outside)),
        dict(model=spec),
    )


def _decoder(
    state_dict: Mapping[str, Tensor], inside: Mapping[str, Tensor], unknown: list[str], prefix: str
) -> tuple[dict[str, Tensor], list[str], set[str]]:
    """A pixel decoder, if there is one; what is then still unknown; and the decoder's keys in the file."""
    if 'decoder_embed.weight' in inside:  # MAE's
        decoder, rest = restore({key: inside[key] for key in unknown}, MAE_DECODER)
        return decoder, rest, {prefix + key for key in unknown} - {prefix + key for key in rest}
    below = {key.removeprefix('decoder.'): v for key, v in state_dict.items() if key.startswith('decoder.decoder_')}
    if 'decoder_embed.weight' in below:  # transformers' ViTMAE
        below |= {'mask_token': state_dict['decoder.mask_token']} if 'decoder.mask_token' in state_dict else {}
        decoder, rest = restore(below, HUGGINGFACE_DECODER)
        return decoder, [key for key in unknown if not key.startswith('decoder.')], {f'decoder.{key}' for key in below}
    return {}, unknown, set()


def _fed_by_processor(said: Mapping[str, Any], channels: int) -> dict[str, list[float]]:
    """Mean and std in 0..255 that stand for what an image processor of transformers does; empty if none is told."""
    scale = said.get('rescale_factor', 1 / 255) if said.get('do_rescale', True) else 1.0
    if not said.get('do_normalize', True):
        return dict(mean=[0.0] * channels, std=[1 / scale] * channels)
    return {own: [value / scale for value in said[f'image_{own}']] for own in ('mean', 'std') if f'image_{own}' in said}


def _architecture(
    encoder: Mapping[str, Tensor], said: Mapping[str, Any], layout: Layout, name: str, path: str
) -> dict[str, Any]:
    """Config of the encoder and its preprocessor, as far as they are known."""
    indices = {int(key.split('.')[1]) for key in encoder if key.startswith('layers.')}
    biases = {f'layers.{index}.attn.qkv.bias' for index in indices}
    if missing := sorted(plain_vit_keys(len(indices)) - set(encoder) - biases):
        hint = '; it was fine-tuned with a norm after pooling' if 'ln1.weight' in missing else ''
        raise CheckpointMismatchError(
            f"{path}: layout of {name}, but {len(missing)} keys are missing, by mmpretrain's names: {missing[:6]}{hint}"
        )
    dims, channels, patch_size, width = encoder[_OWN].shape
    side = math.isqrt(encoder['pos_embed'].shape[1] - 1)
    if side**2 != encoder['pos_embed'].shape[1] - 1 or patch_size != width:
        raise CheckpointMismatchError(
            f'{path}: layout of {name}, but its position embedding, {tuple(encoder["pos_embed"].shape)}, is not that '
            f'of a class token and a square grid of patches of {patch_size} x {width}'
        )
    arch = dict(
        embed_dims=dims,
        num_layers=len(indices),
        feedforward_channels=encoder['layers.0.ffn.layers.0.0.weight'].shape[0],
    )
    if heads := said.get('num_attention_heads', _HEADS.get(dims)):
        arch['num_heads'] = heads
    if 'num_attention_heads' not in said and dims == 384 and not encoder['pos_embed'][:, 0].any():
        print_log(
            f'{path}: taken for a ViT-S of {heads} heads. Its positions are fixed, as those of MoCo-v3, whose ViT-S '
            'has 12, which no tensor shows: if it is that one, its features come out wrong, and it cannot be used',
            logger='current',
            level=logging.WARNING,
        )
    eps = said.get('layer_norm_eps', 1e-12 if layout is HUGGINGFACE else 1e-6)
    backbone = dict(
        type='mmpretrain.VisionTransformer',
        arch=arch,
        img_size=side * patch_size,
        patch_size=patch_size,
        in_channels=channels,
        qkv_bias=biases <= set(encoder),
        norm_cfg=dict(type='LN', eps=eps),
        out_type='raw',
    )
    if 'layers.0.attn.gamma1.weight' in encoder:
        backbone['layer_scale_init_value'] = 1.0
    if fed := _fed_by_processor(said, channels):
        return dict(backbone=backbone, data_preprocessor=dict(fed, bgr_to_rgb=channels == 3))
    return dict(backbone=backbone, **(dict(data_preprocessor=_IMAGENET) if 'MAE' in name else {}))
