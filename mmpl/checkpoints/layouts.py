"""What the tensors of a plain ViT are called in mmpretrain, timm and Hugging Face.

The tables say names of *modules* (or of parameters that no module holds) as mmpretrain has them, and what the other
library calls them. A module has a ``weight`` and a ``bias``; block i stands under ``layers.i.`` in mmpretrain.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

PARAMETERS = ('cls_token', 'pos_embed')
MODULES = ('patch_embed.projection', 'ln1')
BLOCK_MODULES = ('ln1', 'attn.qkv', 'attn.proj', 'ln2', 'ffn.layers.0.0', 'ffn.layers.1')


@dataclass(frozen=True, eq=False)
class Layout:
    """Names of a library.

    Attributes:
        top: mmpretrain's names outside of the blocks to the library's.
        block: Prefix of block ``{}``.
        in_block: mmpretrain's names inside of a block to the library's; several names share mmpretrain's tensor, cut
            into equal parts along dimension 0.
        parameters: mmpretrain's names of further parameters of a block, which a plain ViT does not have, to the
            library's.
        own_block: What mmpretrain calls ``block``.
    """

    top: Mapping[str, str]
    block: str
    in_block: Mapping[str, str | tuple[str, ...]]
    parameters: Mapping[str, str] = field(default_factory=dict)
    own_block: str = 'layers.{}.'


TIMM = Layout(
    top={
        'cls_token': 'cls_token',
        'pos_embed': 'pos_embed',
        'patch_embed.projection': 'patch_embed.proj',
        'ln1': 'norm',
    },
    block='blocks.{}.',
    in_block={
        'ln1': 'norm1',
        'attn.qkv': 'attn.qkv',
        'attn.proj': 'attn.proj',
        'ln2': 'norm2',
        'ffn.layers.0.0': 'mlp.fc1',
        'ffn.layers.1': 'mlp.fc2',
    },
    parameters={'attn.gamma1.weight': 'ls1.gamma', 'ffn.gamma2.weight': 'ls2.gamma'},
)
"""``timm.models.vision_transformer.VisionTransformer``."""

HUGGINGFACE = Layout(
    top={
        'cls_token': 'embeddings.cls_token',
        'pos_embed': 'embeddings.position_embeddings',
        'patch_embed.projection': 'embeddings.patch_embeddings.projection',
        'ln1': 'layernorm',
    },
    block='encoder.layer.{}.',
    in_block={
        'ln1': 'layernorm_before',
        'attn.qkv': ('attention.attention.query', 'attention.attention.key', 'attention.attention.value'),
        'attn.proj': 'attention.output.dense',
        'ln2': 'layernorm_after',
        'ffn.layers.0.0': 'intermediate.dense',
        'ffn.layers.1': 'output.dense',
    },
)
"""``transformers.ViTModel`` as it is stored on disk, by transformers 4 and 5 alike (5 renames while it loads)."""

DINOV2 = replace(
    HUGGINGFACE,
    in_block=dict(
        HUGGINGFACE.in_block, ln1='norm1', ln2='norm2', **{'ffn.layers.0.0': 'mlp.fc1', 'ffn.layers.1': 'mlp.fc2'}
    ),
    parameters={'attn.gamma1.weight': 'layer_scale1.lambda1', 'ffn.gamma2.weight': 'layer_scale2.lambda1'},
)
"""``transformers.Dinov2Model``."""

_DECODER = {name: name for name in ('mask_token', 'decoder_pos_embed', 'decoder_embed', 'decoder_pred')}
MAE_DECODER = replace(
    TIMM, top=dict(_DECODER, ln1='decoder_norm'), block='decoder_blocks.{}.', own_block='decoder_blocks.{}.'
)
"""The decoder in MAE's official files."""
HUGGINGFACE_DECODER = replace(
    HUGGINGFACE, top=MAE_DECODER.top, block='decoder_layers.{}.', own_block=MAE_DECODER.own_block
)
"""The decoder of ``transformers.ViTMAEForPreTraining``, below ``decoder.``."""


def plain_vit_keys(num_layers: int) -> set[str]:
    """Keys of a plain ViT in mmpretrain."""
    modules = [*MODULES, *(f'layers.{i}.{name}' for i in range(num_layers) for name in BLOCK_MODULES)]
    return {*PARAMETERS, *(f'{name}.{kind}' for name in modules for kind in ('weight', 'bias'))}


def fold_layer_scale(encoder: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors of a plain ViT of mmpretrain that gives the same as one with layer scale, which is folded in.

    A scale g of what a layer gives is a layer by itself: g (W x + b) = (diag(g) W) x + g b.
    """
    scaled = {'attn.gamma1.weight': 'attn.proj', 'ffn.gamma2.weight': 'ffn.layers.1'}
    folded = dict(encoder)
    for key, scale in encoder.items():
        block, name = '.'.join(key.split('.')[:2]), '.'.join(key.split('.')[2:])
        layer = f'{block}.{scaled.get(name)}'
        if f'{layer}.weight' in folded:
            for kind, factor in dict(weight=scale[:, None], bias=scale).items():
                if f'{layer}.{kind}' in folded:
                    folded[f'{layer}.{kind}'] = factor * folded[f'{layer}.{kind}']
            del folded[key]
    return folded


def rename(encoder: Mapping[str, Tensor], layout: Layout) -> dict[str, Tensor]:
    """Tensors of a plain ViT of mmpretrain, by the names of a library."""
    renamed = {}
    for key, value in encoder.items():
        if key in PARAMETERS:
            renamed[layout.top[key]] = value
            continue
        module, kind = key.rsplit('.', 1)
        if module in layout.top:
            renamed[f'{layout.top[module]}.{kind}'] = value
            continue
        _, index, module = module.split('.', 2)
        names = layout.in_block[module]
        names = (names,) if isinstance(names, str) else names
        for name, part in zip(names, value.chunk(len(names), dim=0), strict=True):
            renamed[f'{layout.block.format(index)}{name}.{kind}'] = part.contiguous()
    return renamed


def restore(state_dict: Mapping[str, Tensor], layout: Layout) -> tuple[dict[str, Tensor], list[str]]:
    """The inverse of :func:`rename`: tensors by mmpretrain's names, and the keys that the layout does not know."""
    top = {theirs: own for own, theirs in layout.top.items()}
    inside = {layout.parameters[own]: own for own in layout.parameters}
    modules = {
        name: (own, part)
        for own, names in layout.in_block.items()
        for part, name in enumerate((names,) if isinstance(names, str) else names)
    }
    block = re.compile(re.escape(layout.block).replace(r'\{\}', r'(\d+)'))
    restored: dict[str, Tensor] = {}
    parts: dict[str, dict[int, Tensor]] = {}
    unknown = []
    for key, value in state_dict.items():
        module, _, kind = key.rpartition('.')
        found = block.match(key)
        if key in top:
            restored[top[key]] = value
        elif module in top:
            restored[f'{top[module]}.{kind}'] = value
        elif found and key[found.end() :] in inside:
            restored[layout.own_block.format(found[1]) + inside[key[found.end() :]]] = value
        elif found and module[found.end() :] in modules:
            own, part = modules[module[found.end() :]]
            parts.setdefault(f'{layout.own_block.format(found[1])}{own}.{kind}', {})[part] = value
        else:
            unknown.append(key)
    return restored | {key: torch.cat([found[i] for i in sorted(found)]) for key, found in parts.items()}, unknown
