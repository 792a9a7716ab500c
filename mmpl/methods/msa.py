"""MSA: teaching a masked autoencoder with strong augmentations (Zhu et al., IEEE TNNLS 2024)."""

from collections.abc import Mapping

import torch
from mmengine.model import ModuleDict
from torch import Tensor, nn

from mmpl.models import Masks, Teacher, match_places
from mmpl.registry import MODELS
from mmpl.utils.fields import Part, checked
from mmpl.utils.figures import Figure, Sums, of_part
from mmpl.utils.transfer import to_device

from .base import Method, Step, build_autoencoder, view_boxes, with_defaults

TOKENS = dict(cls='class token', tokens='data tokens')
ALIGN_LOSSES = dict(cls='infonce', tokens='cosine')


@MODELS.register_module()
class MSA(Method):
    """A masked autoencoder on a weak view, aligned with a teacher that sees the whole strong view.

    The student masks, encodes and reconstructs the weak view, as MAE does. Its class token has to find the teacher's
    class token of the same image among the batch (inter-image discrimination); its visible data tokens are drawn to the
    teacher's tokens of the same places (spatial perception). The teacher is a moving average, moved by
    :class:`mmpl.engine.DualTeacherHook`.

    The views come from :class:`mmpl.datasets.TwoViews`. If each has a crop of its own, data tokens are matched where
    the crops overlap.

    Args:
        backbone: The student's encoder, a :class:`mmpl.models.MaskedViT`.
        neck: The decoder, a :class:`mmpl.models.TokenDecoder`.
        head: What is reconstructed: a :class:`mmpl.models.TokenReconHead` with ``target='pixel'``.
        align_head: The alignment head of class tokens, a :class:`mmpl.models.AlignHead`; needed if anything is aligned.
        tokens_align_head: Fields in which the alignment head of data tokens differs from ``align_head``, but for
            ``loss``, which each has for itself: ``'infonce'`` for class tokens and ``'cosine'`` for data tokens, if it
            is not given.
        masking: Where the masks come from, a :class:`mmpl.models.RandomMasking`.
        momentum_align: Of the teacher, see :class:`mmpl.models.teacher.MomentumSchedule` (our choice, after BYOL's
            0.996 for longer runs).
        loss_weights: Weights of ``recon`` (above 0), ``align_cls`` and ``align_tokens``; a part that weighs 0 is not
            built, and without both this is MAE.
        data_preprocessor: As in mmpretrain.
        init_cfg: Initialisation.
    """

    LOSSES = dict(
        loss_recon='reconstruction',
        loss_align_cls='alignment, class token',
        loss_align_tokens='alignment, data tokens',
    )

    @checked()
    def __init__(
        self,
        backbone: dict,
        neck: dict,
        head: Part,
        align_head: dict | None = None,
        tokens_align_head: dict | None = None,
        masking: dict | None = None,
        momentum_align: dict = dict(start=0.99, end=1.0),  # noqa: B006
        loss_weights: dict | None = None,
        data_preprocessor: dict | None = None,
        init_cfg: dict | None = None,
    ) -> None:
        weights = self.check_weights(loss_weights)
        encoder, decoder, recon_head = build_autoencoder(backbone, neck, with_defaults(head, target='pixel'))
        if recon_head.target != 'pixel':
            raise ValueError(
                f"`head.target` must be 'pixel' in MSA, whose student reconstructs the weak view, "
                f'but got {recon_head.target!r}'
            )
        super().__init__(encoder, decoder, recon_head, masking or {}, loss_weights, data_preprocessor, init_cfg)
        aligned = [name for name in ALIGN_LOSSES if weights[f'align_{name}'] > 0]
        self.align_heads = ModuleDict(
            self._build_align_heads(aligned, align_head, tokens_align_head, encoder.embed_dims)
        )
        self.check_sizes(
            (f'{name} align head in_dims', head.in_dims, encoder.embed_dims, 'the width of `backbone`')
            for name, head in self.align_heads.items()
        )
        if aligned:
            self.num_views = 2
            self.align_teacher = Teacher(
                momentum_align, 'momentum_align', backbone=self.backbone, heads=self.align_heads
            )

    # ------------------------------------------------------------------ the method

    def step(self, views: list[Tensor], samples: list | None = None) -> Step:
        """One step.

        Args:
            views: Weak and strong view, each (B, C, H, W). Without alignment the weak view is enough.
            samples: With ``view_boxes`` in each: where the views lie in their image, (2, 4), or None if they share
                their geometry; see :class:`mmpl.datasets.TwoViews`. Without samples they share it.

        Raises:
            ValueError: ``view_boxes`` are missing.
        """
        weak = views[0]
        masks = self.masking(len(weak), self.backbone.num_patches, weak.device)
        latent = self.backbone(weak, masks.ids_keep)  # (B·R, 1+V, D)
        pred = self.neck(latent, masks)  # (B·R, P, C)
        losses = {'loss_recon': self.head.loss(pred, self.head.targets(weak, masks), masks)}
        figures: dict[str, Sums | Tensor] = {}
        if len(self.align_heads):
            with torch.no_grad():
                tokens = self.align_teacher.backbone.encode(views[1])[0]  # (B, 1+N, D)
        if 'cls' in self.align_heads:
            losses['loss_align_cls'] = self.align_loss('cls', figures, latent[:, 0], tokens[:, 0], masks.images)
        if 'tokens' in self.align_heads:
            places, keep = self.same_places(masks, samples)
            losses['loss_align_tokens'] = self.align_loss(
                'tokens',
                figures,
                latent[:, 1:].flatten(0, 1),
                tokens[:, 1:].flatten(0, 1),
                (masks.images[:, None] * masks.num_patches + places).flatten(),
                None if keep is None else keep.flatten(),
            )
        return Step(losses, figures)

    def align_loss(
        self,
        name: str,
        figures: dict[str, Sums | Tensor],
        student: Tensor,
        teacher: Tensor,
        rows: Tensor,
        keep: Tensor | None = None,
    ) -> Tensor:
        """Draw tokens of the student, (L, D), to those ``rows`` of the teacher's, (L', D), that belong to them."""
        with torch.no_grad():
            target = self.align_teacher.heads[name].embed(teacher)
        loss, stats = self.align_heads[name].loss(student, target, rows, keep, self.track_health)
        if stats is not None:
            figures[f'align_{name}'] = stats
        return loss

    @staticmethod
    def same_places(masks: Masks, samples: list | None) -> tuple[Tensor, Tensor | None]:
        """Where the strong view shows the student's visible places, (B·R, V), and which it does show, None for all."""
        boxes = view_boxes(samples)
        if boxes is None:
            return masks.ids_keep, None
        stacked = torch.stack([torch.as_tensor(box, dtype=torch.float64) for box in boxes])
        views = to_device(stacked, masks.ids_keep.device)
        ids, found = match_places(views[:, 0], views[:, 1], round(masks.num_patches**0.5))
        return ids[masks.images].gather(1, masks.ids_keep), found[masks.images].gather(1, masks.ids_keep)

    @property
    def figures(self) -> dict[str, Figure]:
        """Of the alignments, and the momentum."""
        figures = super().figures
        for name, head in self.align_heads.items():
            figures |= of_part(f'align_{name}', TOKENS[name], head.FIGURES)
        return figures

    # ------------------------------------------------------------------ building

    @classmethod
    def tiny(cls) -> dict:
        """With small alignment heads."""
        return super().tiny() | dict(align_head=dict(hidden_dims=32, out_dims=8))

    @staticmethod
    def _build_align_heads(
        names: list[str], cls_cfg: Mapping | None, tokens_cfg: Mapping | None, dims: int
    ) -> dict[str, nn.Module]:
        if names and cls_cfg is None:
            raise ValueError(
                '`align_head` must be given, or `loss_weights` of align_cls and align_tokens be 0, but got None'
            )
        shared = {name: value for name, value in dict(cls_cfg or {}).items() if name != 'loss'}
        cfgs = dict(cls=dict(cls_cfg or {}), tokens=shared | dict(tokens_cfg or {}))
        return {
            name: MODELS.build(with_defaults(cfgs[name], type='mmpl.AlignHead', in_dims=dims, loss=ALIGN_LOSSES[name]))
            for name in names
        }
