"""What features are worth, told without labels."""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812


def effective_rank(features: Tensor) -> float:
    """How many directions features fill: the exponential of the entropy of their singular values (RankMe, section 3).

    Args:
        features: (N, D).

    Returns:
        From 1, all alike but for their length, to min(N, D).
    """
    values = torch.linalg.svdvals(features.double())
    shares = values / values.sum().clamp_min(1e-12)
    return float(torch.exp(torch.special.entr(shares).sum()))


@torch.no_grad()
def patch_consistency(encoder: Any, images: Tensor) -> float:
    """Whether patches are known again one place further on (our choice of a measure).

    Each image is seen twice, the second time moved by one patch. A patch counts if, of all patches of the second view
    of its image, the nearest by cosine is the one with the same pixels; what only tells the place never finds it.

    Args:
        encoder: With ``encode(images)``, whose tokens are (B, E+N, D), ``num_extra_tokens`` (E) and ``token_size``.
        images: Normalised, (B, C, H + patch, W + patch).

    Returns:
        Percent of the patches that are in both views.
    """
    patch, extra = encoder.token_size, encoder.num_extra_tokens
    first, second = images[..., patch:, patch:], images[..., :-patch, :-patch]
    rows, columns = (side // patch for side in first.shape[-2:])
    before, after = (F.normalize(encoder.encode(view)[0][:, extra:].float(), dim=-1) for view in (first, second))
    found = (before @ after.transpose(1, 2)).argmax(-1).view(-1, rows, columns)  # (B, rows, columns)
    places = torch.arange(rows * columns, device=images.device).view(rows, columns)
    # a place (i, j) of the first view shows what (i + 1, j + 1) of the second does
    return 100 * float((found[:, :-1, :-1] == places[1:, 1:]).float().mean())
