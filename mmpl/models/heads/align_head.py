"""The alignment head: how far the student's tokens are from the teacher's view of the same image or place."""

import math
from typing import NamedTuple

import torch
from mmengine.dist import get_rank
from mmengine.model import BaseModule
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812
from torch.nn.init import trunc_normal_

from mmpl.models.standardise import unit_vectors
from mmpl.registry import MODELS
from mmpl.utils.dist import global_concat, global_sum
from mmpl.utils.fields import check_choice, check_number

ALIGN_LOSSES = ('infonce', 'cosine')
ALIGN_NORMS = ('none', 'batch')


class AlignStats(NamedTuple):
    """Sums over tokens from which the health of an alignment is read.

    Attributes:
        count (Tensor): Number of tokens, ().
        cosine (Tensor): Sum of the cosines between student and teacher, ().
        agreement (Tensor): Tokens whose own teacher token is the nearest of
            all, (); NaN with ``'cosine'``, which compares no other token.
        mean (Tensor): Sum of the teacher's unit embeddings, (E,).
    """

    count: Tensor
    cosine: Tensor
    agreement: Tensor
    mean: Tensor

    def figures(self) -> dict[str, float]:
        """``cosine``, ``spread``, and with ``'infonce'`` ``agreement``; nothing without a token.

        ``spread`` is 1 minus the squared length of the mean unit embedding: 0
        means that all tokens have one embedding (collapse).
        """
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

    Student and teacher hold a projector each, the student a predictor on top
    (the structure is BYOL's, section 3.2; MSA leaves it open, so it is our
    choice). D token dims, E dims of an embedding.

    - ``'infonce'``: a token has to find its own teacher token among those of
      the joint batch; inter-image discrimination, for class tokens (MSA).
    - ``'cosine'``: 1 - cosine; spatial perception, for data tokens (MSA).

    Args:
        in_dims (int): D.
        loss (str): ``'infonce'`` or ``'cosine'``.
        num_layers (int): Layers of the projector. Defaults to 2.
        hidden_dims (int): Hidden width of projector and predictor. Defaults
            to 2048.
        out_dims (int): E. Defaults to 256.
        temperature (float): Of ``'infonce'``, above 0. Defaults to 0.2 (MoCo
            v3, section 3).
        norm (str): ``'batch'`` standardises each channel of student's and
            teacher's embeddings over all tokens of the joint batch before they
            are L2-normalised, without affine parameters, as the batch
            normalisation at the end of MoCo v3's projector does; ``'none'``
            does not (our choice). Defaults to ``'none'``.
        init_cfg (dict, optional): Initialisation.

    Raises:
        TypeError: If a field has the wrong type.
        ValueError: If a field is outside of what is allowed.
    """

    def __init__(
        self,
        in_dims: int,
        loss: str,
        num_layers: int = 2,
        hidden_dims: int = 2048,
        out_dims: int = 256,
        temperature: float = 0.2,
        norm: str = 'none',
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(init_cfg)
        check_choice('align_head.loss', loss, ALIGN_LOSSES)
        sizes = dict(in_dims=in_dims, num_layers=num_layers, hidden_dims=hidden_dims, out_dims=out_dims)
        for field, value in sizes.items():
            check_number(f'align_head.{field}', value, 1, integer=True)
        check_number('align_head.temperature', temperature, 0, open_minimum=True)
        check_choice('align_head.norm', norm, ALIGN_NORMS)
        self.in_dims = in_dims
        self.norm = norm
        self.loss_type = loss
        self.temperature = temperature
        self.projector = self._mlp([in_dims] + [hidden_dims] * (num_layers - 1) + [out_dims])
        self.predictor = self._mlp([out_dims, hidden_dims, out_dims])

    @staticmethod
    def _mlp(dims: list[int]) -> nn.Sequential:
        layers: list[nn.Module] = []
        for index in range(len(dims) - 1):
            layers += [nn.GELU()] if index else []
            layers += [nn.Linear(dims[index], dims[index + 1])]
        return nn.Sequential(*layers)

    def init_weights(self) -> None:
        """Truncated normal weights whose outputs keep the inputs' variance, zero biases."""
        super().init_weights()
        for module in self.modules():
            if isinstance(module, nn.Linear):
                trunc_normal_(module.weight, std=module.in_features**-0.5)
                nn.init.zeros_(module.bias)

    def embed(self, tokens: Tensor) -> Tensor:
        """A teacher's part: unit embeddings in fp32.

        Args:
            tokens (Tensor): (L, D).

        Returns:
            Tensor: (L, E).
        """
        return unit_vectors(self.projector(tokens).float(), self.norm)

    def forward(self, tokens: Tensor) -> Tensor:
        """The student's part: predictions of the teacher's embeddings, (L, D) -> unit vectors (L, E) in fp32."""
        return unit_vectors(self.predictor(self.projector(tokens)).float(), self.norm)

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
            tokens (Tensor): Tokens of the student, (L, D).
            target (Tensor): The teacher's unit embeddings, (L', E), as many in
                every process. With ``'infonce'`` those of all processes are
                what a token is searched among, so none may be there twice.
            rows (Tensor): Row of ``target`` that each token belongs to, (L,);
                several masks of an image share rows.
            keep (Tensor, optional): Tokens that have a counterpart, (L,) bool;
                the others count for nothing. None stands for all.
            with_stats (bool): Also sum up what the health is read from.

        Returns:
            tuple[Tensor, AlignStats | None]: The loss (), and the sums. Over
            several processes the mean of their losses is the loss of the joint
            batch, also where they keep unequal numbers of tokens.

        Raises:
            ValueError: If there are not as many ``rows``, or as many ``keep``,
                as tokens.
        """
        for name, given in (('rows', rows), ('keep', keep)):
            if given is not None and given.shape != tokens.shape[:1]:
                raise ValueError(
                    f'`{name}` must have one entry for each of the {tokens.shape[0]} tokens, '
                    f'but got the shape {tuple(given.shape)}'
                )
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
