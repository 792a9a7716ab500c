"""The alignment head: how far the student's tokens are from the teacher's view of the same image or place.

Shape legend: L tokens of the student, L' of the teacher, D token dims, E embedding dims.
"""

import math
from typing import ClassVar, Literal, NamedTuple

import torch
from mmengine.dist import get_rank
from mmengine.model import BaseModule
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from mmpl.checkpoints.strict_pretrained import loads_weights
from mmpl.models.standardise import check_members, unit_vectors
from mmpl.registry import MODELS
from mmpl.utils.dist import global_concat, global_sum
from mmpl.utils.fields import Count, Positive, checked
from mmpl.utils.figures import Chart, Figure

from .mlp import keep_variance, mlp

ALIGNMENT = Chart(
    'Alignment of student and teacher',
    'Cosine between what the student predicts and what the teacher sees (solid), and how far the teacher tells '
    'tokens apart (dashed: 0 means that all have one embedding, which is collapse).',
)
RECOGNITION = Chart(
    'Recognition among the batch',
    "How often the own image's embedding by the teacher is the nearest to what the student predicts.",
    'share',
)
ADVICE = 'Try a higher `momentum_align`, a lower learning rate or less weight for what is aligned.'


class AlignStats(NamedTuple):
    """Sums over tokens from which the health of an alignment is read.

    Attributes:
        count: Number of tokens, ().
        cosine: Sum of the cosines between student and teacher, ().
        agreement: Tokens whose own teacher token is the nearest of all, (); NaN with ``'cosine'``, which compares no
            other token.
        mean: Sum of the teacher's unit embeddings, (E,).
    """

    count: Tensor
    cosine: Tensor
    agreement: Tensor
    mean: Tensor

    def figures(self) -> dict[str, float]:
        """What :attr:`AlignHead.FIGURES` declares; ``agreement`` only with ``'infonce'``, nothing without a token."""
        count = self.count.item()
        if count == 0:
            return {}
        figures = dict(
            cosine=self.cosine.item() / count,
            spread=1 - (self.mean.double() / count).square().sum().item(),
        )
        agreement = self.agreement.item() / count
        return figures if math.isnan(agreement) else dict(figures, agreement=agreement)


@MODELS.register_module()
class AlignHead(BaseModule):
    """Projects tokens, and pulls the student's towards the teacher's.

    Student and teacher hold a projector each, the student a predictor on top (the structure is BYOL's, section 3.2; MSA
    leaves it open, so it is our choice).

    - ``'infonce'``: a token has to find its own teacher token among those of the joint batch; inter-image
      discrimination, for class tokens (MSA).
    - ``'cosine'``: 1 - cosine; spatial perception, for data tokens (MSA).

    Args:
        in_dims: D.
        loss: ``'infonce'`` or ``'cosine'``.
        num_layers: Layers of the projector.
        hidden_dims: Hidden width of projector and predictor.
        out_dims: E.
        temperature: Of ``'infonce'``; 0.2 is MoCo v3's (section 3).
        norm: ``'batch'`` standardises each channel of student's and teacher's embeddings over all tokens of the joint
            batch before they are L2-normalised, without affine parameters, as the batch normalisation at the end of
            MoCo v3's projector does; ``'none'`` does not (our choice).
        init_cfg: Initialisation.
    """

    FIGURES: ClassVar[dict[str, Figure]] = dict(
        cosine=Figure('cosine', ALIGNMENT),
        spread=Figure('spread', ALIGNMENT, (0.02, None), ADVICE, dashed=True, column='spread'),
        agreement=Figure('recognised', RECOGNITION),
    )
    """Cosine: mean between student and teacher. Spread: 1 minus the squared length of the teacher's mean unit
    embedding; 0 if all are the same. Agreement: share of the tokens whose own teacher token is the nearest
    (``'infonce'`` only)."""

    @checked('align_head')
    def __init__(
        self,
        in_dims: Count,
        loss: Literal['infonce', 'cosine'],
        num_layers: Count = 2,
        hidden_dims: Count = 2048,
        out_dims: Count = 256,
        temperature: Positive = 0.2,
        norm: Literal['none', 'batch'] = 'none',
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(init_cfg)
        self.in_dims = in_dims
        self.norm = norm
        self.loss_type = loss
        self.temperature = temperature
        self.projector = mlp([in_dims] + [hidden_dims] * (num_layers - 1) + [out_dims])
        self.predictor = mlp([out_dims, hidden_dims, out_dims])

    def init_weights(self) -> None:
        """Truncated normal weights whose outputs keep the inputs' variance, zero biases."""
        super().init_weights()
        if loads_weights(self.init_cfg):
            return  # they stay as they are
        keep_variance(self)

    def embed(self, tokens: Tensor) -> Tensor:
        """A teacher's part: (L', D) -> unit embeddings in fp32, (L', E)."""
        return self._unit(self.projector(tokens))

    def forward(self, tokens: Tensor) -> Tensor:
        """The student's part: predictions of the teacher's embeddings, (L, D) -> unit vectors in fp32, (L, E)."""
        return self._unit(self.predictor(self.projector(tokens)))

    def _unit(self, embeddings: Tensor) -> Tensor:
        if self.norm != 'none':
            check_members('align_head.norm', self.norm, len(embeddings), 'tokens', "'none'")
        return unit_vectors(embeddings.float(), self.norm)

    def loss(
        self,
        tokens: Tensor,
        target: Tensor,
        rows: Tensor,
        keep: Tensor | None = None,
        with_stats: bool = False,
    ) -> tuple[Tensor, AlignStats | None]:
        """Mean loss over tokens.

        Args:
            tokens: Tokens of the student, (L, D).
            target: The teacher's unit embeddings, (L', E), as many in every process. With ``'infonce'`` those of all
                processes are what a token is searched among, so none may be there twice.
            rows: Row of ``target`` that each token belongs to, (L,); several masks of an image share rows.
            keep: Tokens that have a counterpart, (L,) bool; the others count for nothing. None stands for all.
            with_stats: Also sum up what the health is read from.

        Returns:
            The loss (), and the sums. Over several processes the mean of their losses is the loss of the joint batch,
            also where they keep unequal numbers of tokens.
        """
        for name, given in (('rows', rows), ('keep', keep)):
            if given is not None and given.shape != tokens.shape[:1]:
                raise ValueError(
                    f'`{name}` must have one entry for each of the {tokens.shape[0]} tokens, '
                    f'but got the shape {tuple(given.shape)}'
                )
        if self.loss_type == 'infonce':
            check_members('align_head.loss', 'infonce', len(target), 'images', '`loss_weights` with align_cls=0')
        pred = self(tokens)
        with torch.autocast(pred.device.type, enabled=False):
            own = target[rows]
            cosine = (pred * own).sum(-1)
            if self.loss_type == 'infonce':
                everyone = global_concat(target)
                logits = pred @ everyone.t() / self.temperature
                index = rows + get_rank() * len(target)
                per_token = F.cross_entropy(logits, index, reduction='none')
                nearest = (logits.detach().argmax(-1) == index).to(cosine)
            else:
                per_token = 1 - cosine
                nearest = torch.full_like(cosine, math.nan)
            weight = torch.ones_like(per_token) if keep is None else keep.to(per_token)
            loss = per_token.mean() if keep is None else _joint_mean(per_token, weight)
            stats = None
            if with_stats:
                with torch.no_grad():
                    stats = AlignStats(
                        count=weight.sum(),
                        cosine=(cosine * weight).sum(),
                        agreement=(nearest * weight).sum(),
                        mean=(own * weight[:, None]).sum(0),
                    )
        return loss, stats


def _joint_mean(values: Tensor, weight: Tensor) -> Tensor:
    """Weighted mean over all processes, scaled so that the mean over processes of what they return is it."""
    count = global_sum(torch.stack((weight.sum(), weight.new_ones(()))))  # weights, and processes
    return (values * weight).sum() * count[1] / count[0].clamp_min(1)
