"""Attention whose gradients are not slow in bf16 on a CPU."""

from functools import partial

import torch
from mmpretrain.models.utils import MultiheadAttention
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

MAX_TOKENS = 512  # up to which the scores of all pairs are kept for the backward pass; our choice


def attention(query: Tensor, key: Tensor, value: Tensor, dropout_p: float = 0.0) -> Tensor:
    """``scaled_dot_product_attention``; on a CPU in bf16, with gradients, as plain matrix products.

    There the backward pass of torch's fused kernel takes three to twelve times as long as that of the products (torch
    2.14; most at 50 tokens, least at 197). They round to bf16 between the steps, and keep the scores, (B, heads, N, S).

    Args:
        query: (B, heads, N, D).
        key: (B, heads, S, D).
        value: The same shape.
        dropout_p: Dropout of the attention; with it, the kernel is used.
    """
    plain = query.device.type == 'cpu' and query.dtype == torch.bfloat16 and query.requires_grad
    if not plain or dropout_p or key.shape[-2] > MAX_TOKENS:
        return F.scaled_dot_product_attention(query, key, value, dropout_p=dropout_p)
    scores = (query * query.shape[-1] ** -0.5) @ key.transpose(-2, -1)
    return scores.softmax(-1) @ value


def use_attention(model: nn.Module) -> None:
    """Let mmpretrain's attention layers of a model compute :func:`attention`, but those with a scale of their own."""
    for part in model.modules():
        if type(part) is MultiheadAttention and not isinstance(part.scaled_dot_product_attention, partial):
            part.scaled_dot_product_attention = attention
