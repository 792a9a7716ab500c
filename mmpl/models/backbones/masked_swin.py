"""The Swin transformer that encodes a subset of the mask units, the same one of all images."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from mmengine.model.weight_init import trunc_normal_
from mmpretrain.models.backbones import SwinTransformer
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812
from torch.utils.checkpoint import checkpoint

from mmpl.checkpoints.strict_pretrained import loads_weights
from mmpl.registry import MODELS
from mmpl.utils.fields import Count, Share, check_choice, check_number, checked
from mmpl.utils.transfer import to_device


class Groups(NamedTuple):
    """Which tokens of a stage attend each other: T tokens stand in G groups of S places, windows side by side.

    Attributes:
        tokens: The token at each place, (G, S); a place that none fills repeats token 0, which does not look back.
        places: Where each token stands among the G·S places, (T,).
        relative: Row of the table of relative position biases for each pair, (G, S, S); pairs of different windows, or
            with an empty place, have the row after the last.
    """

    tokens: Tensor
    places: Tensor
    relative: Tensor

    def to(self, device: torch.device) -> 'Groups':
        """The same on a device, without waiting for it."""
        return Groups(*(to_device(part, device) for part in self))


def pack(sizes: Sequence[int], capacity: int) -> list[list[int]]:
    """Pack windows into groups, one after the other; each is filled as far as what is left can fill it.

    The fullest group is a 0/1 knapsack whose values are its weights, solved exactly (GreenMIM, section 3.3); of several
    that are as full, the one with the earlier windows.

    Args:
        sizes: Tokens of each window, from 1 to ``capacity``.
        capacity: Tokens of a group.

    Returns:
        Indices of the windows in each group.
    """
    left, groups = list(range(len(sizes))), []
    while left:
        sums = [1]  # bit n of sums[i]: the first i windows of what is left can fill n places
        for window in left:
            sums.append((sums[-1] | sums[-1] << sizes[window]) & ((2 << capacity) - 1))
        total, group = sums[-1].bit_length() - 1, []
        for i in range(len(left) - 1, -1, -1):
            if not sums[i] >> total & 1:  # not without this one
                group.append(left[i])
                total -= sizes[left[i]]
        groups.append(group[::-1])
        left = [window for window in left if window not in group]
    return groups


def group_windows(rows: np.ndarray, columns: np.ndarray, window: int, shift: int) -> Groups:
    """Group the windows that tokens are in.

    Windows keep the borders of the image: of shifted ones those at the border are smaller, and no window goes round it.
    Up to 2·window² tokens are one group, since so little attention is cheaper whole than gathered; more of them are
    packed into groups of the largest window's size (GreenMIM, section 3.3).

    Args:
        rows: Of each token in the map of the stage, (T,).
        columns: The same.
        window: Side of a window in tokens.
        shift: By how many tokens windows are moved to the right and down.
    """
    across = columns.max() // window + 2  # more windows than a row has
    of_token = (rows + window - shift) // window * across + (columns + window - shift) // window
    if len(rows) <= 2 * window**2:
        tokens = np.arange(len(rows))[None]
    else:
        order = np.argsort(of_token, kind='stable')
        members = np.split(order, np.flatnonzero(np.diff(of_token[order])) + 1)
        sizes = [len(found) for found in members]
        groups = pack(sizes, max(sizes))
        tokens = np.full((len(groups), max(sizes)), -1)
        for places, group in zip(tokens, groups, strict=True):
            found = np.concatenate([members[number] for number in group])
            places[: len(found)] = found
    filled = tokens >= 0
    tokens = np.where(filled, tokens, 0)
    places = np.empty(len(rows), np.int64)
    places[tokens[filled]] = np.flatnonzero(filled)
    at = [numbers[tokens] for numbers in (rows, columns, of_token)]
    down, right, other = (numbers[:, :, None] - numbers[:, None] for numbers in at)
    side = 2 * window - 1
    relative = (down + window - 1) * side + right + window - 1  # as mmpretrain's WindowMSA numbers them
    pairs = (other == 0) & filled[:, :, None] & filled[:, None]
    pairs |= np.eye(tokens.shape[1], dtype=bool)  # an empty place looks at itself: no softmax is over nothing
    relative = np.where(pairs, relative, side**2)
    return Groups(*(torch.from_numpy(part) for part in (tokens, places, relative)))


def attend(attention: Any, x: Tensor, groups: Groups) -> Tensor:
    """Attention inside of windows, whose tokens are given in groups.

    Args:
        attention: mmpretrain's ``WindowMSA`` with h heads.
        x: Tokens, (B, T, C).
        groups: Of the T tokens.

    Returns:
        (B, T, C).
    """
    batch, _, dims = x.shape
    number, size = groups.tokens.shape
    heads = attention.num_heads
    qkv = attention.qkv(x).index_select(1, groups.tokens.flatten())
    qkv = qkv.view(batch, number, size, 3, heads, dims // heads).permute(3, 0, 1, 4, 2, 5).flatten(2, 3)
    table = attention.relative_position_bias_table
    table = torch.cat((table, table.new_full((1, heads), -torch.inf)))
    bias = table[groups.relative.flatten()].view(number, size, size, heads).permute(0, 3, 1, 2).flatten(0, 1)
    x = F.scaled_dot_product_attention(  # each head of each group by itself: (B, G·h, S, C/h)
        qkv[0],
        qkv[1],
        qkv[2],
        attn_mask=bias[None].to(qkv.dtype),
        dropout_p=attention.attn_drop.p if attention.training else 0.0,
        scale=attention.scale,
    )
    x = x.unflatten(1, (number, heads)).transpose(2, 3).reshape(batch, number * size, dims)
    return attention.proj_drop(attention.proj(x.index_select(1, groups.places)))


@MODELS.register_module()
class MaskedSwin(SwinTransformer):
    """mmpretrain's Swin transformer, which encodes only the visible mask units (Huang et al., NeurIPS 2022).

    A *mask unit* is what becomes one token of the last stage: 32 x 32 pixels with four stages and patches of 4. As
    units are visible or masked as a whole, merging meets complete 2 x 2 blocks only. The subset is the same for all
    images of a batch, so that windows of visible tokens are grouped once for all of them.

    The parameters and their names are those of mmpretrain's ``SwinTransformer``. Its ``PatchMerging``, as those of
    mmseg and mmdet, orders the channels of the four tokens that it joins as ``nn.Unfold`` does: weights of the
    official Swin, or of timm, do not fit without reordering them.

    Args:
        arch: As in mmpretrain's ``SwinTransformer``; any number of stages.
        img_size: Side of the square input images in pixels, a multiple of the mask unit. The map of each stage must be
            filled by windows.
        patch_size: Side of a square patch in pixels.
        in_channels: Channels of an image.
        window_size: Side of a window in tokens, of all stages.
        drop_rate: Dropout after the patch embedding.
        drop_path_rate: Stochastic depth, rising to this in the last block. 0 by default, for pre-training (our choice).
        with_cp: Recompute activations in the backward pass instead of keeping them.
        init_cfg: Initialisation.
    """

    shares_mask = True
    """Whether the same units are encoded of all images."""

    @checked('backbone')
    def __init__(
        self,
        arch: str | dict = 'base',
        img_size: Count = 224,
        patch_size: Count = 4,
        in_channels: Count = 3,
        window_size: Count = 7,
        drop_rate: Share = 0.0,
        drop_path_rate: Share = 0.0,
        with_cp: bool = False,
        init_cfg: dict | None = None,
    ) -> None:
        stages = check_swin(arch)
        check_windows(img_size, patch_size, window_size, stages)
        super().__init__(
            arch=arch,
            img_size=img_size,
            patch_size=patch_size,
            in_channels=in_channels,
            window_size=window_size,
            drop_rate=drop_rate,
            drop_path_rate=drop_path_rate,
            out_indices=(stages - 1,),
            with_cp=with_cp,
            init_cfg=init_cfg,
        )
        self.img_size = (img_size, img_size)
        self.in_channels = in_channels
        self.window_size = window_size
        self.with_cp = with_cp
        self.token_dims = self.num_features[-1]
        self.token_size = patch_size * 2 ** (stages - 1)
        self.units = img_size // self.token_size  # a side
        self.num_patches = self.units**2

    @property
    def final_norm(self) -> nn.Module:
        """Of the last stage."""
        return getattr(self, f'norm{len(self.stages) - 1}')

    def init_weights(self) -> None:
        """Swin's initialisation (its linear layers drawn by 0.02), unless ``init_cfg`` loads weights."""
        super().init_weights()
        if not loads_weights(self.init_cfg):
            for module in self.modules():
                if isinstance(module, nn.Linear):
                    trunc_normal_(module.weight, std=0.02)
                    if module.bias is not None:
                        nn.init.zeros_(module.bias)

    def forward(self, x: Tensor, ids: Tensor | None = None) -> tuple[Tensor, ...] | Tensor:
        """Encode images, (B, C, H, W), or the mask units of them that ``ids``, (V,), names.

        Returns:
            Without ``ids`` what mmpretrain's ``SwinTransformer`` returns, the last stage's map (B, D, h, w) in a tuple;
            with them the normed tokens, (B, V, D).
        """
        return super().forward(x) if ids is None else self.encode(x, ids)[0]

    def encode(self, images: Tensor, ids: Tensor | None = None) -> tuple[Tensor, list[Tensor]]:
        """Encode images or mask units of them.

        Args:
            images: Normalised images, (B, C, H, W).
            ids: Units to encode, (V,), numbered row by row, the same of all images; on the CPU, where windows are
                grouped (on another device this waits for it). None encodes all N units, in their order.

        Returns:
            Tokens of the last stage after the norm, (B, V, D), one a unit and in the order of ``ids``; and an empty
            list, for what :meth:`mmpl.models.MaskedViT.encode` gives of further blocks.
        """
        if ids is None:
            return super().forward(images)[-1].flatten(2).transpose(1, 2), []
        units = self._check_units(images, ids)
        batch, number = len(images), len(units)
        x, side = self._embed(images, units)  # (B·V, s·s, C): each unit is an image of its own, until tokens attend
        for stage in self.stages:
            x = x.unflatten(0, (batch, number)).flatten(1, 2)  # (B, V·s·s, C)
            groups: dict[int, Groups] = {}
            for block in stage.blocks:
                shift = block.attn.shift_size if self.units * side > self.window_size else 0  # as mmpretrain
                if shift not in groups:
                    groups[shift] = self._groups(units, side, shift).to(x.device)
                x = self._block(block, x, groups[shift])
            x = x.unflatten(1, (number, side**2)).flatten(0, 1)
            if stage.downsample is not None:
                x, (side, _) = stage.downsample(x, (side, side))
        return self.final_norm(x.view(batch, number, -1)), []

    def _check_units(self, images: Tensor, ids: Tensor) -> np.ndarray:
        if ids.ndim != 1 or not len(ids):
            raise ValueError(
                f'`ids` must be one row (V,) of mask units, the same of all images, but got the shape '
                f'{tuple(ids.shape)}: masks of MaskedSwin come from mmpl.BatchMasking'
            )
        if tuple(images.shape[-2:]) != self.img_size:
            raise ValueError(f'`backbone.img_size` is {self.img_size}, but the images are {tuple(images.shape[-2:])}')
        units = ids.cpu().numpy()
        if units.min() < 0 or units.max() >= self.num_patches or len(np.unique(units)) < len(units):
            raise ValueError(
                f'`ids` must be different mask units, 0 to {self.num_patches - 1}, but got {units.tolist()}'
            )
        return units

    def _embed(self, images: Tensor, units: np.ndarray) -> tuple[Tensor, int]:
        """Patch embedding of the units, (B·V, s·s, C), and s."""
        rows, columns = (to_device(torch.from_numpy(part), images.device) for part in divmod(units, self.units))
        size = (-1, self.token_size)
        crops = images.unflatten(2, size).unflatten(4, size)[:, :, rows, :, columns]  # (V, B, C, u, u)
        x, (side, _) = self.patch_embed(crops.transpose(0, 1).flatten(0, 1))
        return self.drop_after_pos(x), side

    def _groups(self, units: np.ndarray, side: int, shift: int) -> Groups:
        """Of the tokens of a stage in which a unit has ``side`` x ``side`` of them."""
        inside = np.arange(side)
        top, left = (side * part[:, None, None] for part in divmod(units, self.units))
        rows, columns = np.broadcast_arrays(top + inside[:, None], left + inside)
        return group_windows(rows.ravel(), columns.ravel(), self.window_size, shift)

    def _block(self, block: Any, x: Tensor, groups: Groups) -> Tensor:
        """A ``SwinBlock`` with grouped attention."""

        def forward(x: Tensor) -> Tensor:
            x = x + block.attn.drop(attend(block.attn.w_msa, block.norm1(x), groups))
            return block.ffn(block.norm2(x), identity=x)

        return checkpoint(forward, x, use_reentrant=False) if self.with_cp and torch.is_grad_enabled() else forward(x)


def check_swin(arch: Any) -> int:
    """Refuse sizes that are none in an ``arch`` of mmpretrain's ``SwinTransformer``; return the number of stages."""
    if isinstance(arch, str):
        check_choice('backbone.arch', arch.lower(), SwinTransformer.arch_zoo)
        arch = SwinTransformer.arch_zoo[arch.lower()]
    fields = ('embed_dims', 'depths', 'num_heads')
    if set(arch) != set(fields):
        raise ValueError(f'`backbone.arch` must have the fields {list(fields)}, but got {sorted(arch)}')
    check_number('backbone.arch.embed_dims', arch['embed_dims'], 1, integer=True)
    for field in fields[1:]:
        if not isinstance(arch[field], list | tuple) or not arch[field]:
            raise ValueError(f'`backbone.arch.{field}` must have one number a stage, but got {arch[field]!r}')
        for number in arch[field]:
            check_number(f'backbone.arch.{field}', number, 1, integer=True)
    if len(arch['depths']) != len(arch['num_heads']):
        raise ValueError(
            f'`backbone.arch.num_heads` must have one number for each of the {len(arch["depths"])} stages of `depths`, '
            f'but got {arch["num_heads"]!r}'
        )
    for stage, heads in enumerate(arch['num_heads']):
        if arch['embed_dims'] * 2**stage % heads:
            raise ValueError(
                f'`backbone.arch.num_heads` must divide the width {arch["embed_dims"] * 2**stage} of stage {stage}, '
                f'but got {heads}'
            )
    return len(arch['depths'])


def check_windows(img_size: int, patch_size: int, window_size: int, stages: int) -> None:
    """Refuse an image that whole mask units, and whole windows in every stage, do not fill."""
    unit = patch_size * 2 ** (stages - 1)
    step = unit * window_size  # pixels of a window of the last stage
    if img_size % step:
        raise ValueError(
            f'`backbone.img_size` must be a multiple of {step} with mask units of {unit} pixels (`patch_size` '
            f'{patch_size}, {stages} stages) and `window_size` {window_size}, but got {img_size}'
        )
