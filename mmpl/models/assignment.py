"""From a teacher's logits to pseudo labels.

Both assignments end in the same form: per token a softmax over the prototypes of ``logits / temperature + shift``,
where ``shift`` is one number a prototype. Labels can therefore be made a few rows at a time, see :class:`PseudoLabels`.

Shape legend: L tokens, E bottleneck dims, K prototypes.
"""

import functools
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal, NamedTuple

import torch
from mmengine.utils import digit_version
from torch import Tensor, nn

from mmpl.utils.dist import global_logsumexp, global_sum
from mmpl.utils.fields import Count, checked

Assignment = Literal['centering', 'sinkhorn']


_FACTORS = threading.Lock()  # the setting below is the process's


def products(rows: Tensor, columns: Tensor, plus: Tensor | None = None, out: Tensor | None = None) -> Tensor:
    """Matrix product in fp32, added to ``plus`` if there is one: (M, J) and (J, N) -> (M, N).

    Of two matrices in bf16 every product is exact and the sums are fp32, as tensor cores compute them; where there are
    none, or torch cannot ask for it, the same is computed in fp32. It is written to ``out``, if there is one.
    """
    both_bf16 = rows.dtype == columns.dtype == torch.bfloat16
    if rows.is_cuda and both_bf16 and _HAS_OUT_DTYPE:
        product = torch.mm(rows, columns, out_dtype=torch.float32, out=out)
        return product if plus is None else product.add_(plus)
    with _leave_to_round(both_bf16 and rows.device.type == 'cpu' and _has_bf16()):
        rows, columns = rows.float(), columns.float()
        return torch.mm(rows, columns, out=out) if plus is None else torch.addmm(plus, rows, columns, out=out)


_HAS_OUT_DTYPE = digit_version(torch.__version__) >= digit_version('2.8')


@functools.cache
def _has_bf16() -> bool:
    """Whether this processor has instructions for bf16, where torch can say so and makes use of them."""
    capabilities: dict[str, Any] = getattr(torch.cpu, 'get_capabilities', dict)()
    return hasattr(torch.backends.mkldnn, 'matmul') and bool(capabilities.get('avx512_bf16'))


@contextmanager
def _leave_to_round(wanted: bool) -> Iterator[None]:
    """Allow a CPU to round the factors of fp32 products to bf16, which changes none that is bf16 already.

    torch hands such products to oneDNN, which multiplies in bf16 where it has a kernel with sums in fp32 (AMX), and has
    a faster one in fp32 elsewhere: half the time on an AMD EPYC of the fifth generation.
    """
    if not wanted:
        yield
        return
    with _FACTORS:
        settings, generic = torch.backends.mkldnn.matmul, torch.backends.mkldnn
        before = settings.fp32_precision
        settings.fp32_precision = 'bf16'
        try:
            yield
        finally:  # what was the general setting's goes on following it
            settings.fp32_precision = 'none' if before == generic.fp32_precision else before


class PseudoLabels(NamedTuple):
    """Soft cluster assignments, made when they are asked for.

    Attributes:
        embeddings: L2-normalised embeddings by the teacher, (L, E), in the precision that the products with the
            prototypes are asked for in.
        prototypes: L2-normalised prototypes of the teacher, (K, E), likewise.
        temperature: T_t.
        shift: Balances the prototypes, (K,).
    """

    embeddings: Tensor
    prototypes: Tensor
    temperature: float
    shift: Tensor

    def probs(self, rows: slice = slice(None), room: Tensor | None = None, out: Tensor | None = None) -> Tensor:
        """The assignments p of some tokens in fp32, (rows, K); each row sums to 1.

        Args:
            rows: Which tokens.
            room: Memory for the logits, (rows, K).
            out: Memory for the assignments, the same shape.
        """
        logits = products(self.embeddings[rows], self.prototypes.t(), out=room)
        return torch.softmax(logits.div_(self.temperature).add_(self.shift), dim=-1, out=out)

    def repeat(self, repeats: int) -> 'PseudoLabels':
        """The same labels, each row ``repeats`` times in a row."""
        return self if repeats == 1 else self._replace(embeddings=self.embeddings.repeat_interleave(repeats, 0))


class Centering(nn.Module):
    """Subtract a running centre from the logits, then sharpen (DINO, section 3.1).

    The centre is the mean logit of each prototype over the tokens of all processes. What :meth:`observe` sees is kept
    aside until :meth:`after_step`, so that the centre moves once an optimizer step, and not if it is skipped.

    Args:
        num_prototypes: K.
        momentum: Of the running centre, in [0, 1].
    """

    def __init__(self, num_prototypes: int, momentum: float = 0.9) -> None:
        super().__init__()
        self.momentum = momentum
        self.register_buffer('center', torch.zeros(num_prototypes))
        # what was seen since the last step: the sum of the logits, and behind it their number
        self.register_buffer('seen', torch.zeros(num_prototypes + 1), persistent=False)

    @torch.no_grad()
    def forward(self, embeddings: Tensor, prototypes: Tensor, temperature: float) -> Tensor:
        """The shift of the logits for these tokens: (L, E) and (K, E) -> (K,)."""
        return -self.center / temperature

    @torch.no_grad()
    def observe(self, embeddings: Tensor, prototypes: Tensor) -> None:
        """Note the logits of tokens for the next step, in fp32; shapes as in :meth:`forward`."""
        with torch.autocast(embeddings.device.type, enabled=False):
            # the mean logit is linear in the embedding
            self.seen[:-1] += prototypes.float() @ embeddings.float().sum(0)
        self.seen[-1] += embeddings.shape[0]

    @torch.no_grad()
    def after_step(self, progress: float, epoch: int) -> None:
        """Move the centre towards what all processes saw since the last step; if that is not finite, it stays."""
        seen = global_sum(self.seen)
        moved = self.center.lerp(seen[:-1] / seen[-1], 1 - self.momentum)
        self.center.copy_(torch.where((seen[-1] > 0) & torch.isfinite(seen).all(), moved, self.center))
        self.seen.zero_()

    def forget(self) -> None:
        """Drop what was seen since the last step."""
        self.seen.zero_()


class Sinkhorn(nn.Module):
    """Balance the prototypes within the joint batch (SwAV, section 3.1); nothing outlives a step.

    Args:
        iters: Iterations.
        chunk_size: Tokens whose K logits are held at once; they are computed again in each iteration if there are
            more. None holds all.
    """

    @checked('sinkhorn')
    def __init__(self, iters: Count = 3, chunk_size: Count | None = None) -> None:
        super().__init__()
        self.iters = iters
        self.chunk_size = chunk_size

    @torch.no_grad()
    def forward(self, embeddings: Tensor, prototypes: Tensor, temperature: float) -> Tensor:
        """The shift that makes all prototypes take equal shares of the joint batch: (L, E) and (K, E) -> (K,)."""
        chunks = embeddings.split(self.chunk_size or len(embeddings))
        scores = products(chunks[0], prototypes.t()) / temperature  # (tokens of the chunk, K)
        prototype = scores.new_zeros(scores.shape[1])
        for index in range(self.iters):
            sums = torch.full_like(prototype, -torch.inf)
            for chunk in chunks:
                if len(chunks) > 1:
                    scores = products(chunk, prototypes.t()) / temperature
                token = -torch.logsumexp(scores + prototype, dim=1, keepdim=True) if index else 0
                sums = torch.logaddexp(sums, torch.logsumexp(scores + token, dim=0))
            prototype = -global_logsumexp(sums[None], dim=0)
        # a constant shift changes no softmax: take the mean out to keep the numbers small
        return prototype - prototype.mean()

    def observe(self, embeddings: Tensor, prototypes: Tensor) -> None:
        """Nothing to note."""
