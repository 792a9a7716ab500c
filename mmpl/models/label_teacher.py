"""The labelling teacher: encoder, labelling heads, and what balances the labels."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from .assignment import PseudoLabels
from .teacher import Teacher


class LabelTeacher(Teacher):
    """Labels tokens for the student (PL-MAE, labelling teacher).

    Args:
        momentum: As in :class:`Teacher`.
        field: As in :class:`Teacher`.
        backbone: The student's encoder.
        heads: The student's labelling heads: ``'cls'`` for class tokens, ``'data'`` for data tokens, or one of the two.
    """

    def __init__(self, momentum: Mapping[str, Any], field: str, backbone: nn.Module, heads: nn.ModuleDict) -> None:
        super().__init__(momentum, field, backbone=backbone, heads=heads)
        self.assigners = nn.ModuleDict({name: head.build_assigner() for name, head in heads.items()})

    def label(
        self,
        name: str,
        tokens: Tensor,
        progress: float,
        ids: Tensor | None = None,
        places: Tensor | None = None,
        num_places: int = 1,
    ) -> PseudoLabels:
        """Label the student's class or data tokens; see :meth:`mmpl.models.PseudoLabelHead.label`.

        Args:
            name: ``'cls'`` or ``'data'``.
            tokens: The teacher's tokens, (..., D); with ``ids`` (B, N, D).
            progress: Share of the run that is done, in [0, 1].
            ids: Which of the tokens to label, (B·R, L); one may occur several times.
            places: Patch of each token that is labelled.
            num_places: N, if there are ``places``.

        Returns:
            One row a token, or with ``ids`` one a place.
        """
        labels = self.heads[name].label(tokens, self.assigners[name], progress, ids, places, num_places)
        self.assigners[name].observe(labels.embeddings, labels.prototypes)
        return labels

    @torch.no_grad()
    def predict(self, name: str, tokens: Tensor, progress: float) -> Tensor:
        """Most likely prototypes, without a trace in any running statistic.

        Args:
            name: ``'cls'`` or ``'data'``.
            tokens: The teacher's class tokens (B, D), or data tokens of whole images (B, N, D).
            progress: Share of the run that is done, in [0, 1].

        Returns:
            Indices of prototypes, (B,) or (B, N).
        """
        places, num_places = None, 1
        if tokens.ndim == 3:
            num_places = tokens.shape[1]
            places = torch.arange(num_places, device=tokens.device).expand(tokens.shape[:2])
        labels = self.heads[name].label(tokens, self.assigners[name], progress, None, places, num_places)
        return labels.probs().argmax(-1).view(tokens.shape[:-1])
