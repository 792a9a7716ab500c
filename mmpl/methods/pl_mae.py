"""PL-MAE: pseudo labelling for enhanced masked autoencoders (arXiv 2406.17450)."""

import torch
from mmengine.model import ModuleDict
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from mmpl.models import TEACHER_INPUTS, EMATeacher, LabelTeacher, TeacherView, move_teachers
from mmpl.registry import MODELS
from mmpl.utils.fields import check_choice, check_number, check_part

from .base import MaskedTeacherStudent, build_autoencoder, check_weights, weigh, with_defaults

DATA_TOKENS = ('visible', 'masked', 'all')
LOSS_PARTS = ('recon', 'label_cls', 'label_data')


@MODELS.register_module()
class PLMAE(MaskedTeacherStudent):
    """A masked autoencoder that learns pseudo labels and token features from two teachers.

    The student encodes the visible patches. The labelling teacher labels its
    class token and data tokens; the reconstruction teacher gives the features
    that the decoder has to predict at the masked places. Both teachers are
    moving averages of the student, each with its own momentum, moved by
    :class:`mmpl.engine.DualTeacherHook`; without one the model refuses to
    train.

    Sizes that follow from the backbone (``embed_dims``, ``num_patches``,
    ``in_dims``, ``out_dims``, ``patch_size``) may be left out of the other
    parts' configs.

    Args:
        backbone (dict): The student's encoder, a
            :class:`mmpl.models.MaskedViT`.
        neck (dict): The decoder, a :class:`mmpl.models.TokenDecoder`.
        head (dict): What is reconstructed, a
            :class:`mmpl.models.TokenReconHead`.
        label_head (dict): The labelling head of class tokens, a
            :class:`mmpl.models.PseudoLabelHead`.
        data_label_head (dict, optional): Fields in which the labelling head of
            data tokens differs from ``label_head``. Defaults to None.
        share_label_head (bool): One labelling head for both kinds of tokens
            (our choice: off). Defaults to False.
        masking (dict, optional): Where the masks come from. Defaults to
            :class:`mmpl.models.RandomMasking` with its defaults.
        data_tokens (str): Data tokens that are labelled: the student's
            ``'visible'`` ones, the decoder's predictions at the ``'masked'``
            places, or ``'all'`` (our choice: visible). Defaults to
            ``'visible'``.
        teacher_input (str): What the teachers see: ``'full'`` images, or the
            masked patches in ``'folds'`` of as many as are visible (then
            ``data_tokens`` must be ``'masked'``). Defaults to ``'full'``.
        label_teacher_size (int, optional): Side of the images that the
            labelling teacher sees, in pixels, a multiple of the patch size and
            at most ``backbone.img_size``. Images are made smaller for it, its
            position embeddings are interpolated, and each of the student's
            places takes the label of the larger patch that its centre lies in:
            half the side is a quarter of the work and one label for 2 x 2
            tokens (our choice). None gives both teachers the same images.
            Defaults to None.
        single_teacher (bool): Take the reconstruction features from the
            labelling teacher (ablation). Defaults to False.
        loss_weights (dict, optional): Weights of ``recon`` (above 0),
            ``label_cls`` and ``label_data``; a part that weighs 0 is not
            built. Those not given are 1 (our choice).
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
        label_head: dict | None = None,
        data_label_head: dict | None = None,
        share_label_head: bool = False,
        masking: dict | None = None,
        data_tokens: str = 'visible',
        teacher_input: str = 'full',
        label_teacher_size: int | None = None,
        single_teacher: bool = False,
        loss_weights: dict | None = None,
        data_preprocessor: dict | None = None,
        init_cfg: dict | None = None,
    ) -> None:
        weights = check_weights(loss_weights, LOSS_PARTS)
        check_choice('data_tokens', data_tokens, DATA_TOKENS)
        check_choice('teacher_input', teacher_input, TEACHER_INPUTS)
        if share_label_head and data_label_head:
            raise ValueError(
                f'`data_label_head` must be left out with `share_label_head=True`, but got {data_label_head}'
            )
        labelled = [name for name in ('cls', 'data') if weights[f'label_{name}'] > 0]
        if 'data' in labelled and teacher_input == 'folds' and data_tokens != 'masked':
            raise ValueError(
                f"`data_tokens` must be 'masked' with `teacher_input='folds'`, where teachers see masked patches only, "
                f'but got {data_tokens!r}'
            )

        encoder, decoder, recon_head = build_autoencoder(backbone, neck, head)
        super().__init__(encoder, decoder, recon_head, masking, data_preprocessor, init_cfg)
        self.label_heads = ModuleDict(
            self._build_label_heads(labelled, label_head, data_label_head, share_label_head, encoder.embed_dims)
        )
        self.data_tokens = data_tokens
        self.teacher_input = teacher_input
        self.label_teacher_size = label_teacher_size
        self.loss_weights = weights
        self._check_fit(single_teacher)

        self.label_teacher: LabelTeacher | None = LabelTeacher(self.backbone, self.label_heads) if labelled else None
        share_teacher = single_teacher and labelled
        self.recon_teacher = (
            EMATeacher(backbone=self.backbone) if recon_head.needs_teacher and not share_teacher else None
        )

    # ------------------------------------------------------------------ the method

    def loss(self, inputs: Tensor | list[Tensor], data_samples: list | None = None, **kwargs) -> dict[str, Tensor]:
        """One step of the method.

        Args:
            inputs (Tensor | list[Tensor]): Normalised images, (B, 3, H, W), or
                a list that holds them.
            data_samples (list, optional): Not used.
            **kwargs: Not used.

        Returns:
            dict[str, Tensor]: ``loss_recon``, ``loss_label_cls`` and
            ``loss_label_data``, each weighted, as far as they weigh anything.

        Raises:
            RuntimeError: If there are teachers that nobody updates.
        """
        self._check_updater()
        images = inputs[0] if isinstance(inputs, (list, tuple)) else inputs
        self._check_images(images)

        masks = self.masking(images.shape[0], self.backbone.num_patches, images.device)
        latent = self.backbone(images, masks.ids_keep)  # (B·R, 1+V, D)
        pred = self.neck(latent, masks)  # (B·R, P, C)
        with torch.no_grad():
            label_view, recon_view = self._look(images, masks)
            target = self._recon_targets(images, masks, recon_view)

        losses = {'loss_recon': self.head.loss(pred, target, masks)}
        if label_view is not None:
            losses |= self._label_losses(latent, pred, label_view)
        return {name: weigh(loss, self.loss_weights[name[len('loss_') :]]) for name, loss in losses.items()}

    def _look(self, images: Tensor, masks) -> tuple[TeacherView | None, TeacherView | None]:
        """What the labelling and the reconstruction teacher see."""
        blocks = self.head.target_blocks if self.head.needs_teacher else 0
        label_view = recon_view = None
        if self.label_teacher is not None:
            shared_blocks = 0 if self.recon_teacher is not None else blocks
            smaller = self._for_label_teacher(images)
            label_view = TeacherView(self.label_teacher.backbone, smaller, masks, self.teacher_input, shared_blocks)
        if self.recon_teacher is not None:
            recon_view = TeacherView(self.recon_teacher.backbone, images, masks, self.teacher_input, blocks)
        return label_view, recon_view or label_view

    def _for_label_teacher(self, images: Tensor) -> Tensor:
        """The images as the labelling teacher sees them."""
        if self.label_teacher_size in (None, self.backbone.img_size[0]):
            return images
        size = [side * self.label_teacher_size // self.backbone.img_size[0] for side in images.shape[-2:]]
        return F.interpolate(images, size, mode='bilinear', antialias=True)

    def _recon_targets(self, images: Tensor, masks, view: TeacherView | None) -> Tensor:
        """What the decoder has to predict."""
        if view is None or not self.head.needs_teacher:
            return self.head.pixel_targets(images, masks)
        features = view.masked_features
        if self.track_health:
            self.target_norm = features.float().norm(dim=-1).mean()
        return self.head.token_targets(features, masks)

    def _label_losses(self, latent: Tensor, pred: Tensor, view: TeacherView) -> dict[str, Tensor]:
        """Class token and data tokens learn the labels of the teacher's, token by token."""
        losses = {}
        if 'cls' in self.label_heads:
            losses['loss_label_cls'] = self._label_loss('cls', latent[:, 0], view.cls)
        if 'data' in self.label_heads:
            student = dict(visible=latent[:, 1:], masked=pred)
            which = ('visible', 'masked') if self.data_tokens == 'all' else (self.data_tokens,)
            losses['loss_label_data'] = self._label_loss(
                'data',
                torch.cat([student[name] for name in which], dim=1).flatten(0, 1),
                *view.data_tokens(which),
            )
        return losses

    def _label_loss(
        self, name: str, student: Tensor, teacher: Tensor, ids: Tensor | None = None, places: Tensor | None = None
    ) -> Tensor:
        """Loss of one kind of tokens, the student's given as rows of D.

        Full images give one class token for R masks, folds several for one: the
        shorter side is repeated.
        """
        assert self.label_teacher is not None  # there is a view of it
        with torch.no_grad():
            labels = self.label_teacher.label(name, teacher, self.progress, ids, places, self.backbone.num_patches)
        rows, teacher_rows = student.shape[0], labels.embeddings.shape[0]
        loss, stats = self.label_heads[name].loss(
            student.repeat_interleave(max(1, teacher_rows // rows), 0),
            labels.repeat(max(1, rows // teacher_rows)),
            self.track_health,
        )
        if stats is not None:
            self.health_stats[name] = stats
        return loss

    # ------------------------------------------------------------------ the teachers

    @property
    def teachers(self) -> dict[str, EMATeacher]:
        """``label`` and ``recon``, as far as there is need of them."""
        teachers = dict(label=self.label_teacher, recon=self.recon_teacher)
        return {name: teacher for name, teacher in teachers.items() if teacher is not None}

    @property
    def students(self) -> dict[str, nn.Module]:
        """Encoder and labelling heads."""
        return dict(backbone=self.backbone, heads=self.label_heads)

    @torch.no_grad()
    def update_teachers(self, momentum_label: float = 1.0, momentum_recon: float = 1.0) -> None:
        """Move both teachers, the centres and the codebook; once an optimizer step.

        Args:
            momentum_label (float): Of the labelling teacher, in [0, 1]. A
                single teacher has this one. Defaults to 1, which leaves it
                where it is.
            momentum_recon (float): Of the reconstruction teacher, in [0, 1].
                Defaults to 1.
        """
        momenta = dict(label=momentum_label, recon=momentum_recon)
        move_teachers([(teacher, momenta[name]) for name, teacher in self.teachers.items()], self.students)
        if self.label_teacher is not None:
            self.label_teacher.update_assigners()
        if self.head.target == 'discrete':
            self.head.codebook.update()

    # ------------------------------------------------------------------ looking at the labels

    @torch.no_grad()
    def predict_labels(self, images: Tensor) -> dict[str, Tensor]:
        """The labelling teacher's most likely prototypes on unmasked images.

        Args:
            images (Tensor): Normalised images, (B, 3, H, W).

        Returns:
            dict[str, Tensor]: ``cls`` (B,) and ``data`` (B, H/p, W/p), those of
            the two that are learned.

        Raises:
            RuntimeError: If the model learns no labels.
        """
        if self.label_teacher is None:
            raise RuntimeError('this model learns no labels: `loss_weights` has label_cls=0 and label_data=0')
        seen, side = self._for_label_teacher(images), self.backbone.patch_size
        tokens = self.label_teacher.backbone.encode(seen)[0]
        labels = {}
        if 'cls' in self.label_heads:
            labels['cls'] = self.label_teacher.predict('cls', tokens[:, 0], self.progress)
        if 'data' in self.label_heads:
            data = self.label_teacher.predict('data', tokens[:, 1:], self.progress)
            data = data.view(-1, 1, seen.shape[-2] // side, seen.shape[-1] // side).double()  # exact for any label
            grid = (images.shape[-2] // side, images.shape[-1] // side)
            labels['data'] = F.interpolate(data, grid, mode='nearest-exact')[:, 0].long()
        return labels

    # ------------------------------------------------------------------ building and checking

    @staticmethod
    def _build_label_heads(
        names: list[str], cls_cfg: dict | None, data_cfg: dict | None, share: bool, dims: int
    ) -> dict[str, nn.Module]:
        if not names:
            return {}
        if cls_cfg is None:
            raise ValueError(
                '`label_head` must be given, or `loss_weights` of label_cls and label_data be 0, but got None'
            )
        if data_cfg is not None:
            check_part('data_label_head', data_cfg, 'dict(num_prototypes=256)')
        cls_cfg = with_defaults(cls_cfg, in_dims=dims, type='mmpl.PseudoLabelHead')
        if share:
            head = MODELS.build(cls_cfg)
            return dict.fromkeys(names, head)
        cfgs = dict(cls=cls_cfg, data=cls_cfg | dict(data_cfg or {}))
        return {name: MODELS.build(cfgs[name]) for name in names}

    def _check_label_teacher_size(self, single_teacher: bool) -> None:
        size, encoder = self.label_teacher_size, self.backbone
        check_number('label_teacher_size', size, encoder.patch_size, encoder.img_size[0], integer=True)
        if size % encoder.patch_size:
            raise ValueError(
                f'`label_teacher_size` must be a multiple of `backbone.patch_size` {encoder.patch_size}, but got {size}'
            )
        if self.teacher_input != 'full' or (single_teacher and self.head.needs_teacher):
            raise ValueError(
                f"`label_teacher_size` must be left out with `teacher_input='folds'`, and with `single_teacher=True`, "
                f'whose teacher gives the features of every place as well, but got {size}'
            )

    def _check_fit(self, single_teacher: bool) -> None:
        """Refuse parts that do not fit together."""
        encoder = self.backbone
        num_visible, _ = self.masking.split(encoder.num_patches)
        if self.teacher_input == 'folds':
            TeacherView.check_folds(encoder.num_patches - num_visible, num_visible)
        if self.label_teacher_size is not None:
            self._check_label_teacher_size(single_teacher)
        sizes: list[tuple[str, object, object, str]] = []
        if self.head.needs_teacher:
            sizes.append(('head.embed_dims', self.head.embed_dims, encoder.embed_dims, 'the width of `backbone`'))
            check_number('head.target_blocks', self.head.target_blocks, 1, encoder.num_layers, integer=True)
        for name, head in self.label_heads.items():
            sizes.append((f'{name} label head in_dims', head.in_dims, encoder.embed_dims, 'the width of `backbone`'))
        if 'data' in self.label_heads and self.data_tokens != 'visible':
            why = f'what `data_tokens={self.data_tokens!r}` labels'
            sizes.append(('neck.out_dims', self.neck.out_dims, encoder.embed_dims, why))
        self._check_sizes(sizes)
