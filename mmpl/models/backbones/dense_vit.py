"""The Vision Transformer for dense tasks: mmpretrain's, for any image size, with window attention.

Shape legend: B images, H x W patches of the image (N = H * W), D embedding width, h heads, d = D / h, S window side,
w windows per image.
"""

from collections.abc import Sequence
from math import isqrt
from typing import Any

import torch
import torch.nn.functional as F
from mmpretrain.models.backbones import VisionTransformer
from mmpretrain.models.backbones.vision_transformer import TransformerEncoderLayer
from mmpretrain.models.utils import resize_pos_embed
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from mmpl.models.arch import check_arch
from mmpl.registry import MODELS
from mmpl.utils.fields import check_number


def _windows(x: Tensor, grid: tuple[int, int], size: int) -> Tensor:
    """Cut (B, N, h, d) tokens into (B * w, h, S * S, d) windows, with zeros at the right and lower border."""
    batch, _, heads, dim = x.shape
    rows, cols = -(-grid[0] // size), -(-grid[1] // size)
    x = x.reshape(batch, *grid, heads, dim)
    x = F.pad(x, (0, 0, 0, 0, 0, cols * size - grid[1], 0, rows * size - grid[0]))
    x = x.reshape(batch, rows, size, cols, size, heads, dim).permute(0, 1, 3, 5, 2, 4, 6)
    return x.reshape(batch * rows * cols, heads, size * size, dim)


def _unwindows(x: Tensor, grid: tuple[int, int], size: int) -> Tensor:
    """Inverse of :func:`_windows`: (B * w, h, S * S, d) windows to (B, N, h, d) tokens, without the border."""
    _, heads, _, dim = x.shape
    rows, cols = -(-grid[0] // size), -(-grid[1] // size)
    x = x.reshape(-1, rows, cols, heads, size, size, dim).permute(0, 1, 4, 2, 5, 3, 6)
    x = x.reshape(-1, rows * size, cols * size, heads, dim)[:, : grid[0], : grid[1]]
    return x.reshape(-1, grid[0] * grid[1], heads, dim)


def _relative(table: Tensor, size: int) -> Tensor:
    """Embedding of each offset along one axis: (size, size, d), entry (i, j) for query i and key j."""
    if table.shape[0] != 2 * size - 1:
        table = F.interpolate(table.float().T[None], size=2 * size - 1, mode='linear')[0].T.to(table.dtype)
    offsets = torch.arange(size, device=table.device)
    return table[offsets[:, None] - offsets[None, :] + size - 1]


def _add_relative_positions(
    query: Tensor, key: Tensor, grid: tuple[int, int], table_h: Tensor, table_w: Tensor
) -> tuple[Tensor, Tensor]:
    """Put decomposed relative positions into the query and key, so that no (N, N) bias is ever stored.

    The logit of query i and key j is ``q_i k_j / sqrt(d) + q_i R_h[row_i, row_j] + q_i R_w[col_i, col_j]``. The last
    two terms are scalar products too, of ``q_i R_h[row_i, :]`` with the one-hot row of j, and alike for the columns:
    they are appended to query and key, and ``scaled_dot_product_attention(..., scale=1)`` does the rest.

    Args:
        query: (G, h, H * W, d), groups (images or windows) of H x W tokens; ``key`` alike.
        key: As the query.
        grid: (H, W).
        table_h: (L, d) embeddings of vertical offsets; ``table_w`` of horizontal ones.
        table_w: As above.

    Returns:
        Query and key, (G, h, H * W, d + H + W), for ``scale=1``.
    """
    groups, heads, _, dim = query.shape
    rows, cols = grid
    spatial = query.reshape(groups, heads, rows, cols, dim)
    by_row = torch.einsum('ghijd,ikd->ghijk', spatial, _relative(table_h, rows).to(query.dtype)).flatten(2, 3)
    by_col = torch.einsum('ghijd,jkd->ghijk', spatial, _relative(table_w, cols).to(query.dtype)).flatten(2, 3)
    row_of = torch.eye(rows, dtype=key.dtype, device=key.device).repeat_interleave(cols, dim=0)
    col_of = torch.eye(cols, dtype=key.dtype, device=key.device).repeat(rows, 1)
    places = torch.cat([row_of, col_of], dim=1).expand(groups, heads, -1, -1)
    return torch.cat([query * dim**-0.5, by_row, by_col], dim=-1), torch.cat([key, places], dim=-1)


def _attend(
    query: Tensor, key: Tensor, value: Tensor, grid: tuple[int, int], attn: nn.Module, mask: Tensor | None
) -> Tensor:
    """Attention of H x W tokens to themselves and to the extra tokens that stand before them in key and value.

    Args:
        query: (G, h, H * W, d).
        key: (G, h, E + H * W, d) with E extra (class) tokens first.
        value: Same shape as ``key``.
        grid: (H, W).
        attn: The layer's attention module; dropout rate and relative positions are read from it.
        mask: Broadcastable to (G, h, H * W, E + H * W), True where a query may look; None for everywhere.

    Returns:
        (G, h, H * W, d).
    """
    scale = None
    if hasattr(attn, 'rel_pos_h'):
        extra = key.shape[2] - query.shape[2]
        query, placed = _add_relative_positions(query, key[:, :, extra:], grid, attn.rel_pos_h, attn.rel_pos_w)
        key = torch.cat([F.pad(key[:, :, :extra], (0, sum(grid))), placed], dim=2)
        scale = 1.0
    dropout = attn.attn_drop if attn.training else 0.0
    return F.scaled_dot_product_attention(query, key, value, attn_mask=mask, dropout_p=dropout, scale=scale)


def _attend_all_windows(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, dropout: float) -> Tensor:
    """Attention of the class token to all windows at once, on their own keys and values: no second copy is kept.

    Args:
        query: (B, h, E, d), E class tokens.
        key: (B * w, h, E + S * S, d), the class tokens first, in every window.
        value: Same shape.
        mask: (B * w, 1, 1, E + S * S), True where there is no padding; None for no padding.
        dropout: Share of the attention weights that are dropped.

    Returns:
        (B, h, E, d).
    """
    batch, heads, extra, dim = query.shape
    if extra == 0:
        return query
    key, value = (t.reshape(batch, -1, *t.shape[1:]) for t in (key, value))  # (B, w, h, E + S * S, d)
    logits = (query * dim**-0.5)[:, None] @ key.mT  # (B, w, h, E, E + S * S)
    windows, length = logits.shape[1], logits.shape[-1]
    allowed = torch.ones(batch, windows, 1, 1, length, dtype=torch.bool, device=query.device)
    if mask is not None:
        allowed = mask.reshape(allowed.shape).clone()
    allowed[:, 1:, ..., :extra] = False  # the class token's own key counts once
    logits = logits.masked_fill(~allowed, float('-inf')).permute(0, 2, 3, 1, 4).flatten(3)
    weights = F.dropout(logits.softmax(-1), dropout).reshape(batch, heads, extra, windows, length)
    return (weights.permute(0, 3, 1, 2, 4) @ value).sum(1)


@MODELS.register_module()
class DenseViT(VisionTransformer):
    """mmpretrain's ``VisionTransformer`` for segmentation and detection.

    The same parameters under the same names, so that it loads the ``backbone.`` of MAE, PL-MAE and MSA key by key, and,
    with attention over the whole image, the same output. What it adds follows ViTDet (Li et al., "Exploring Plain
    Vision Transformer Backbones for Object Detection", ECCV 2022, section 3): attention in non-overlapping windows with
    a few global blocks in between, and decomposed relative positions (of MViTv2).

    Two things are our choice. The class token is kept: the patches of every window look at it, and it looks at all
    patches; so a window that covers the image gives exactly global attention. And padding is masked: a patch never
    looks at the zeros that fill a window up.

    Args:
        arch: As in ``VisionTransformer``.
        img_size: Image size (height, width) that ``pos_embed`` is stored for: that of pre-training, not of the task. It
            is interpolated (bicubic) to every image's own size.
        window_size: Window side in patches; 0 means global attention in every block.
        global_attn_indexes: Blocks with global attention. None with windows means four, evenly spaced, the last block
            being one (2, 5, 8 and 11 of 12).
        rel_pos: Add decomposed relative positions, zero at the start: for windows in a table of their size, for global
            blocks in one of a grid of so many patches a side (True: that of ``img_size``), which is stretched to other
            grids. A checkpoint without them then needs ``ignore=('layers.*.attn.rel_pos_*',)`` of
            ``mmpl.StrictPretrained``.
        out_indices: Blocks whose output to return; blocks above the last of them are neither run nor trained.
        out_norm: ``'last'`` applies the final LayerNorm to the output of the last block, as ``VisionTransformer`` does;
            ``'all'`` to every output; ``'none'`` to none.
        frozen_stages: 0 freezes patch, class and position embedding, k the first k blocks as well, -1 nothing.
        with_cp: Recompute each block's activations in the backward pass.
        **kwargs: Other arguments of ``VisionTransformer`` (``patch_size``, ``drop_path_rate``, ``init_cfg``, ...).
    """

    def __init__(
        self,
        arch: str | dict = 'base',
        img_size: int | tuple[int, int] = 224,
        window_size: int = 0,
        global_attn_indexes: Sequence[int] | None = None,
        rel_pos: bool | int = False,
        out_indices: Sequence[int] | int = -1,
        out_norm: str = 'last',
        frozen_stages: int = -1,
        with_cp: bool = False,
        **kwargs: Any,
    ) -> None:
        if kwargs.setdefault('out_type', 'featmap') != 'featmap':
            raise ValueError(f"out_type must be 'featmap' (DenseViT returns feature maps), got {kwargs['out_type']!r}")
        check_arch(arch)
        super().__init__(arch=arch, img_size=img_size, **kwargs)
        depth = self.num_layers
        self.out_indices = self._check_indices(
            'out_indices', [out_indices] if isinstance(out_indices, int) else out_indices
        )
        if out_norm not in ('last', 'all', 'none'):
            raise ValueError(f"out_norm must be 'last', 'all' or 'none', got {out_norm!r}")
        if out_norm != 'none' and not self.final_norm:
            if out_norm == 'all':
                raise ValueError("out_norm='all' needs final_norm=True")
            out_norm = 'none'
        if not isinstance(window_size, int) or window_size < 0:
            raise ValueError(f'window_size must be an integer >= 0, got {window_size!r}')
        if not -1 <= frozen_stages <= depth:
            raise ValueError(f'frozen_stages must be in [-1, {depth}], got {frozen_stages}')
        if global_attn_indexes is None:
            global_attn_indexes = sorted({max((i + 1) * depth // 4 - 1, 0) for i in range(4)})
        elif window_size == 0:
            raise ValueError(f'global_attn_indexes={global_attn_indexes} without windows: set window_size')
        self.window_size = window_size
        self.global_attn_indexes = self._check_indices('global_attn_indexes', global_attn_indexes)
        self.out_norm = out_norm
        self.with_cp = with_cp
        if rel_pos:
            if rel_pos is not True:
                check_number('rel_pos', rel_pos, 1, integer=True)
            grid = self.patch_resolution if rel_pos is True else (rel_pos, rel_pos)
            for i, layer in enumerate(self.layers):
                size = (window_size, window_size) if self._windowed(i) else grid
                for axis, length in zip('hw', size, strict=True):
                    table = nn.Parameter(torch.zeros(2 * length - 1, layer.attn.head_dims))
                    setattr(layer.attn, f'rel_pos_{axis}', table)
        self.frozen_stages = frozen_stages
        if frozen_stages >= 0:
            self._freeze_stages()
        self._freeze_unused()

    def _check_indices(self, field: str, indices: Sequence[int]) -> list[int]:
        """Block numbers as non-negative integers in rising order."""
        depth = self.num_layers
        wrong = [i for i in indices if not isinstance(i, int) or not -depth <= i < depth]
        if wrong:
            raise ValueError(f'{field}={list(indices)}: {wrong} not among the {depth} blocks, [{-depth}, {depth - 1}]')
        result = [i % depth for i in indices]
        if result != sorted(set(result)) or (field == 'out_indices' and not result):
            raise ValueError(f'{field}={list(indices)} must be rising, each block once')
        return result

    def _windowed(self, index: int) -> bool:
        return self.window_size > 0 and index not in self.global_attn_indexes

    def _freeze_unused(self) -> None:
        """Freeze what no output depends on, so that DDP need not look for unused parameters."""
        last = self.out_indices[-1]
        unused: list[nn.Module] = list(self.layers[last + 1 :])
        norm_used = self.out_norm == 'all' or (self.out_norm == 'last' and last == self.num_layers - 1)
        if self.final_norm and not norm_used:
            unused.append(self.ln1)
        for module in unused:
            module.requires_grad_(False)

    def train(self, mode: bool = True) -> 'DenseViT':
        """Set training mode; frozen blocks stay in evaluation mode (no dropout, no stochastic depth)."""
        super().train(mode)
        if mode and self.frozen_stages >= 0:
            self._freeze_stages()
        return self

    def _prepare_pos_embed(self, state_dict: dict, prefix: str, *args: Any, **kwargs: Any) -> None:
        """Interpolate a checkpoint's position embedding to ``img_size`` when it is loaded."""
        loaded = state_dict.get(prefix + 'pos_embed')
        if loaded is not None and loaded.shape != self.pos_embed.shape:
            name, want = f'{prefix}pos_embed', tuple(self.pos_embed.shape)
            if loaded.ndim != 3 or loaded.shape[0] != 1 or loaded.shape[2] != want[2]:
                raise ValueError(
                    f'{name} is {tuple(loaded.shape)} in the checkpoint, {want} here: cannot be interpolated'
                )
            # Without a class token here, the checkpoint may have one: the parent drops it.
            lengths = {loaded.shape[1] - self.num_extra_tokens, loaded.shape[1] - 1}
            if not any(n > 0 and isqrt(n) ** 2 == n for n in lengths):
                raise ValueError(
                    f'{name} has {loaded.shape[1]} tokens in the checkpoint, {want[1]} here: not a class token and a '
                    f'square of patches, so it cannot be interpolated. For a checkpoint of non-square images, set '
                    f'img_size (now {self.img_size}) to theirs.'
                )
        super()._prepare_pos_embed(state_dict, prefix, *args, **kwargs)

    def _attention(self, attn: nn.Module, x: Tensor, grid: tuple[int, int], windowed: bool) -> Tensor:
        """Self-attention of (B, E + N, D) tokens, E class tokens first, with the parameters of ``attn``."""
        batch, length, _ = x.shape
        extra, size = self.num_extra_tokens, self.window_size
        qkv = attn.qkv(x).reshape(batch, length, 3, attn.num_heads, attn.head_dims)
        query, key, value = (t.transpose(1, 2) for t in qkv.unbind(2))  # (B, h, E + N, d)
        dropout = attn.attn_drop if attn.training else 0.0
        if windowed:
            q, k, v = (_windows(t[:, extra:], grid, size) for t in qkv.unbind(2))
            count = q.shape[0] // batch
            # Every window sees the class token: (B, h, E, d) -> (B * w, h, E, d).
            k, v = (
                torch.cat([t[:, :, :extra].repeat_interleave(count, dim=0), w], dim=2)
                for t, w in ((key, k), (value, v))
            )
            mask = self._padding_mask(grid, batch, x.device)
            out = _unwindows(_attend(q, k, v, (size, size), attn, mask), grid, size)
            of_cls = _attend_all_windows(query[:, :, :extra], k, v, mask, dropout)
        else:
            out = _attend(query[:, :, extra:], key, value, grid, attn, None).transpose(1, 2)
            of_cls = F.scaled_dot_product_attention(query[:, :, :extra], key, value, dropout_p=dropout)
        out = torch.cat([of_cls.transpose(1, 2), out], dim=1)
        out = attn.proj(out.reshape(batch, length, -1))
        return attn.out_drop(attn.gamma1(attn.proj_drop(out)))

    def _padding_mask(self, grid: tuple[int, int], batch: int, device: torch.device) -> Tensor | None:
        """(B * w, 1, 1, E + S * S), True for the keys that are not padding; None where nothing was padded."""
        if grid[0] % self.window_size == 0 and grid[1] % self.window_size == 0:
            return None
        real = torch.ones(1, grid[0] * grid[1], 1, 1, device=device)
        mask = F.pad(_windows(real, grid, self.window_size)[:, 0, :, 0].bool(), (self.num_extra_tokens, 0), value=True)
        return mask.repeat(batch, 1)[:, None, None]

    def _block(self, layer: TransformerEncoderLayer, x: Tensor, grid: tuple[int, int], windowed: bool) -> Tensor:
        """One encoder layer on (B, E + N, D) tokens."""
        x = x + self._attention(layer.attn, layer.ln1(x), grid, windowed)
        return layer.ffn(layer.ln2(x), identity=x)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Encode images of any size, (B, C, height, width): for each of ``out_indices`` a feature map (B, D, H, W).

        A size that the patch does not divide is padded at the right and lower border.
        """
        x, grid = self.patch_embed(x)
        grid = (int(grid[0]), int(grid[1]))
        if self.cls_token is not None:
            x = torch.cat([self.cls_token.expand(x.shape[0], -1, -1), x], dim=1)
        x = x + resize_pos_embed(
            self.pos_embed, self.patch_resolution, grid, self.interpolate_mode, self.num_extra_tokens
        )
        x = self.pre_norm(self.drop_after_pos(x))

        outs = []
        for i, layer in enumerate(self.layers[: self.out_indices[-1] + 1]):
            if self.with_cp and x.requires_grad:
                x = checkpoint(self._block, layer, x, grid, self._windowed(i), use_reentrant=False)
            else:
                x = self._block(layer, x, grid, self._windowed(i))
            if i in self.out_indices:
                norm = self.out_norm == 'all' or (self.out_norm == 'last' and i == self.num_layers - 1)
                outs.append(self._format_output(self.ln1(x) if norm else x, grid).contiguous())
        return tuple(outs)
