"""Transformer blocks for two streams of tokens that look at each other.

Shape legend: B questions, L words, N image tokens, D width.
"""

import torch.nn.functional as F
from torch import Tensor, nn


class Attention(nn.Module):
    """Multi-head attention of some tokens to others, or to themselves.

    Args:
        dims: D.
        num_heads: A divisor of D.
        drop_rate: Share of attention weights that are dropped in training.
    """

    def __init__(self, dims: int, num_heads: int, drop_rate: float) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.drop_rate = drop_rate
        self.query = nn.Linear(dims, dims)
        self.key_value = nn.Linear(dims, 2 * dims)
        self.out = nn.Linear(dims, dims)

    def forward(self, x: Tensor, other: Tensor, mask: Tensor | None = None) -> Tensor:
        """Let x, (B, L, D), look at the other tokens, (B, N, D), where the mask, (B, N), is True."""
        query = self._split(self.query(x))
        key, value = (self._split(part) for part in self.key_value(other).chunk(2, dim=-1))
        where = None if mask is None else mask[:, None, None]
        dropout = self.drop_rate if self.training else 0.0
        found = F.scaled_dot_product_attention(query, key, value, attn_mask=where, dropout_p=dropout)
        return self.out(found.transpose(1, 2).flatten(2))

    def _split(self, x: Tensor) -> Tensor:
        """(B, L, D) -> (B, h, L, D / h)."""
        return x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)


class Block(nn.Module):
    """A pre-norm transformer block, with attention to another stream where ``cross``.

    Args:
        dims: D.
        num_heads: As :class:`Attention`.
        mlp_ratio: Hidden width of the MLP over D.
        drop_rate: Of attention weights, and of what each part adds.
        cross: Whether the tokens look at those of another stream after themselves.
    """

    def __init__(self, dims: int, num_heads: int, mlp_ratio: float, drop_rate: float, cross: bool = False) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dims)
        self.attention = Attention(dims, num_heads, drop_rate)
        if cross:
            self.cross_norm = nn.LayerNorm(dims)
            self.cross_attention = Attention(dims, num_heads, drop_rate)
        self.mlp_norm = nn.LayerNorm(dims)
        hidden = int(dims * mlp_ratio)
        self.mlp = nn.Sequential(nn.Linear(dims, hidden), nn.GELU(), nn.Linear(hidden, dims))
        self.drop = nn.Dropout(drop_rate)

    def forward(
        self, x: Tensor, mask: Tensor | None = None, other: Tensor | None = None, other_mask: Tensor | None = None
    ) -> Tensor:
        """Transform (B, L, D); the masks, (B, L) and (B, N), are True where there is something to look at."""
        seen = self.norm(x)
        x = x + self.drop(self.attention(seen, seen, mask))
        if other is not None:
            x = x + self.drop(self.cross_attention(self.cross_norm(x), other, other_mask))
        return x + self.drop(self.mlp(self.mlp_norm(x)))


class CoAttention(nn.Module):
    """One layer of co-attention: text and image look at themselves, then at each other as they were before the layer.

    Source: METER (Dou et al., CVPR 2022), section 3.3; norms before instead of after each part are our choice.
    Arguments as :class:`Block`.
    """

    def __init__(self, dims: int, num_heads: int, mlp_ratio: float, drop_rate: float) -> None:
        super().__init__()
        self.text = Block(dims, num_heads, mlp_ratio, drop_rate, cross=True)
        self.image = Block(dims, num_heads, mlp_ratio, drop_rate, cross=True)

    def forward(self, text: Tensor, image: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Transform text (B, L, D), whose words the mask (B, L) marks, and image (B, N, D)."""
        return self.text(text, mask, other=image), self.image(image, other=text, other_mask=mask)
