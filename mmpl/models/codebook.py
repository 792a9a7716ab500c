"""Discrete token targets: a codebook that follows the tokens it encodes."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from mmpl.models.masking import count_each
from mmpl.utils.dist import global_sum, joint_places


class OnlineCodebook(nn.Module):
    """Spherical k-means, online (our choice; the EMA form of VQ-VAE, appendix A.1).

    A token's code is the entry with the highest cosine similarity. What a step saw is kept aside until
    :meth:`after_step`, which moves the entries in use towards the mean direction of their tokens and puts those that
    have fallen out of use onto tokens of the batch.

    Args:
        num_codes: Entries, at least 2.
        embed_dims: D, dims of a token.
        momentum: Of entries and shares, in [0, 1].
    """

    MIN_SHARE = 0.01
    """An entry whose running share of the tokens falls below this part of an equal share is moved (our choice)."""

    def __init__(self, num_codes: int, embed_dims: int, momentum: float = 0.99) -> None:
        super().__init__()
        self.momentum = momentum
        generator = torch.Generator().manual_seed(0)  # all processes start from the same entries
        self.register_buffer('codes', F.normalize(torch.randn(num_codes, embed_dims, generator=generator), dim=-1))
        self.register_buffer('share', torch.zeros(num_codes))  # so that the first step moves all that is unused
        # what was seen since the last step: sums of unit tokens by code, token counts, tokens to move entries onto
        self.register_buffer('sums', torch.zeros(num_codes, embed_dims), persistent=False)
        self.register_buffer('counts', torch.zeros(num_codes), persistent=False)
        self.register_buffer('replacements', torch.zeros(num_codes, embed_dims), persistent=False)

    @torch.no_grad()
    def forward(self, tokens: Tensor) -> Tensor:
        """Encode tokens: (..., D) -> codes (...)."""
        flat = F.normalize(tokens.flatten(0, -2), dim=-1)
        codes = (flat @ self.codes.t()).argmax(-1)
        if self.training:
            self.sums.index_add_(0, codes, flat)
            self.counts += count_each(codes, len(self.codes))
            start, total = joint_places(len(flat))
            spread = torch.linspace(0, total - 1, len(self.codes), device=flat.device).long() - start
            own = (spread >= 0) & (spread < len(flat))
            self.replacements.copy_(torch.where(own[:, None], flat[spread.clamp(0, len(flat) - 1)], 0))
        return codes.view(tokens.shape[:-1])

    @torch.no_grad()
    def after_step(self, progress: float, epoch: int) -> None:
        """Move the entries towards what all processes saw since the last step; if that is not finite, they stay."""
        sums, counts = global_sum(self.sums), global_sum(self.counts)
        replacements = global_sum(self.replacements)  # each is a token of one process, and 0 in the others
        counts = counts * (torch.isfinite(sums).all() & torch.isfinite(replacements).all())
        used, total = (counts > 0)[:, None], counts.sum()
        means = F.normalize(sums / counts.clamp_min(1)[:, None], dim=-1)
        codes = torch.where(used, F.normalize(self.codes.lerp(means, 1 - self.momentum), dim=-1), self.codes)
        share = torch.where(total > 0, self.share.lerp(counts / total, 1 - self.momentum), self.share)
        unused = (total > 0) & (counts == 0) & (share < self.MIN_SHARE / len(codes))
        unused &= replacements.norm(dim=-1) > 0  # a token without a direction, such as of a flat patch, is no code
        self.codes.copy_(torch.where(unused[:, None], replacements, codes))
        self.share.copy_(torch.where(unused, 1 / len(codes), share))
        self.forget()

    def forget(self) -> None:
        """Drop what was seen since the last step."""
        self.sums.zero_()
        self.counts.zero_()
