"""Codes of image patches, made without weights of anybody's: what a masked patch's code is can be predicted.

Shape legend: B images with R masks each, N patches, P of them to encode, C·p·p numbers of a patch, K codes.
"""

import math
from collections.abc import Callable
from typing import Annotated, ClassVar, NamedTuple

import torch
from mmengine.model import BaseModule
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from mmpl.models.codebook import OnlineCodebook
from mmpl.models.masking import count_each, gather_tokens
from mmpl.registry import MODELS
from mmpl.utils.fields import Count, Interval, Natural, Share, checked
from mmpl.utils.figures import Chart, Figure

CODES = Chart(
    'Codes of the masked patches',
    'Share of the codes that are in use (solid), entropy of how often each is (dashed; near 0: all patches have one '
    'code), and how often the right one is predicted.',
    'share',
)
ADVICE = 'Try `tokenizer.norm_pix=True`, more `tokenizer.code_dims` or fewer `tokenizer.num_codes`.'
NumCodes = Annotated[int, Interval(2)]


class CodeStats(NamedTuple):
    """Sums over patches from which the health of the codes is read.

    Attributes:
        count: Number of patches, ().
        correct: Patches whose code is predicted, ().
        hits: Patches of each code, (K,).
    """

    count: Tensor
    correct: Tensor
    hits: Tensor

    def figures(self) -> dict[str, float]:
        """What :attr:`PatchTokenizer.FIGURES` declares, each in [0, 1]."""
        count, num_codes = self.count.item(), len(self.hits)
        shares = self.hits.double() / count
        return dict(
            usage=(self.hits > 0).sum().item() / min(num_codes, count),
            entropy=torch.special.entr(shares).sum().item() / math.log(num_codes),
            accuracy=self.correct.item() / count,
        )


class PatchTokenizer(BaseModule):
    """Gives each patch the code whose direction is nearest; how codes come about is a subclass' affair.

    Args:
        num_codes: K.
        norm_pix: Standardise each patch by itself, as MAE does for its targets (section 4.1), so that codes tell
            structure and not brightness (our choice: of 1,024 random codes the entropy, over log K, is 0.84 on
            embedded crops of photographs and 0.88 on digits, without it 0.71 and 0.31).
        patch_size: Side of a patch in pixels.
        in_channels: Channels of an image.
    """

    FIGURES: ClassVar[dict[str, Figure]] = dict(
        usage=Figure('in use', CODES, (0.02, None), ADVICE, column='codes in use'),
        entropy=Figure('entropy / log K', CODES, (0.1, None), ADVICE, dashed=True, column='entropy of the codes'),
        accuracy=Figure('predicted', CODES),
    )
    """Usage: share of the codes that some patch has (of those that could be: K, or the patches if they are fewer).
    Entropy: of the codes' shares of the patches, divided by log K. Accuracy: share of the patches whose code is
    predicted."""

    quantise: Callable[[Tensor], Tensor]
    """Codes, (...), of patches, (..., C·p·p)."""

    def __init__(self, num_codes: int, norm_pix: bool, patch_size: int, in_channels: int) -> None:
        super().__init__()
        self.num_codes = num_codes
        self.norm_pix = norm_pix
        self.patch_size = patch_size
        self.in_channels = in_channels
        self.patch_dims = in_channels * patch_size**2
        if norm_pix and self.patch_dims < 2:
            raise ValueError(
                '`tokenizer.norm_pix` must be False with a `patch_size` of 1 and one channel: a patch of one number, '
                'standardised by itself, is 0 whatever the image, but got True'
            )

    @torch.no_grad()
    def forward(self, images: Tensor, ids: Tensor) -> Tensor:
        """Encode patches.

        Args:
            images: Normalised images, (B, C, H, W).
            ids: Patches to encode, (B·R, P); row ``b * R + r`` belongs to image b.

        Returns:
            Codes, (B·R, P).
        """
        with torch.autocast(images.device.type, enabled=False):
            patches = F.pixel_unshuffle(images.float(), self.patch_size).flatten(2).transpose(1, 2)  # (B, N, C·p·p)
            patches = gather_tokens(patches, ids)
            if self.norm_pix:
                patches = F.layer_norm(patches, patches.shape[-1:], eps=1e-6)  # 0 where a patch is flat: code 0
            return self.quantise(patches)

    @torch.no_grad()
    def stats(self, codes: Tensor, logits: Tensor) -> CodeStats:
        """Sums over patches with their codes, (...), and what is predicted, (..., K)."""
        hits = count_each(codes, self.num_codes)
        return CodeStats(hits.sum(), (logits.argmax(-1) == codes).sum().float(), hits)


@MODELS.register_module()
class RandomTokenizer(PatchTokenizer):
    """A frozen random projection, and a frozen random codebook (BEST-RQ: Chiu et al., ICML 2022).

    A patch is projected to a few dims; its code is the entry with the highest cosine similarity. Nothing is learnt.
    Projection and codebook are drawn from ``seed``, the same in all processes, and are buffers, hence in every
    checkpoint.

    Args:
        num_codes: K; BEST-RQ's 8192.
        code_dims: Dims that patches are projected to; BEST-RQ's 16.
        norm_pix: As in :class:`PatchTokenizer`.
        seed: Seed of projection and codebook.
        patch_size: Side of a patch in pixels.
        in_channels: Channels of an image.
    """

    @checked('tokenizer')
    def __init__(
        self,
        num_codes: NumCodes = 8192,
        code_dims: Count = 16,
        norm_pix: bool = True,
        seed: Natural = 0,
        patch_size: Count = 16,
        in_channels: Count = 3,
    ) -> None:
        super().__init__(num_codes, norm_pix, patch_size, in_channels)
        generator = torch.Generator().manual_seed(seed)
        self.register_buffer('projection', torch.randn(self.patch_dims, code_dims, generator=generator))
        self.register_buffer('codes', F.normalize(torch.randn(num_codes, code_dims, generator=generator), dim=-1))

    def quantise(self, patches: Tensor) -> Tensor:
        """Nearest entry by cosine: (..., C·p·p) -> (...)."""
        return (patches @ self.projection @ self.codes.t()).argmax(-1)  # the length of a patch changes no order


@MODELS.register_module()
class OnlineTokenizer(PatchTokenizer):
    """Codes of patches in an :class:`mmpl.models.OnlineCodebook`, which follows them.

    Args:
        num_codes: K.
        momentum: Of the codes, in [0, 1].
        norm_pix: As in :class:`PatchTokenizer`.
        patch_size: Side of a patch in pixels.
        in_channels: Channels of an image.
    """

    @checked('tokenizer')
    def __init__(
        self,
        num_codes: NumCodes = 8192,
        momentum: Share = 0.99,
        norm_pix: bool = True,
        patch_size: Count = 16,
        in_channels: Count = 3,
    ) -> None:
        super().__init__(num_codes, norm_pix, patch_size, in_channels)
        self.codebook = OnlineCodebook(num_codes, self.patch_dims, momentum)

    def quantise(self, patches: Tensor) -> Tensor:
        """Nearest entry by cosine: (..., C·p·p) -> (...); in training, entries move after the step."""
        return self.codebook(patches)
