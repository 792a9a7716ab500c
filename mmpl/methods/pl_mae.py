"""PL-MAE: pseudo labelling for enhanced masked autoencoders (arXiv 2406.17450)."""

from typing import Any, Literal

import torch
from mmengine.model import ModuleDict
from torch import Tensor, nn

from mmpl.models import FeatureTarget, LabelTeacher, Masks, MomentumSchedule, Teacher, TeacherView
from mmpl.models.teacher_view import TeacherInput
from mmpl.registry import MODELS
from mmpl.utils.fields import check_number, check_part, checked
from mmpl.utils.figures import Chart, Figure, Sums, of_part

from .base import Method, Step, build_autoencoder, check_left_out, view_boxes, with_defaults

TOKENS = dict(cls='class token', data='data tokens')
TEMPERATURE = Figure(
    'teacher',
    Chart('Temperature of the teacher', 'The lower, the sharper the labels that the teacher gives.', 'temperature'),
)


@MODELS.register_module()
class PLMAE(Method):
    """A masked autoencoder that learns pseudo labels and token features from two teachers.

    The student encodes the visible patches. The labelling teacher labels its class token and data tokens; the
    reconstruction teacher gives the features that the decoder has to predict at the masked places. Both teachers are
    moving averages of the student, each with its own momentum, moved by :class:`mmpl.engine.DualTeacherHook`; without
    one the model refuses to train.

    Sizes that follow from the backbone (``embed_dims``, ``num_patches``, ``in_dims``, ``out_dims``, ``patch_size``) may
    be left out of the other parts' configs.

    Args:
        backbone: The student's encoder, a :class:`mmpl.models.MaskedViT`.
        neck: The decoder, a :class:`mmpl.models.TokenDecoder`.
        head: What is reconstructed, a :class:`mmpl.models.TokenReconHead`.
        label_head: The labelling head of class tokens, a :class:`mmpl.models.PseudoLabelHead`; needed if anything is
            labelled.
        data_label_head: Fields in which the labelling head of data tokens differs from ``label_head``.
        masking: Where the masks come from, a :class:`mmpl.models.RandomMasking`.
        data_tokens: Data tokens that are labelled: the student's ``'visible'`` ones, the decoder's predictions at the
            ``'masked'`` places, or ``'all'`` (our choice: visible).
        teacher_input: What the teachers see: ``'full'`` images, or the masked patches in ``'folds'`` of as many as are
            visible (then ``data_tokens`` must be ``'masked'``).
        jitter: Photometric jitter of what the student sees, a :class:`mmpl.models.PhotometricJitter`; teachers see the
            image as it is, and pixels are of what the student sees. Without it labels follow brightness and contrast
            wherever these vary, for a part of the patches shows them as well as the whole (our choice).
        teacher_view: Which view the teachers see: the ``'same'`` that the student sees a part of, or the ``'other'`` of
            the two that :class:`mmpl.datasets.TwoViews` makes: teachers see the weak one, the student the strong one
            (MC-SSL's clean view of a corrupted one). With a crop of its own it can teach class tokens only. Pixels are
            always of the student's view.
        shared_projector: The labelling heads of class and data tokens share their MLP and have prototypes of their own
            (MC-SSL).
        single_teacher: Take the reconstruction features from the labelling teacher (ablation).
        momentum_label: Of the labelling teacher, see :class:`mmpl.models.teacher.MomentumSchedule` (our choice).
        momentum_recon: Of the reconstruction teacher (our choice).
        loss_weights: Weights of ``recon`` (above 0), ``label_cls`` and ``label_data``; a part that weighs 0 is not
            built.
        data_preprocessor: As in mmpretrain.
        init_cfg: Initialisation.
    """

    LOSSES = dict(
        loss_recon='reconstruction', loss_label_cls='label, class token', loss_label_data='label, data tokens'
    )

    @checked()
    def __init__(
        self,
        backbone: dict,
        neck: dict,
        head: dict,
        label_head: dict | None = None,
        data_label_head: dict | None = None,
        masking: dict | None = None,
        data_tokens: Literal['visible', 'masked', 'all'] = 'visible',
        teacher_input: TeacherInput = 'full',
        jitter: dict | None = None,
        teacher_view: Literal['same', 'other'] = 'same',
        shared_projector: bool = False,
        single_teacher: bool = False,
        momentum_label: dict = dict(start=0.996, end=1.0),  # noqa: B006
        momentum_recon: dict = dict(start=0.9995, end=1.0),  # noqa: B006
        loss_weights: dict | None = None,
        data_preprocessor: dict | None = None,
        init_cfg: dict | None = None,
    ) -> None:
        weights = self.check_weights(loss_weights)
        labelled = [name for name in TOKENS if weights[f'label_{name}'] > 0]
        if 'data' in labelled and teacher_input == 'folds' and data_tokens != 'masked':
            raise ValueError(
                f"`data_tokens` must be 'masked' with `teacher_input='folds'`, where teachers see masked patches only, "
                f'but got {data_tokens!r}'
            )
        encoder, decoder, recon_head = build_autoencoder(backbone, neck, head)
        super().__init__(encoder, decoder, recon_head, masking or {}, loss_weights, data_preprocessor, init_cfg)
        self.label_heads = ModuleDict(
            self._build_label_heads(labelled, label_head, data_label_head, encoder.embed_dims)
        )
        if shared_projector:
            self._share_projector()
        self.jitter = None
        if jitter is not None:
            check_part('jitter', jitter, 'dict(strength=0.5)')
            self.jitter = MODELS.build(with_defaults(jitter, type='mmpl.PhotometricJitter'))
        self.data_tokens = data_tokens
        self.num_views = 2 if teacher_view == 'other' else 1
        self.teacher_input: TeacherInput = teacher_input
        self._check_fit()

        if labelled:
            self.label_teacher = LabelTeacher(momentum_label, 'momentum_label', self.backbone, self.label_heads)
        MomentumSchedule(**momentum_recon, name='momentum_recon')  # checked if no teacher has it, too
        if recon_head.needs_teacher and not (single_teacher and labelled):
            self.recon_teacher = Teacher(momentum_recon, 'momentum_recon', backbone=self.backbone)
        if teacher_view == 'other' and not self.teachers:
            raise ValueError("`teacher_view` must be 'same' without labels and feature targets, but got 'other'")

    # ------------------------------------------------------------------ the method

    def step(self, views: list[Tensor], samples: list | None = None) -> Step:
        """One step on images, (B, C, H, W), or on two views of each: a weak one for the teachers, a strong one."""
        images, seen = views[-1] if self.jitter is None else self.jitter(views[-1]), views[0]
        self._check_places(samples)
        masks = self.masking(len(images), self.backbone.num_patches, images.device)
        latent = self.backbone(images, masks.ids_keep)  # (B·R, 1+V, D)
        pred = self.neck(latent, masks)  # (B·R, P, C)
        label_view, recon_view = self.teacher_views(seen, masks)

        losses = {'loss_recon': self.head.loss(pred, self.head.targets(images, masks, recon_view), masks)}
        figures: dict[str, Sums | Tensor] = {}
        if self.track_health:
            figures |= {f'target_{name}': value for name, value in self.head.figures(recon_view).items()}
        if 'cls' in self.label_heads:
            losses['loss_label_cls'] = self.label_loss('cls', figures, latent[:, 0], label_view.cls)
        if 'data' in self.label_heads:
            student = dict(visible=latent[:, 1:], masked=pred)
            which = ('visible', 'masked') if self.data_tokens == 'all' else (self.data_tokens,)
            tokens = torch.cat([student[name] for name in which], dim=1).flatten(0, 1)
            losses['loss_label_data'] = self.label_loss('data', figures, tokens, *label_view.data_tokens(which))
        return Step(losses, figures)

    @torch.no_grad()
    def teacher_views(self, images: Tensor, masks: Masks) -> tuple[Any, TeacherView | None]:
        """What the labelling and the reconstruction teacher see; a single teacher looks once."""
        teachers, blocks = self.teachers, self.head.target_blocks
        shares = len(teachers) == 1
        views = {
            name: TeacherView(
                teacher.backbone,
                images,
                masks,
                self.teacher_input,
                blocks if shares or name == 'recon_teacher' else 0,
            )
            for name, teacher in teachers.items()
        }
        label_view = views.get('label_teacher')
        return label_view, views.get('recon_teacher', label_view)

    def label_loss(
        self,
        name: str,
        figures: dict[str, Sums | Tensor],
        student: Tensor,
        teacher: Tensor,
        ids: Tensor | None = None,
        places: Tensor | None = None,
    ) -> Tensor:
        """One kind of tokens, the student's given as rows of D, learns the labels of the teacher's.

        Full images give one class token for R masks, folds several for one: the shorter side is repeated.
        """
        with torch.no_grad():
            labels = self.label_teacher.label(name, teacher, self.progress, ids, places, self.backbone.num_patches)
        rows, teacher_rows = student.shape[0], labels.embeddings.shape[0]
        loss, stats = self.label_heads[name].loss(
            student.repeat_interleave(max(1, teacher_rows // rows), 0),
            labels.repeat(max(1, rows // teacher_rows)),
            self.track_health,
        )
        if stats is not None:
            figures[name] = stats
        return loss

    # ------------------------------------------------------------------ what is logged

    @property
    def figures(self) -> dict[str, Figure]:
        """Of labels and targets, the momenta and the teacher's temperature."""
        figures = super().figures | of_part('target', 'target features', self.head.FIGURES)
        for name, head in self.label_heads.items():
            figures |= of_part(name, TOKENS[name], head.FIGURES)
        return figures | dict.fromkeys(self._tempered(), TEMPERATURE)

    def scheduled(self, progress: float) -> dict[str, float]:
        """Momenta, and the temperature of the labels."""
        temperatures = {key: head.teacher_temp_at(self.progress) for key, head in self._tempered().items()}
        return super().scheduled(progress) | temperatures

    def _tempered(self) -> dict[str, Any]:
        """A labelling head for each temperature that is logged: one, unless the heads have their own."""
        heads = dict(self.label_heads.items())
        schedules = {(head.warmup_teacher_temp, head.teacher_temp) for head in heads.values()}
        if len(schedules) > 1:
            return {f'{name}_teacher_temp': head for name, head in heads.items()}
        return {'teacher_temp': next(iter(heads.values()))} if heads else {}

    @torch.no_grad()
    def predict_labels(self, images: Tensor) -> dict[str, Tensor]:
        """The labelling teacher's most likely prototypes on unmasked images, (B, C, H, W).

        In a run they are those of its moment; else, as of a checkpoint, at the temperature that runs end with.

        Returns:
            ``cls`` (B,) and ``data`` (B, H/p, W/p), those of the two that are learned.

        Raises:
            RuntimeError: If the model learns no labels.
        """
        if not len(self.label_heads):
            raise RuntimeError('this model learns no labels: `loss_weights` has label_cls=0 and label_data=0')
        tokens = self.label_teacher.backbone.encode(images)[0]
        progress = self.progress if self._updater is not None else 1.0
        labels = {}
        if 'cls' in self.label_heads:
            labels['cls'] = self.label_teacher.predict('cls', tokens[:, 0], progress)
        if 'data' in self.label_heads:
            data = self.label_teacher.predict('data', tokens[:, 1:], progress)
            grid = [side // self.backbone.patch_size for side in images.shape[-2:]]
            labels['data'] = data.view(-1, *grid)
        return labels

    # ------------------------------------------------------------------ building and checking

    @classmethod
    def tiny(cls) -> dict:
        """With small labelling heads."""
        return super().tiny() | dict(label_head=dict(num_prototypes=16, hidden_dims=32, bottleneck_dims=8))

    @staticmethod
    def _build_label_heads(
        names: list[str], cls_cfg: dict | None, data_cfg: dict | None, dims: int
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
        cfgs = dict(cls=cls_cfg, data=cls_cfg | dict(data_cfg or {}))
        for name in cfgs.keys() - names:
            check_left_out(cfgs[name])
        return {name: MODELS.build(cfgs[name]) for name in names}

    def _share_projector(self) -> None:
        heads = self.label_heads
        if len(heads) < 2:
            raise ValueError(
                '`shared_projector` needs labels of both class and data tokens, but `loss_weights` gives one of them 0'
            )
        own, other = ([part.shape for part in heads[name].projector.parameters()] for name in TOKENS)
        if own != other:
            raise ValueError(
                '`shared_projector` needs the same `num_layers`, `hidden_dims` and `bottleneck_dims` in `label_head` '
                f'and `data_label_head`, but their MLPs have {[tuple(x) for x in own]} and {[tuple(x) for x in other]}'
            )
        del heads['data'].projector
        # not as its part: optimizers and checkpoints find it once
        object.__setattr__(heads['data'], 'projector', heads['cls'].projector)

    def _check_places(self, samples: list | None) -> None:
        """Refuse views with a crop of their own where the teachers of the other one give what belongs to a place."""
        taught = ['data labels'] * ('data' in self.label_heads) + ['token features'] * self.head.needs_teacher
        if self.num_views == 2 and taught and view_boxes(samples) is not None:
            raise ValueError(
                f"`teacher_view='other'` with {' and '.join(taught)} needs views of one geometry, but `mmpl.TwoViews` "
                'gives each a crop of its own: set its `own_crop=False`, or teach class tokens only '
                "(`loss_weights.label_data=0`, `head.target='pixel'`)"
            )

    def _check_fit(self) -> None:
        """Refuse parts that do not fit together."""
        encoder = self.backbone
        num_visible, _ = self.masking.split(encoder.num_patches)
        if self.teacher_input == 'folds':
            TeacherView.check_folds(encoder.num_patches - num_visible, num_visible)
        rows: list[tuple[str, object, object, str]] = []
        if isinstance(self.head, FeatureTarget):
            rows.append(('head.embed_dims', self.head.embed_dims, encoder.embed_dims, 'the width of `backbone`'))
            check_number('head.target_blocks', self.head.target_blocks, 1, encoder.num_layers, integer=True)
        for name, head in self.label_heads.items():
            rows.append((f'{name} label head in_dims', head.in_dims, encoder.embed_dims, 'the width of `backbone`'))
        if 'data' in self.label_heads and self.data_tokens != 'visible':
            why = f'what `data_tokens={self.data_tokens!r}` labels'
            rows.append(('neck.out_dims', self.neck.out_dims, encoder.embed_dims, why))
        self.check_sizes(rows)
