"""Checks of a vision transformer's size."""

from collections.abc import Mapping
from typing import Any

from mmpl.utils.fields import check_number

MAX_PATCHES = 2**20
"""More patches than that are taken for a mistake (our choice; 1,024 x 1,024 patches of 16 are 16,384 pixels a side)."""


def check_arch(arch: Any) -> None:
    """Refuse sizes that are none in an ``arch`` of ``mmpretrain.models.VisionTransformer``.

    Names of sizes and missing fields are mmpretrain's to check.
    """
    if not isinstance(arch, Mapping):
        return
    for field in ('embed_dims', 'num_layers', 'num_heads', 'feedforward_channels'):
        if field in arch:
            check_number(f'arch.{field}', arch[field], 1, integer=True)
    if {'embed_dims', 'num_heads'} <= set(arch) and arch['embed_dims'] % arch['num_heads']:
        raise ValueError(
            f'`arch.embed_dims` must be a multiple of `arch.num_heads` {arch["num_heads"]}, but got '
            f'{arch["embed_dims"]}'
        )


def check_position_width(field: str, width: int) -> None:
    """Refuse a width that sine-cosine positions of two axes do not fill."""
    if width % 4:
        raise ValueError(
            f'`{field}` must be a multiple of 4, for positions are sines and cosines of two axes, but got {width}'
        )


def check_patches(img_size: int, patch_size: int) -> None:
    """Refuse a square image that patches do not fill, or of more patches than memory is likely to hold."""
    if img_size % patch_size:
        raise ValueError(
            f'`img_size` must be a multiple of `patch_size` {patch_size}, but got {img_size}; '
            f'the nearest are {img_size // patch_size * patch_size} and {-(-img_size // patch_size) * patch_size}'
        )
    count = (img_size // patch_size) ** 2
    if count > MAX_PATCHES:
        raise ValueError(
            f'`img_size` must make at most {MAX_PATCHES} patches, but {img_size} with `patch_size` {patch_size} makes '
            f'{count}'
        )
