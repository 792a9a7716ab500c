"""MSA: teaching a masked autoencoder with strong augmentations (Zhu et al., IEEE TNNLS 2024)."""

from collections.abc import Mapping, Sequence

import torch
from mmengine.model import ModuleDict
from torch import Tensor, nn

from mmpl.models import EMATeacher
from mmpl.models.matching import match_places
from mmpl.registry import MODELS
from mmpl.utils.fields import check_part

from .base import MaskedTeacherStudent, build_autoencoder, check_weights, weigh, with_defaults

LOSS_PARTS = ('recon', 'align_cls', 'align_tokens')
ALIGN_LOSSES = dict(cls='infonce', tokens='cosine')


@MODELS.register_module()
class MSA(MaskedTeacherStudent):
    """A masked autoencoder on a weak view, aligned with a teacher that sees the whole strong view.

    The student masks, encodes and reconstructs the weak view, as MAE does. Its
    class token has to find the teacher's class token of the same image among
    the batch (inter-image discrimination); its visible data tokens are drawn
    to the teacher's tokens of the same places (spatial perception). The
    teacher is a moving average, moved by :class:`mmpl.engine.DualTeacherHook`
    (``momentum_align``).

    The views come from :class:`mmpl.datasets.TwoViews`. If each has a crop of
    its own, data tokens are matched where the crops overlap.

    Args:
        backbone (dict): The student's encoder, a
            :class:`mmpl.models.MaskedViT`.
        neck (dict): The decoder, a :class:`mmpl.models.TokenDecoder`.
        head (dict): What is reconstructed: a
            :class:`mmpl.models.TokenReconHead` with ``target='pixel'``.
        align_head (dict, optional): The alignment head of class tokens, a
            :class:`mmpl.models.AlignHead`. Needed unless nothing is aligned.
        tokens_align_head (dict, optional): Fields in which the alignment head
            of data tokens differs from ``align_head``, but for ``loss``, which
            each has for itself: ``'infonce'`` for class tokens and
            ``'cosine'`` for data tokens, if it is not given. Defaults to None.
        masking (dict, optional): Where the masks come from. Defaults to
            :class:`mmpl.models.RandomMasking` with its defaults.
        loss_weights (dict, optional): Weights of ``recon`` (above 0),
            ``align_cls`` and ``align_tokens``; a part that weighs 0 is not
            built, and without both this is MAE. Those not given are 1 (our
            choice).
        data_preprocessor (dict, optional): As in mmpretrain.
        init_cfg (dict, optional): Initialisation.

    Raises:
        TypeError: If a field has the wrong type.
        ValueError: If a field is outside of what is allowed, or two parts do
            not fit together.
    """

    def __init__(
        self,
        backbone: dict,
        neck: dict,
        head: dict,
        align_head: dict | None = None,
        tokens_align_head: dict | None = None,
        masking: dict | None = None,
        loss_weights: dict | None = None,
        data_preprocessor: dict | None = None,
        init_cfg: dict | None = None,
    ) -> None:
        weights = check_weights(loss_weights, LOSS_PARTS)
        check_part('head', head)
        encoder, decoder, recon_head = build_autoencoder(backbone, neck, with_defaults(head, target='pixel'))
        if recon_head.target != 'pixel':
            raise ValueError(
                f"`head.target` must be 'pixel' in MSA, whose student reconstructs the weak view, "
                f'but got {recon_head.target!r}'
            )
        super().__init__(encoder, decoder, recon_head, masking, data_preprocessor, init_cfg)
        aligned = [name for name in ALIGN_LOSSES if weights[f'align_{name}'] > 0]
        self.align_heads = ModuleDict(
            self._build_align_heads(aligned, align_head, tokens_align_head, encoder.embed_dims)
        )
        self.loss_weights = weights
        self._check_sizes(
            [
                (f'{name} align head in_dims', head.in_dims, encoder.embed_dims, 'the width of `backbone`')
                for name, head in self.align_heads.items()
            ]
        )
        self.align_teacher = EMATeacher(backbone=self.backbone, heads=self.align_heads) if aligned else None

    # ------------------------------------------------------------------ the method

    def loss(self, inputs: Tensor | Sequence[Tensor], data_samples: list | None = None, **kwargs) -> dict[str, Tensor]:
        """One step of the method.

        Args:
            inputs (Sequence[Tensor]): Weak and strong view, each (B, 3, H, W)
                and normalised. Without alignment the weak view is enough.
            data_samples (list, optional): With ``view_boxes`` in each: where
                the views lie in their image, (2, 4), or None if they share
                their geometry; see :class:`mmpl.datasets.TwoViews`. Without
                data samples they share it.
            **kwargs: Not used.

        Returns:
            dict[str, Tensor]: ``loss_recon``, ``loss_align_cls`` and
            ``loss_align_tokens``, each weighted, as far as they weigh anything.

        Raises:
            RuntimeError: If there is a teacher that nobody updates.
            ValueError: If there are not two views, or their ``view_boxes`` are
                missing.
        """
        self._check_updater()
        weak, strong = self._views(inputs)

        masks = self.masking(weak.shape[0], self.backbone.num_patches, weak.device)
        latent = self.backbone(weak, masks.ids_keep)  # (B·R, 1+V, D)
        pred = self.neck(latent, masks)  # (B·R, P, C)
        losses = {'loss_recon': self.head.loss(pred, self.head.pixel_targets(weak, masks), masks)}
        if self.align_teacher is not None:
            with torch.no_grad():
                tokens = self.align_teacher.backbone.encode(strong)[0]  # (B, 1+N, D)
            image = torch.arange(len(weak), device=weak.device).repeat_interleave(masks.num_masks)  # of each mask
            if 'cls' in self.align_heads:
                losses['loss_align_cls'] = self._align('cls', latent[:, 0], tokens[:, 0], image)
            if 'tokens' in self.align_heads:
                places, keep = self._same_places(image, masks, data_samples)
                losses['loss_align_tokens'] = self._align(
                    'tokens',
                    latent[:, 1:].flatten(0, 1),
                    tokens[:, 1:].flatten(0, 1),
                    (image[:, None] * masks.num_patches + places).flatten(),
                    None if keep is None else keep.flatten(),
                )
        return {name: weigh(loss, self.loss_weights[name[len('loss_') :]]) for name, loss in losses.items()}

    def _align(self, name: str, student: Tensor, teacher: Tensor, rows: Tensor, keep: Tensor | None = None) -> Tensor:
        """Draw tokens of the student, (L, D), to those ``rows`` of the teacher's, (L', D), that belong to them."""
        assert self.align_teacher is not None  # there are tokens of it
        with torch.no_grad():
            target = self.align_teacher.heads[name].embed(teacher)
        loss, stats = self.align_heads[name].loss(student, target, rows, keep, self.track_health)
        if stats is not None:
            self.health_stats[f'align_{name}'] = stats
        return loss

    @staticmethod
    def _same_places(image: Tensor, masks, data_samples: list | None) -> tuple[Tensor, Tensor | None]:
        """Where the strong view shows the student's visible places, (B·R, V), and which it does show, None for all."""
        samples = [] if data_samples is None else data_samples
        if any('view_boxes' not in sample for sample in samples):
            raise ValueError(
                '`view_boxes` of mmpl.TwoViews is missing in the data samples: hand it on with '
                "`dict(type='PackInputs', meta_keys=('view_boxes',))`"
            )
        boxes = [sample.get('view_boxes') for sample in samples]
        without = sum(box is None for box in boxes)
        if without == len(boxes):
            return masks.ids_keep, None
        if without:
            raise ValueError(f'`view_boxes` must be in every sample or in none, but {without} of {len(boxes)} lack it')
        views = torch.stack([torch.as_tensor(box, dtype=torch.float64) for box in boxes]).to(image.device)
        ids, found = match_places(views[:, 0], views[:, 1], round(masks.num_patches**0.5))
        return ids[image].gather(1, masks.ids_keep), found[image].gather(1, masks.ids_keep)

    def _views(self, inputs: Tensor | Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        views = list(inputs) if isinstance(inputs, (list, tuple)) else [inputs]
        if self.align_teacher is None:
            views = views[:1] * 2
        if len(views) != 2:
            raise ValueError(
                f'MSA needs a weak and a strong view of each image, but the pipeline gives {len(views)}: '
                f"end it with `dict(type='mmpl.TwoViews', ...)` and `PackInputs`"
            )
        for view in views:
            self._check_images(view)
        return views[0], views[1]

    # ------------------------------------------------------------------ the teacher

    @property
    def teachers(self) -> dict[str, EMATeacher]:
        """``align``, if anything is aligned."""
        return {} if self.align_teacher is None else dict(align=self.align_teacher)

    @property
    def students(self) -> dict[str, nn.Module]:
        """Encoder and alignment heads."""
        return dict(backbone=self.backbone, heads=self.align_heads)

    @torch.no_grad()
    def update_teachers(self, momentum_align: float = 1.0) -> None:
        """Move the teacher; once an optimizer step.

        Args:
            momentum_align (float): In [0, 1]. Defaults to 1, which leaves it
                where it is.
        """
        if self.align_teacher is not None:
            self.align_teacher.update(self.students, momentum_align)

    # ------------------------------------------------------------------ building

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
