"""The labelling head: projector, prototypes and the cross-entropy with a teacher's labels.

Shape legend: L tokens, D token dims, E bottleneck dims, K prototypes.
"""

import math
from collections.abc import Callable
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

import torch
from mmengine.model import BaseModule
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F  # noqa: N812
from torch.nn.init import trunc_normal_

from mmpl.checkpoints.strict_pretrained import loads_weights
from mmpl.models.assignment import Assignment, Centering, PseudoLabels, Sinkhorn, products
from mmpl.models.masking import count_each, gather_tokens
from mmpl.models.standardise import check_members, unit_vectors
from mmpl.registry import MODELS
from mmpl.utils.fields import Count, Interval, Positive, Share, checked
from mmpl.utils.figures import Chart, Figure

from .mlp import mlp

ENTROPY = Chart(
    'Entropy of the labels',
    'Of one image (solid: low is sure) and of the batch average (dashed: high means many labels are in use); '
    'both near 0, or both near 1, mean collapse.',
    'entropy / log K',
)
USE = Chart(
    'Use and agreement of the labels',
    'Share of prototypes that are used (solid) and how often student and teacher choose the same one (dashed); '
    'usage that falls towards 0 means collapse.',
    'share',
)
ADVICE = (
    "Try a lower `teacher_temp`, `assignment='sinkhorn'`, `teacher_norm='batch'`, fewer `num_prototypes` or a lower "
    'learning rate.'
)


class LabelStats(NamedTuple):
    """Sums over tokens from which the health of the labels is read.

    Attributes:
        count: Number of tokens, ().
        entropy: Sum of the assignments' entropies in nats, ().
        agreement: Tokens where teacher and student choose the same prototype, ().
        probs: Sum of the assignments, (K,).
        hits: Tokens whose first choice a prototype is, (K,).
    """

    count: Tensor
    entropy: Tensor
    agreement: Tensor
    probs: Tensor
    hits: Tensor

    def figures(self) -> dict[str, float]:
        """What :attr:`PseudoLabelHead.FIGURES` declares, each in [0, 1]."""
        count, num_prototypes = self.count.item(), len(self.probs)
        marginal = self.probs.double() / self.probs.double().sum()
        return dict(
            entropy_mean=self.entropy.item() / count / math.log(num_prototypes),
            entropy_marginal=-(marginal * marginal.clamp_min(1e-30).log()).sum().item() / math.log(num_prototypes),
            usage=(self.hits > 0).sum().item() / min(num_prototypes, count),
            agreement=self.agreement.item() / count,
        )


@MODELS.register_module()
class PseudoLabelHead(BaseModule):
    """Projects tokens onto prototypes and learns a teacher's assignments.

    Student and labelling teacher hold one each. Structure and defaults are our choice, after DINO's head: an MLP with
    GELU, an L2-normalised bottleneck and weight-normalised prototypes.

    Args:
        in_dims: D.
        num_prototypes: K.
        num_layers: Layers of the MLP.
        hidden_dims: Hidden width of the MLP.
        bottleneck_dims: E.
        student_temp: T_s.
        teacher_temp: T_t after the warm-up.
        warmup_teacher_temp: T_t at the start, at most ``teacher_temp``.
        warmup_ratio: Share of the run in which T_t rises, linearly.
        assignment: ``'centering'`` (a running centre is subtracted) or ``'sinkhorn'`` (prototypes take equal shares of
            the joint batch).
        center_momentum: Momentum of the centre.
        sinkhorn_iters: Iterations of ``'sinkhorn'``.
        teacher_norm: Standardise the teacher's embeddings before they are L2-normalised, without affine parameters:
            ``'batch'`` (each channel over all tokens of the joint batch), ``'position'`` (each channel at each place by
            itself, so that no label can tell the place alone) or ``'none'``. Embeddings of a young encoder differ
            little from token to token; without this their labels are nearly uniform (our choice).
        student_norm: The same for the student's embeddings: ``'batch'``, with gradients through the statistics, or
            ``'none'``. It does what batch normalisation does in the projectors of SimCLR and MoCo v3: tokens are told
            apart from the first step on (our choice).
        chunk_size: Tokens whose K logits are held at once, see :class:`ChunkedCrossEntropy`; ``'sinkhorn'`` computes
            them again in each iteration. None holds all, until after the backward pass.
        logits_dtype: What embeddings and prototypes are rounded to before their products, for the labels, the loss and
            its gradient: ``'bfloat16'`` lets a GPU use its tensor cores, and a CPU oneDNN's products. Sums, softmax,
            statistics and gradients stay in fp32 (our choice).
        init_cfg: Initialisation.
    """

    FIGURES: ClassVar[dict[str, Figure]] = dict(
        entropy_mean=Figure('per token', ENTROPY, (None, 0.98), ADVICE),
        entropy_marginal=Figure(
            'batch mean', ENTROPY, (0.1, None), ADVICE, dashed=True, column='entropy of the mean label'
        ),
        usage=Figure('prototypes used', USE, (0.02, None), ADVICE, column='prototypes in use'),
        agreement=Figure('agreement', USE, dashed=True),
    )
    """Of the assignments, where 0 to 1 is the whole range. The entropies are divided by log K: a mean near 1 means that
    labels say nothing (at 0.98 a label is as broad as 84 % of 8,192 prototypes, or 88 % of 512; the runs of
    docs/evidence.md end at 0.08 to 0.49), a marginal one near 0 that all tokens have one label. Usage is the share of
    the prototypes that are some token's first choice (of those that could be: K, or the tokens if they are fewer)."""

    @checked('label_head')
    def __init__(
        self,
        in_dims: Count,
        num_prototypes: Annotated[int, Interval(2)] = 8192,
        num_layers: Count = 3,
        hidden_dims: Count = 2048,
        bottleneck_dims: Count = 256,
        student_temp: Positive = 0.1,
        teacher_temp: Positive = 0.07,
        warmup_teacher_temp: Positive = 0.04,
        warmup_ratio: Share = 0.1,
        assignment: Assignment = 'centering',
        center_momentum: Share = 0.9,
        sinkhorn_iters: Count = 3,
        teacher_norm: Literal['none', 'batch', 'position'] = 'none',
        student_norm: Literal['none', 'batch'] = 'none',
        chunk_size: Count | None = None,
        logits_dtype: Literal['float32', 'bfloat16'] = 'float32',
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(init_cfg)
        if warmup_teacher_temp > teacher_temp:
            raise ValueError(
                f'`label_head.warmup_teacher_temp`, the start of the schedule, must be at most its end `teacher_temp` '
                f'{teacher_temp}, but got {warmup_teacher_temp}'
            )
        self.in_dims = in_dims
        self.num_prototypes = num_prototypes
        self.student_temp = student_temp
        self.teacher_temp = teacher_temp
        self.warmup_teacher_temp = warmup_teacher_temp
        self.warmup_ratio = warmup_ratio
        self.assignment = assignment
        self.center_momentum = center_momentum
        self.sinkhorn_iters = sinkhorn_iters
        self.teacher_norm = teacher_norm
        self.student_norm = student_norm
        self.chunk_size = chunk_size
        self.logits_dtype: torch.dtype = getattr(torch, logits_dtype)
        self.projector = mlp([in_dims] + [hidden_dims] * (num_layers - 1) + [bottleneck_dims])
        self.prototypes = nn.Parameter(torch.empty(num_prototypes, bottleneck_dims))

    def init_weights(self) -> None:
        """Truncated normal weights of std 0.02, zero biases, prototypes on the unit sphere."""
        super().init_weights()
        if loads_weights(self.init_cfg):
            return  # they stay as they are
        for module in self.projector:
            if isinstance(module, nn.Linear):
                trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)
        nn.init.normal_(self.prototypes)
        self.prototypes.data = F.normalize(self.prototypes.data, dim=-1)

    def build_assigner(self) -> Centering | Sinkhorn:
        """What balances the labels of a teacher; it holds the running centre, if there is one."""
        if self.assignment == 'centering':
            return Centering(self.num_prototypes, self.center_momentum)
        return Sinkhorn(self.sinkhorn_iters, self.chunk_size)

    def teacher_temp_at(self, progress: float) -> float:
        """T_t when a share ``progress`` of the run, in [0, 1], is done."""
        warmed = min(1.0, progress / self.warmup_ratio) if self.warmup_ratio else 1.0
        return self.warmup_teacher_temp + warmed * (self.teacher_temp - self.warmup_teacher_temp)

    def forward(self, tokens: Tensor) -> Tensor:
        """Embed tokens; the student's part: (..., D) -> unit vectors in fp32, (L, E)."""
        flat = tokens.flatten(0, -2)
        if self.student_norm != 'none':
            check_members('label_head.student_norm', self.student_norm, len(flat), 'tokens', "'none'")
        return unit_vectors(self.projector(flat).float(), self.student_norm)

    def _project_at(self, tokens: Tensor, ids: Tensor | None) -> Tensor:
        """Project the tokens that ``ids`` names, each only once if that is fewer, (tokens, E) in fp32."""
        if ids is not None and ids.numel() < tokens.shape[:2].numel():
            tokens, ids = gather_tokens(tokens, ids), None
        projected = self.projector(tokens.flatten(0, -2)).float()
        return projected if ids is None else gather_tokens(projected.view(*tokens.shape[:2], -1), ids).flatten(0, 1)

    def unit_prototypes(self) -> Tensor:
        """The prototypes as unit vectors, (K, E)."""
        return F.normalize(self.prototypes.float(), dim=-1)

    def label(
        self,
        tokens: Tensor,
        assigner: Centering | Sinkhorn,
        progress: float,
        ids: Tensor | None = None,
        places: Tensor | None = None,
        num_places: int = 1,
    ) -> PseudoLabels:
        """Label tokens; a teacher's part.

        Args:
            tokens: (..., D); with ``ids`` (B, N, D).
            assigner: From :meth:`build_assigner`.
            progress: Share of the run that is done, in [0, 1].
            ids: Which of the tokens to label, (B·R, L).
            places: Patch of each token that is labelled, (...); class tokens have none.
            num_places: N, if there are ``places``.

        Returns:
            One row a token, or with ``ids`` one a place.

        Raises:
            ValueError: What is compared with others has no other in the joint batch.
        """
        projected = self._project_at(tokens, ids)
        by_place = self.teacher_norm == 'position' and places is not None
        if self.teacher_norm != 'none':
            members, of = (len(tokens), 'images') if by_place else (len(projected), 'tokens')
            check_members('label_head.teacher_norm', self.teacher_norm, members, of, "'none'")
        if self.assignment == 'sinkhorn':
            check_members('label_head.assignment', 'sinkhorn', len(projected), 'tokens', "'centering'")
        embeddings = unit_vectors(projected, self.teacher_norm, places, num_places).to(self.logits_dtype)
        prototypes = self.unit_prototypes().to(self.logits_dtype)
        temperature = self.teacher_temp_at(progress)
        with torch.autocast(embeddings.device.type, enabled=False):
            return PseudoLabels(embeddings, prototypes, temperature, assigner(embeddings, prototypes, temperature))

    def loss(self, tokens: Tensor, labels: PseudoLabels, with_stats: bool = False) -> tuple[Tensor, LabelStats | None]:
        """Mean cross-entropy between labels p and softmax(logits / T_s) over tokens.

        Args:
            tokens: Tokens of the student, (..., D).
            labels: One row for each of them.
            with_stats: Also sum up what the labels' health is read from.
        """
        embeddings, prototypes = self(tokens), self.unit_prototypes()
        count = embeddings.shape[0]
        if labels.embeddings.shape[0] != count:
            raise ValueError(f'{count} tokens cannot learn {labels.embeddings.shape[0]} labels: there must be as many')
        with torch.autocast(embeddings.device.type, enabled=False):
            if self.chunk_size is None and self.logits_dtype == torch.float32:
                logits = embeddings @ prototypes.t() / self.student_temp
                with torch.no_grad():
                    probs = labels.probs()
                total = -(probs * F.log_softmax(logits, dim=-1)).sum()
                stats = self._stats(probs, logits.detach()) if with_stats else None
            else:
                total, stats = self._chunked_loss(embeddings, prototypes, labels, with_stats)
        return total / count, stats

    def _chunked_loss(
        self, embeddings: Tensor, prototypes: Tensor, labels: PseudoLabels, with_stats: bool
    ) -> tuple[Tensor, LabelStats | None]:
        """Sum of the cross-entropies, never holding the logits of more than ``chunk_size`` tokens."""
        stats: list[LabelStats] = []
        note = (lambda probs, logits: stats.append(self._stats(probs, logits))) if with_stats else None
        size = self.chunk_size or len(embeddings)
        total = ChunkedCrossEntropy.apply(
            embeddings, prototypes, labels, self.student_temp, size, self.logits_dtype, note
        )
        if not with_stats:
            return total, None
        return total, LabelStats(*(torch.stack(sums).sum(0) for sums in zip(*stats, strict=True)))

    @torch.no_grad()
    def _stats(self, probs: Tensor, logits: Tensor) -> LabelStats:
        choice = probs.argmax(-1)
        return LabelStats(
            count=probs.new_full((), probs.shape[0]),
            entropy=torch.special.entr(probs).sum(),
            agreement=(choice == logits.argmax(-1)).sum().to(probs),
            probs=probs.sum(0),
            hits=count_each(choice, self.num_prototypes).to(probs),
        )


def sum_of_products(a: Tensor, b: Tensor) -> Tensor:
    """Sum of a * b of two matrices, ()."""
    if a.numel() <= 2**16:
        return torch.dot(a.flatten(), b.flatten())
    return torch.einsum('lk,lk->l', a, b).sum()  # on a CPU torch.dot loses four digits over millions of products


class ChunkedCrossEntropy(torch.autograd.Function):
    """Sum over tokens of the cross-entropy of labels p and q = softmax(Z W^T / T_s), with its gradients at once.

    The gradient by the logits is (q - p) / T_s, so each chunk of tokens adds its part to the gradients by Z and W while
    its logits are there: nothing is kept of them and nothing is computed again in the backward pass.
    """

    @staticmethod
    def forward(
        ctx: Any,
        embeddings: Tensor,
        prototypes: Tensor,
        labels: PseudoLabels,
        temperature: float,
        chunk_size: int,
        dtype: torch.dtype,
        note: Callable[[Tensor, Tensor], None] | None,
    ) -> Tensor:
        """Sum of the cross-entropies, ().

        Args:
            ctx: Of autograd.
            embeddings: Z, (L, E).
            prototypes: W, (K, E).
            labels: p, one row for each of the L tokens.
            temperature: T_s.
            chunk_size: Tokens at once.
            dtype: What the factors of each product are rounded to.
            note: Called with p and the logits of each chunk.
        """
        needed = ctx.needs_input_grad[:2]
        by_embeddings = torch.empty_like(embeddings) if needed[0] else None
        by_prototypes = torch.zeros_like(prototypes) if needed[1] else None
        total = embeddings.new_zeros(())
        embeddings, prototypes = embeddings.to(dtype), prototypes.to(dtype)
        # fresh memory for each chunk would cost a CPU a third of the time
        room = total.new_empty(2, min(chunk_size, len(embeddings)), len(prototypes))
        for start in range(0, len(embeddings), chunk_size):
            rows = slice(start, start + chunk_size)
            room_for_logits, room_for_probs = room[:, : len(embeddings[rows])]
            probs = labels.probs(rows, room_for_logits, room_for_probs)
            logits = products(embeddings[rows], prototypes.t(), out=room_for_logits).div_(temperature)
            if note is not None:
                note(probs, logits)
            top = logits.amax(-1, keepdim=True)
            weighted = sum_of_products(probs, logits)
            sums = logits.sub_(top).exp_().sum(-1, keepdim=True)
            total += (top + sums.log()).sum() - weighted  # each row of p sums to 1
            if any(needed):
                residual = logits.div_(sums).sub_(probs).div_(temperature).to(dtype)
                if by_embeddings is not None:
                    by_embeddings[rows] = products(residual, prototypes)
                if by_prototypes is not None:
                    by_prototypes = products(residual.t(), embeddings[rows], by_prototypes)
        ctx.save_for_backward(by_embeddings, by_prototypes)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients by the embeddings and the prototypes."""
        by_embeddings, by_prototypes = ctx.saved_tensors
        return (
            None if by_embeddings is None else by_embeddings * grad,
            None if by_prototypes is None else by_prototypes * grad,
            *[None] * 5,
        )
