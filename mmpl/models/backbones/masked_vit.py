"""The vision transformer that encodes any subset of an image's patches."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from mmpretrain.models.backbones import VisionTransformer
from mmpretrain.models.selfsup import MAEViT
from mmpretrain.models.utils import resize_pos_embed
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812
from torch.utils.checkpoint import checkpoint

from mmpl.checkpoints.strict_pretrained import loads_weights
from mmpl.models.arch import check_arch, check_patches, check_position_width
from mmpl.models.attention import use_attention
from mmpl.models.masking import gather_tokens
from mmpl.registry import MODELS
from mmpl.utils.fields import Count, checked


@MODELS.register_module()
class MaskedViT(MAEViT):
    """mmpretrain's MAE vision transformer, with masks given from outside.

    Student and teachers are this one class: the student encodes the visible patches, a teacher the whole image or its
    folds. The parameters and their names are those of mmpretrain's ``VisionTransformer``.

    Args:
        arch: As in mmpretrain's ``VisionTransformer``.
        img_size: Side of the square input images in pixels, a multiple of ``patch_size``.
        patch_size: Side of a square patch in pixels.
        in_channels: Channels of an image; None: what ``patch_cfg`` says, or 3.
        embed_visible_only: Embed only the patches that are encoded. Saves the work on masked patches; the result equals
            the other form's up to rounding, so the default keeps MAE's arithmetic. Needs a ``patch_cfg`` that embeds
            each patch by itself and without a norm.
        with_cp: Recompute activations in the backward pass instead of keeping them.
        **kwargs: As ``mmpretrain.models.MAEViT``, but for ``mask_ratio``, which belongs to
            :class:`mmpl.models.RandomMasking`, and ``final_norm``, which must be True.
    """

    @checked('backbone')
    def __init__(
        self,
        arch: str | dict = 'b',
        img_size: Count = 224,
        patch_size: Count = 16,
        in_channels: Count | None = None,
        embed_visible_only: bool = False,
        with_cp: bool = False,
        **kwargs: Any,
    ) -> None:
        if 'mask_ratio' in kwargs:
            raise TypeError(
                '`backbone.mask_ratio` is not a field of MaskedViT: set `masking=dict(mask_ratio=...)` of the model'
            )
        check_patches(img_size, patch_size)
        check_arch(arch)
        if not kwargs.get('final_norm', True):
            raise ValueError(
                '`backbone.final_norm` must be True, as student and teachers work with normed tokens, but got '
                f'{kwargs["final_norm"]!r}'
            )
        patch_cfg = dict(kwargs.get('patch_cfg') or {})
        said = patch_cfg.setdefault('in_channels', in_channels or 3)
        if in_channels is not None and said != in_channels:
            raise ValueError(
                f'`backbone.in_channels` must be that of `backbone.patch_cfg`, {said}, or be left out there, '
                f'but got {in_channels}'
            )
        kwargs['patch_cfg'] = patch_cfg
        super().__init__(arch=arch, img_size=img_size, patch_size=patch_size, **kwargs)
        check_position_width('arch.embed_dims', self.embed_dims)
        use_attention(self)
        self.patch_size = self.token_size = patch_size
        self.token_dims = self.embed_dims
        self.in_channels = said
        self.embed_visible_only = embed_visible_only
        self.with_cp = with_cp
        if embed_visible_only:
            self._check_patches_embed_alone({k: v for k, v in patch_cfg.items() if k != 'in_channels'})

    def _check_patches_embed_alone(self, patch_cfg: dict | None) -> None:
        """Refuse a patch embedding that is more than one matrix product for each patch."""
        conv, size = self.patch_embed.projection, (self.patch_size, self.patch_size)
        geometry = (conv.kernel_size, conv.stride, conv.padding, conv.dilation)
        if type(conv) is not nn.Conv2d or geometry != (size, size, (0, 0), (1, 1)) or self.patch_embed.norm is not None:
            raise ValueError(
                '`backbone.patch_cfg` must keep conv_type Conv2d, kernel_size and stride `patch_size` '
                f'{self.patch_size}, padding 0, dilation 1 and norm_cfg None with `embed_visible_only=True`, '
                f'but got {patch_cfg!r}'
            )

    def init_weights(self) -> None:
        """MAE's initialisation, unless ``init_cfg`` loads weights: these stay as they are."""
        if loads_weights(self.init_cfg):
            super(VisionTransformer, self).init_weights()  # mmpretrain's would draw anew what was loaded
        else:
            super().init_weights()

    def forward(self, x: Tensor, ids: Tensor | None = None) -> tuple[Tensor, ...] | Tensor:
        """Encode images, (B, C, H, W), or the patches of them that ``ids``, (B·R, L), names.

        Returns:
            Without ``ids`` what mmpretrain's ``VisionTransformer`` returns (by default a tuple of one tensor of raw
            tokens, (B, 1+N, D)); with them the normed tokens, (B·R, 1+L, D).
        """
        if ids is None:
            return super().forward(x, mask=None)
        return self.encode(x, ids)[0]

    def encode(self, images: Tensor, ids: Tensor | None = None, last_blocks: int = 0) -> tuple[Tensor, list[Tensor]]:
        """Encode images or subsets of their patches, with the last blocks' outputs.

        Args:
            images: Normalised images, (B, C, H, W).
            ids: Patches to encode, (B·R, L); row ``b * R + r`` belongs to image b. None encodes all N patches.
            last_blocks: How many of the last blocks' outputs to return.

        Returns:
            Tokens after the final norm, (B·R, 1+L, D), and the raw outputs of the last blocks, each of the same shape.
        """
        return self.transform(self.embed(images, ids), last_blocks)

    def transform(
        self, x: Tensor, last_blocks: int = 0, attentions: Sequence[Callable[..., Tensor] | None] | None = None
    ) -> tuple[Tensor, list[Tensor]]:
        """Put the class token before embedded patches, (B, L, D), and run the blocks over them.

        Args:
            x: From :meth:`embed`.
            last_blocks: How many of the last blocks' outputs to return.
            attentions: For each block what it computes in place of ``scaled_dot_product_attention``, or None to keep
                that. Give the same objects in every step: compiled blocks are compiled for them.

        Returns:
            As :meth:`encode`.
        """
        cls_token = self.cls_token + self.pos_embed[:, :1, :]
        x = torch.cat((cls_token.expand(x.shape[0], -1, -1), x), dim=1)
        blocks = []
        recompute = self.with_cp and torch.is_grad_enabled()
        others = [None] * len(self.layers) if attentions is None else attentions
        for index, (layer, attention) in enumerate(zip(self.layers, others, strict=True)):
            run = layer if attention is None else partial(_attending, layer, attention)
            x = checkpoint(run, x, use_reentrant=False) if recompute else run(x)
            if index >= len(self.layers) - last_blocks:
                blocks.append(x)
        return self.norm1(x), blocks

    def embed(self, images: Tensor, ids: Tensor | None = None) -> Tensor:
        """Patch embedding plus position embedding, (B·R, L, D)."""
        height, width = images.shape[-2:]
        if height % self.patch_size or width % self.patch_size:
            raise ValueError(
                f'the images are {height}x{width} pixels, which is not a multiple of `patch_size` {self.patch_size}'
            )
        grid = (height // self.patch_size, width // self.patch_size)
        pos_embed = resize_pos_embed(self.pos_embed, self.patch_resolution, grid, self.interpolate_mode)[:, 1:]
        if ids is None or not self.embed_visible_only:
            x = self.patch_embed(images)[0] + pos_embed
            return x if ids is None else gather_tokens(x, ids)
        patches = F.pixel_unshuffle(images, self.patch_size).flatten(2).transpose(1, 2)  # (B, N, C·p·p)
        projection = self.patch_embed.projection
        x = F.linear(gather_tokens(patches, ids), projection.weight.flatten(1), projection.bias)
        return x + gather_tokens(pos_embed, ids.flatten()[None]).view_as(x)


def _attending(layer: nn.Module, attention: Callable[..., Tensor], x: Tensor) -> Tensor:
    """Run a block with another attention, and with all else that is its own."""
    usual = layer.attn.scaled_dot_product_attention
    layer.attn.scaled_dot_product_attention = attention
    try:
        return layer(x)
    finally:
        layer.attn.scaled_dot_product_attention = usual
