"""The labelling head: projector, prototypes and the cross-entropy with a teacher's labels."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from mmengine.model import BaseModule
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F  # noqa: N812
from torch.nn.init import trunc_normal_

from mmpl.models.assignment import ASSIGNMENTS, Centering, PseudoLabels, Sinkhorn
from mmpl.models.masking import gather_tokens
from mmpl.models.standardise import unit_vectors
from mmpl.registry import MODELS
from mmpl.utils.fields import check_choice, check_number

TEACHER_NORMS = ('none', 'batch', 'position')
STUDENT_NORMS = ('none', 'batch')


class LabelStats(NamedTuple):
    """Sums over tokens from which the health of the labels is read.

    Attributes:
        count (Tensor): Number of tokens, ().
        entropy (Tensor): Sum of the assignments' entropies in nats, ().
        agreement (Tensor): Tokens where teacher and student choose the same
            prototype, ().
        probs (Tensor): Sum of the assignments, (K,).
        hits (Tensor): Tokens whose first choice a prototype is, (K,).
    """

    count: Tensor
    entropy: Tensor
    agreement: Tensor
    probs: Tensor
    hits: Tensor

    def figures(self) -> dict[str, float]:
        """Figures that tell whether labels have collapsed, each in [0, 1].

        ``entropy_mean``, ``entropy_marginal``, ``usage`` and ``agreement``;
        see :class:`mmpl.engine.DualTeacherHook`.
        """
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

    Student and labelling teacher hold one each. K prototypes, E bottleneck
    dims, D token dims. Structure and defaults are our choice, after DINO's
    head: an MLP with GELU, an L2-normalised bottleneck and weight-normalised
    prototypes.

    Args:
        in_dims (int): D.
        num_prototypes (int): K, at least 2. Defaults to 8192.
        num_layers (int): Layers of the MLP. Defaults to 3.
        hidden_dims (int): Hidden width of the MLP. Defaults to 2048.
        bottleneck_dims (int): E. Defaults to 256.
        student_temp (float): T_s, above 0. Defaults to 0.1.
        teacher_temp (float): T_t after the warm-up, above 0. Defaults to 0.07.
        warmup_teacher_temp (float): T_t at the start, at most
            ``teacher_temp``. Defaults to 0.04.
        warmup_ratio (float): Share of the run in which T_t rises, linearly.
            Defaults to 0.1.
        assignment (str): ``'centering'`` (a running centre is subtracted) or
            ``'sinkhorn'`` (prototypes take equal shares of the joint batch).
            Defaults to ``'centering'``.
        center_momentum (float): Momentum of the centre, in [0, 1]. Defaults to
            0.9.
        sinkhorn_iters (int): Iterations of ``'sinkhorn'``. Defaults to 3.
        teacher_norm (str): Standardise the teacher's embeddings before they are
            L2-normalised, without affine parameters: ``'batch'`` (each channel
            over all tokens of the joint batch), ``'position'`` (each channel
            at each place by itself, so that no label can tell the place
            alone) or ``'none'``. Embeddings of a young encoder differ little
            from token to token; without this their labels are nearly uniform
            (our choice). Defaults to ``'none'``.
        student_norm (str): The same for the student's embeddings: ``'batch'``,
            with gradients through the statistics, or ``'none'``. It does what
            batch normalisation does in the projectors of SimCLR and MoCo v3:
            tokens are told apart from the first step on (our choice). Defaults
            to ``'none'``.
        chunk_size (int, optional): Tokens whose K logits are held at once,
            see :class:`ChunkedCrossEntropy`; ``'sinkhorn'`` computes them
            again in each iteration. None holds all, until after the backward
            pass. Defaults to None.
        init_cfg (dict, optional): Initialisation.

    Raises:
        TypeError: If a field has the wrong type.
        ValueError: If a field is outside of what is allowed.
    """

    def __init__(
        self,
        in_dims: int,
        num_prototypes: int = 8192,
        num_layers: int = 3,
        hidden_dims: int = 2048,
        bottleneck_dims: int = 256,
        student_temp: float = 0.1,
        teacher_temp: float = 0.07,
        warmup_teacher_temp: float = 0.04,
        warmup_ratio: float = 0.1,
        assignment: str = 'centering',
        center_momentum: float = 0.9,
        sinkhorn_iters: int = 3,
        teacher_norm: str = 'none',
        student_norm: str = 'none',
        chunk_size: int | None = None,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(init_cfg)
        sizes = dict(in_dims=in_dims, num_layers=num_layers, hidden_dims=hidden_dims, bottleneck_dims=bottleneck_dims)
        for field, value in sizes.items():
            check_number(f'label_head.{field}', value, 1, integer=True)
        check_number('num_prototypes', num_prototypes, 2, integer=True)
        temperatures = dict(
            student_temp=student_temp, teacher_temp=teacher_temp, warmup_teacher_temp=warmup_teacher_temp
        )
        for field, temperature in temperatures.items():
            check_number(field, temperature, 0, open_minimum=True)
        if warmup_teacher_temp > teacher_temp:
            raise ValueError(
                f'`warmup_teacher_temp`, the start of the schedule, must be at most its end `teacher_temp` '
                f'{teacher_temp}, but got {warmup_teacher_temp}'
            )
        check_number('warmup_ratio', warmup_ratio, 0, 1)
        check_choice('assignment', assignment, ASSIGNMENTS)
        check_number('center_momentum', center_momentum, 0, 1)
        check_number('sinkhorn_iters', sinkhorn_iters, 1, integer=True)
        check_choice('label_head.teacher_norm', teacher_norm, TEACHER_NORMS)
        check_choice('label_head.student_norm', student_norm, STUDENT_NORMS)
        if chunk_size is not None:
            check_number('chunk_size', chunk_size, 1, integer=True)
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

        dims = [in_dims] + [hidden_dims] * (num_layers - 1) + [bottleneck_dims]
        layers: list[nn.Module] = []
        for index in range(num_layers):
            layers += [nn.GELU()] if index else []
            layers += [nn.Linear(dims[index], dims[index + 1])]
        self.projector = nn.Sequential(*layers)
        self.prototypes = nn.Parameter(torch.empty(num_prototypes, bottleneck_dims))

    def init_weights(self) -> None:
        """Truncated normal weights of std 0.02, zero biases, prototypes on the unit sphere."""
        super().init_weights()
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
        """T_t at a point of the run.

        Args:
            progress (float): Share of the run that is done, in [0, 1].

        Returns:
            float: From ``warmup_teacher_temp`` to ``teacher_temp``.
        """
        warmed = min(1.0, progress / self.warmup_ratio) if self.warmup_ratio else 1.0
        return self.warmup_teacher_temp + warmed * (self.teacher_temp - self.warmup_teacher_temp)

    def forward(self, tokens: Tensor) -> Tensor:
        """Embed tokens; the student's part.

        Args:
            tokens (Tensor): (..., D).

        Returns:
            Tensor: Unit vectors in fp32, (tokens, E).
        """
        return unit_vectors(self.projector(tokens.flatten(0, -2)).float(), self.student_norm)

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
            tokens (Tensor): (..., D); with ``ids`` (B, N, D).
            assigner (Centering | Sinkhorn): From :meth:`build_assigner`.
            progress (float): Share of the run that is done, in [0, 1].
            ids (Tensor, optional): Which of the tokens to label, (B·R, L).
            places (Tensor, optional): Patch of each token that is labelled,
                (...); class tokens have none.
            num_places (int): N, if there are ``places``.

        Returns:
            PseudoLabels: One row a token, or with ``ids`` one a place.
        """
        embeddings = unit_vectors(self._project_at(tokens, ids), self.teacher_norm, places, num_places)
        prototypes = self.unit_prototypes()
        temperature = self.teacher_temp_at(progress)
        with torch.autocast(embeddings.device.type, enabled=False):
            return PseudoLabels(embeddings, prototypes, temperature, assigner(embeddings, prototypes, temperature))

    def loss(self, tokens: Tensor, labels: PseudoLabels, with_stats: bool = False) -> tuple[Tensor, LabelStats | None]:
        """Mean cross-entropy between labels p and softmax(logits / T_s) over tokens.

        Args:
            tokens (Tensor): Tokens of the student, (..., D).
            labels (PseudoLabels): One row for each of them.
            with_stats (bool): Also sum up what the labels' health is read from.

        Returns:
            tuple[Tensor, LabelStats | None]: The loss (), and the sums.

        Raises:
            ValueError: If there are not as many labels as tokens.
        """
        embeddings, prototypes = self(tokens), self.unit_prototypes()
        count = embeddings.shape[0]
        if labels.embeddings.shape[0] != count:
            raise ValueError(f'{count} tokens cannot learn {labels.embeddings.shape[0]} labels: there must be as many')
        with torch.autocast(embeddings.device.type, enabled=False):
            if self.chunk_size is None:
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
        look = (lambda probs, logits: stats.append(self._stats(probs, logits))) if with_stats else None
        assert self.chunk_size is not None
        total = ChunkedCrossEntropy.apply(embeddings, prototypes, labels, self.student_temp, self.chunk_size, look)
        if not with_stats:
            return total, None
        return total, LabelStats(*(torch.stack(sums).sum(0) for sums in zip(*stats, strict=True)))

    @torch.no_grad()
    def _stats(self, probs: Tensor, logits: Tensor) -> LabelStats:
        choice = probs.argmax(-1)
        return LabelStats(
            count=probs.new_tensor(probs.shape[0]),
            entropy=torch.special.entr(probs).sum(),
            agreement=(choice == logits.argmax(-1)).sum().to(probs),
            probs=probs.sum(0),
            hits=torch.bincount(choice, minlength=self.num_prototypes).to(probs),
        )


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
        look: Callable[[Tensor, Tensor], None] | None,
    ) -> Tensor:
        """Sum of the cross-entropies.

        Args:
            ctx: Of autograd.
            embeddings (Tensor): Z, (L, E).
            prototypes (Tensor): W, (K, E).
            labels (PseudoLabels): p, one row for each of the L tokens.
            temperature (float): T_s.
            chunk_size (int): Tokens at once.
            look (Callable, optional): Called with p and the logits of each
                chunk.

        Returns:
            Tensor: ().
        """
        needed = ctx.needs_input_grad[:2]
        by_embeddings = torch.empty_like(embeddings) if needed[0] else None
        by_prototypes = torch.zeros_like(prototypes) if needed[1] else None
        total = embeddings.new_zeros(())
        for start in range(0, len(embeddings), chunk_size):
            rows = slice(start, start + chunk_size)
            logits = (embeddings[rows] @ prototypes.t()).div_(temperature)
            probs = labels.probs(rows)
            if look is not None:
                look(probs, logits)
            normaliser = logits.logsumexp(-1, keepdim=True)
            total += normaliser.sum() - torch.dot(probs.flatten(), logits.flatten())  # each row of p sums to 1
            if any(needed):
                residual = logits.sub_(normaliser).exp_().sub_(probs).div_(temperature)
                if by_embeddings is not None:
                    by_embeddings[rows] = residual @ prototypes
                if by_prototypes is not None:
                    by_prototypes.addmm_(residual.t(), embeddings[rows])
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
            None,
            None,
            None,
            None,
        )
