"""What the tensors of a plain ViT are called in mmpretrain, timm and Hugging Face.

The tables say names of *modules* (or of parameters that no module holds) as mmpretrain has them, and what the other
library calls them. A module has a ``weight`` and a ``bias``; block i stands under ``layers.i.`` in mmpretrain.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

PARAMETERS = ('cls_token', 'pos_embed')
MODULES = ('patch_embed.projection', 'ln1')
BLOCK_MODULES = ('ln1', 'attn.qkv', 'attn.proj', 'ln2', 'ffn.layers.0.0', 'ffn.layers.1')


@dataclass(frozen=True)
class Layout:
    """Names of a library.

    Attributes:
        top: mmpretrain's names outside of the blocks to the library's.
        block: Prefix of block ``{}``.
        in_block: mmpretrain's names inside of a block to the library's; several names share mmpretrain's tensor, cut
            into equal parts along dimension 0.
    """

    top: Mapping[str, str]
    block: str
    in_block: Mapping[str, str | tuple[str, ...]]


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


def plain_vit_keys(num_layers: int) -> set[str]:
    """Keys of a plain ViT in mmpretrain."""
    modules = [*MODULES, *(f'layers.{i}.{name}' for i in range(num_layers) for name in BLOCK_MODULES)]
    return {*PARAMETERS, *(f'{name}.{kind}' for name in modules for kind in ('weight', 'bias'))}


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
