"""What a teacher looks at: the whole image, or the folds of its masked patches."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from .backbones import MaskedViT
from .masking import Masks, gather_tokens, ratio_leaving

TeacherInput = Literal['full', 'folds']


class TeacherView:
    """A teacher's tokens, addressed by what a loss asks for.

    Args:
        encoder: The teacher's encoder.
        images: Normalised images, (B, C, H, W).
        masks: The student's masks.
        teacher_input: ``'full'``, or ``'folds'``: the masked patches are split into M/V folds that are encoded each by
            itself with its own class token (SdAE, section 3.2).
        target_blocks: How many of the last blocks make up :attr:`masked_features`.

    Raises:
        ValueError: If the masked patches do not split into folds of V.
    """

    def __init__(
        self,
        encoder: MaskedViT,
        images: Tensor,
        masks: Masks,
        teacher_input: TeacherInput = 'full',
        target_blocks: int = 0,
    ) -> None:
        self.masks = masks
        self.is_full = teacher_input == 'full'
        ids = None if self.is_full else self._fold_ids(masks)
        self.tokens, self.blocks = encoder.encode(images, ids, target_blocks)

    @staticmethod
    def check_folds(num_masked: int, num_visible: int, asked_by: str = "`teacher_input='folds'`") -> None:
        """Refuse a mask ratio whose M masked patches do not split into folds of V, which somebody asked for."""
        if num_masked % num_visible:
            total = num_masked + num_visible
            divisors = [v for v in range(1, total // 2 + 1) if not total % v]
            ratios = [ratio_leaving(v, total) for v in divisors[:-5:-1]]
            raise ValueError(
                f'{asked_by} needs a `masking.mask_ratio` that masks a multiple of the visible patches, but '
                f'{num_masked} masked patches do not split into folds of {num_visible}; '
                f'with {total} patches these do: {", ".join(map(str, ratios))}'
            )

    @classmethod
    def _fold_ids(cls, masks: Masks) -> Tensor:
        num_masked, num_visible = masks.ids_masked.shape[1], masks.ids_keep.shape[1]
        cls.check_folds(num_masked, num_visible)
        return masks.ids_masked.reshape(-1, num_visible)

    @property
    def cls(self) -> Tensor:
        """Class tokens, (B, D) of full images or (B·R·folds, D)."""
        return self.tokens[:, 0]

    @property
    def masked(self) -> Tensor:
        """Tokens at the places to predict, (B·R, P, D)."""
        return self._at_predicted(self.tokens)

    def data_tokens(self, which: Sequence[str]) -> tuple[Tensor, Tensor | None, Tensor]:
        """Tokens to label, and which of them each of the student's places has.

        Args:
            which: ``'visible'``, ``'masked'``, or both; folds have ``'masked'`` ones only.

        Returns:
            The teacher's tokens, (B, N, D); which of them to take, (B·R, L), as :func:`gather_tokens` wants it (None:
            all of (B·R, P, D)); and the patches that those show, (B·R, L).
        """
        if not self.is_full:
            return self.masked, None, self.masks.ids_predict
        places = dict(visible=self.masks.ids_keep, masked=self.masks.ids_predict)
        ids = torch.cat([places[name] for name in which], dim=1)
        return self.tokens[:, 1:], ids, ids

    @property
    def masked_blocks(self) -> list[Tensor]:
        """The last blocks' outputs at the places to predict, each (B·R, P, D)."""
        return [self._at_predicted(block) for block in self.blocks]

    @property
    def masked_features(self) -> Tensor:
        """Mean of the last blocks' outputs at the places to predict, (B·R, P, D).

        Several blocks are layer-normed before they are averaged (data2vec, section 3.3).
        """
        picked = self.masked_blocks
        if len(picked) == 1:
            return picked[0]
        return torch.stack([F.layer_norm(x.float(), x.shape[-1:]) for x in picked]).mean(0)

    def _at_predicted(self, tokens: Tensor) -> Tensor:
        if self.is_full:
            return gather_tokens(tokens[:, 1:], self.masks.ids_predict)
        in_folds = tokens[:, 1:].reshape(*self.masks.ids_masked.shape, -1)  # folds follow the order of ids_masked
        return in_folds[:, : self.masks.ids_predict.shape[1]]
