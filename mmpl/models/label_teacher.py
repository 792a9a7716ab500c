"""The labelling teacher: encoder, labelling heads, and what balances the labels."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from mmpl.models.assignment import PseudoLabels

from .teacher import EMATeacher


class LabelTeacher(EMATeacher):
    """Labels tokens for the student (PL-MAE, labelling teacher).

    Args:
        backbone (nn.Module): The student's encoder.
        heads (nn.ModuleDict): The student's labelling heads, ``'cls'`` for
            class tokens, ``'data'`` for data tokens, or one of the two.
    """

    def __init__(self, backbone: nn.Module, heads: nn.ModuleDict) -> None:
        super().__init__(backbone=backbone, heads=heads)
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
        """Label the student's class or data tokens.

        Args:
            name (str): ``'cls'`` or ``'data'``.
            tokens (Tensor): The teacher's tokens, (..., D); with ``ids``
                (B, N, D).
            progress (float): Share of the run that is done, in [0, 1].
            ids (Tensor, optional): Which of the tokens to label, (B·R, L); one
                may occur several times.
            places (Tensor, optional): Patch of each token that is labelled.
            num_places (int): N, if there are ``places``.

        Returns:
            PseudoLabels: One row a token, or with ``ids`` one a place.
        """
        labels = self.heads[name].label(tokens, self.assigners[name], progress, ids, places, num_places)
        self.assigners[name].observe(labels.embeddings, labels.prototypes)
        return labels

    @torch.no_grad()
    def predict(self, name: str, tokens: Tensor, progress: float) -> Tensor:
        """Most likely prototypes, without a trace in any running statistic.

        Args:
            name (str): ``'cls'`` or ``'data'``.
            tokens (Tensor): The teacher's class tokens (B, D), or data tokens
                of whole images (B, N, D).
            progress (float): Share of the run that is done, in [0, 1].

        Returns:
            Tensor: Indices of prototypes, (B,) or (B, N).
        """
        places = (
            torch.arange(tokens.shape[1], device=tokens.device).expand(tokens.shape[:2]) if tokens.ndim == 3 else None
        )
        num_places = tokens.shape[1] if places is not None else 1
        labels = self.heads[name].label(tokens, self.assigners[name], progress, None, places, num_places)
        return labels.probs().argmax(-1).view(tokens.shape[:-1])

    @torch.no_grad()
    def update(self, students: Mapping[str, nn.Module], momentum: float) -> None:
        """Move encoder and heads towards the student, and the centres towards what was seen."""
        super().update(students, momentum)
        self.update_assigners()

    def update_assigners(self) -> None:
        """Move the centres towards what was seen since the last update."""
        for assigner in self.assigners.values():
            assigner.update()
