"""The contract of a method: what one file has to say so that everything else works with it.

A method is a :meth:`Method.step` over its parts. From the parts the rest follows: teachers are found among its
children, move themselves and know their schedules; whatever follows the optimizer's steps (teachers, centres,
codebooks) has ``after_step``, and ``forget`` if a step that is not taken must leave no trace; figures of health are
declared by the part that computes them. docs/adding_a_method.md shows how to write one.

Shape legend, here and in the methods: B images, R masks of each, N patches, V visible, M masked, P to predict, D token
dims, C dims of a prediction.
"""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, NamedTuple

import torch
from mmpretrain.models.selfsup import BaseSelfSupervisor
from torch import Tensor, nn

from mmpl.checkpoints.encoders import read_checkpoint
from mmpl.checkpoints.fit import CheckpointMismatchError, check_state_dict
from mmpl.checkpoints.strict_pretrained import loads_weights
from mmpl.models.preprocessor import check_channels, check_scale, fit_preprocessor
from mmpl.models.teacher import INIT_SHARE, MOMENTUM, Teacher
from mmpl.registry import MODELS
from mmpl.utils.fields import check_choice, check_number, check_part
from mmpl.utils.figures import Figure, Sums
from mmpl.utils.seeds import preserve_rng_state

_MASKS = {False: 'each image masks of its own', True: 'all images of a batch one mask'}


class Step(NamedTuple):
    """What a method made of a batch.

    Attributes:
        losses: By the keys of :attr:`Method.LOSSES`, each (); not yet weighted.
        figures: Of health, if :attr:`Method.track_health` asks for them: sums by part, or numbers by name; see
            :func:`mmpl.utils.figures.measured`.
    """

    losses: dict[str, Tensor]
    figures: Mapping[str, Sums | Tensor] = {}


class Method(BaseSelfSupervisor):
    """A self-supervised method: a student, and what it learns from.

    A subclass builds its parts, sets :attr:`num_views`, and writes :meth:`step`. Decoder, head and masking may be left
    out. State-dict keys are the attributes' names; the student's encoder is ``backbone``, a teacher is called what it
    is for and ``_teacher``, such as ``label_teacher``, and holds its encoder as ``backbone`` too.

    What an encoder has is asked of it: ``num_patches`` (N), ``token_size`` (side in pixels of what one token stands for
    and is masked as), ``token_dims`` (D), ``num_extra_tokens`` (1 with a class token), ``in_channels``, ``img_size``.

    Args:
        backbone: The student's encoder.
        neck: The decoder.
        head: What is reconstructed.
        masking: Config of where the masks come from, of :class:`mmpl.models.RandomMasking` if it names no type.
        loss_weights: Weights of the losses by their keys without ``loss_``; those not given are 1 (our choice).
        data_preprocessor: As in mmpretrain.
        init_cfg: Initialisation.
    """

    LOSSES: ClassVar[dict[str, str]] = {}
    """Key of each loss, ``loss_...`` -> what it is, in words."""

    num_views: int = 1
    """How many views of an image :meth:`step` gets."""

    group_size: int = 1
    """How many images a step takes together: a batch must be whole groups."""

    @classmethod
    def tiny(cls) -> dict:
        """Config of the smallest model that does all that the method does, for tests: images of 16 x 16, 16 patches.

        A subclass adds what it needs to the masked autoencoder that this one gives.
        """
        arch = dict(embed_dims=32, num_layers=3, num_heads=4, feedforward_channels=64)
        return dict(
            type=f'mmpl.{cls.__name__}',
            backbone=dict(type='mmpl.MaskedViT', arch=arch, img_size=16, patch_size=4),
            neck=dict(type='mmpl.TokenDecoder', decoder_embed_dims=24, depth=2, num_heads=4),
            head=dict(type='mmpl.TokenReconHead'),
            masking=dict(mask_ratio=0.75),
        )

    def __init__(
        self,
        backbone: nn.Module,
        neck: nn.Module | None = None,
        head: nn.Module | None = None,
        masking: dict | None = None,
        loss_weights: Mapping[str, float] | None = None,
        data_preprocessor: dict | None = None,
        init_cfg: dict | None = None,
    ) -> None:
        channels = getattr(backbone, 'in_channels', None)
        if isinstance(data_preprocessor, Mapping) and channels is not None:
            data_preprocessor = fit_preprocessor(data_preprocessor, channels)
        super().__init__(backbone, neck, head, data_preprocessor=data_preprocessor, init_cfg=init_cfg)
        if channels is not None:
            self.data_preprocessor.register_forward_pre_hook(
                lambda part, args: check_channels(channels, args[0]['inputs'])
            )
        if isinstance(data_preprocessor, Mapping):
            std = data_preprocessor.get('std')
            self.data_preprocessor.register_forward_pre_hook(lambda part, args: check_scale(std, args[0]['inputs']))
        if masking is not None:
            check_part('masking', masking, 'dict(mask_ratio=0.75)')
            self.masking = MODELS.build(with_defaults(masking, type='mmpl.RandomMasking'))
        self.loss_weights = self.check_weights(loss_weights)
        self.progress = 0.0
        self.track_health = False
        self.last_figures: Mapping[str, Sums | Tensor] = {}
        self._updater: str | None = None

    # ------------------------------------------------------------------ a step

    def step(self, views: list[Tensor], samples: list | None) -> Step:
        """One step of the method; reads like the paper's figure.

        Args:
            views: :attr:`num_views` views of each image, normalised, each (B, C, H, W).
            samples: Data samples of the images, if the data set gives any.
        """
        raise NotImplementedError

    def loss(self, inputs: Tensor | list[Tensor], data_samples: list | None = None, **kwargs: Any) -> dict[str, Tensor]:
        """The weighted losses of a batch; what mmengine asks for.

        Raises:
            RuntimeError: There are teachers that nobody moves.
            ValueError: The views are too few, or of another size than the encoder's.
        """
        self._check_updater()
        views = list(inputs) if isinstance(inputs, (list, tuple)) else [inputs]
        if self.num_views > 1 and len(views) != self.num_views:
            raise ValueError(
                f'{type(self).__name__} needs {self.num_views} views of each image, but the pipeline gives '
                f"{len(views)}: end it with `dict(type='mmpl.TwoViews', ...)` and `PackInputs`"
            )
        views = views[: self.num_views]
        for view in views:
            self._check_images(view)
        losses, self.last_figures = self.step(views, data_samples)
        if undeclared := losses.keys() - self.LOSSES.keys():
            raise RuntimeError(f'{type(self).__name__}.LOSSES lacks what its step returns: {sorted(undeclared)}')
        return {name: weigh(loss, self.loss_weights[name.removeprefix('loss_')]) for name, loss in losses.items()}

    @property
    def figures(self) -> dict[str, Figure]:
        """Declarations of all that is logged beside the losses, by key; a subclass adds those of its parts."""
        return {
            _logged(key, name): dataclasses.replace(figure, label=name.replace('_', ' '), part=name)
            for name in self.teachers
            for key, figure in dict(momentum=MOMENTUM, init_share=INIT_SHARE).items()
        }

    def scheduled(self, progress: float) -> dict[str, float]:
        """Figures that follow a schedule, when a share ``progress`` of the run, in [0, 1], is done."""
        return {_logged('momentum', name): teacher.momentum(progress) for name, teacher in self.teachers.items()}

    def init_shares(self, progress: float) -> dict[str, float]:
        """How much of its start each teacher still is, by logged key; needs :meth:`set_length`."""
        return {
            _logged('init_share', name): teacher.momentum.init_share(progress)
            for name, teacher in self.teachers.items()
        }

    # ------------------------------------------------------------------ what follows the steps

    @property
    def teachers(self) -> dict[str, Teacher]:
        """The teachers by their attributes' names."""
        return {name: module for name, module in self.named_children() if isinstance(module, Teacher)}

    def attach_updater(self, name: str) -> None:
        """Promise that somebody, who is called ``name`` in errors, calls :meth:`after_step` after each optimizer step.

        Raises:
            RuntimeError: If somebody else has promised it already.
        """
        if self._updater is not None:
            raise RuntimeError(
                f'the teachers are updated by {self._updater} already and must not be updated twice a step by {name}: '
                f'keep one DualTeacherHook in `custom_hooks`'
            )
        self._updater = name

    def detach_updater(self) -> None:
        """Take the promise back."""
        self._updater = None

    def set_length(self, steps: int, epochs: int) -> None:
        """Say how many optimizer steps and epochs the run has; momenta by ``horizon`` follow it."""
        for teacher in self.teachers.values():
            teacher.momentum.fit(steps if teacher.momentum.every == 'step' else epochs)

    def set_progress(self, progress: float) -> None:
        """Say which share of the run, in [0, 1], is done; schedules inside of the model follow it."""
        check_number('progress', progress, 0, 1)
        self.progress = progress

    def after_step(self, progress: float, epoch: int, taken: Tensor | None = None) -> None:
        """Move all that follows the steps; once after each optimizer step that was taken.

        Args:
            progress: Share of the run that is done, in [0, 1].
            epoch: Epochs of images that are done.
            taken: Whether the step was taken, () bool, where only the device knows; if it was not, all stays as it is.
                None: it was.
        """
        for part in self._followers():
            if isinstance(part, Teacher):
                part.after_step(progress, epoch, taken)
                continue
            before = [] if taken is None else [(value, value.clone()) for value in part.state_dict().values()]
            part.after_step(progress, epoch)
            for value, old in before:
                value.copy_(torch.where(taken, value, old))

    def _followers(self) -> list[Any]:
        return [module for module in self.modules() if module is not self and hasattr(module, 'after_step')]

    def _check_updater(self) -> None:
        if self._updater is None and self._followers():
            raise RuntimeError(
                'nobody updates the teachers, so there is nothing to learn from them: add '
                "`dict(type='mmpl.DualTeacherHook')` to `custom_hooks`; a training loop of your own calls "
                '`model.attach_updater(...)` once and `model.after_step(...)` after each optimizer step'
            )

    # ------------------------------------------------------------------ weights

    def init_weights(self) -> None:
        """Initialise the student, and then the teachers, but for those that a checkpoint of ``init_cfg`` brings."""
        loaded, prefix = dict[str, Tensor](), ''
        given = self.init_cfg if isinstance(self.init_cfg, list | tuple) else [self.init_cfg]
        for cfg in filter(loads_weights, given):
            loaded = read_checkpoint(cfg['checkpoint']).state_dict
            prefix = f'{cfg["prefix"].rstrip(".")}.' if cfg.get('prefix') else ''
        super().init_weights()
        for name, teacher in self.teachers.items():
            if not any(key.startswith(f'{prefix}{name}.') for key in loaded):
                teacher.init_copies()

    def copy_to_teachers(self, names: Iterable[str] | None = None) -> None:
        """Make teachers equal to the student: those named, or all."""
        for name in self.teachers if names is None else names:
            self.teachers[name].move(0)

    def check_loaded(self, state_dict: Mapping[str, Tensor], resumed: bool) -> list[str]:
        """Refuse a checkpoint that does not fit, and tell which teachers it lacks; one of a plain MAE lacks all.

        Args:
            state_dict: Of the checkpoint.
            resumed: Whether the run goes on from it, for which all keys must fit; or starts from it, for which those of
                the backbone must.
        """
        if resumed:
            try:
                check_state_dict(self, state_dict)
            except CheckpointMismatchError as error:
                raise CheckpointMismatchError(
                    f'{error}\n  A run that is resumed needs all keys. To start from the weights of this checkpoint, '
                    'set `load_from` to it and `resume=False`.'
                ) from error
        else:
            check_state_dict(self.backbone, state_dict, 'backbone.', resizable=('pos_embed',))
        return [name for name in self.teachers if not any(key.startswith(f'{name}.') for key in state_dict)]

    # ------------------------------------------------------------------ checking

    @classmethod
    def check_weights(cls, loss_weights: Mapping[str, float] | None) -> dict[str, float]:
        """Weights of all :attr:`LOSSES`, by key without ``loss_``; ``recon`` must weigh something, others may be 0."""
        parts = [key.removeprefix('loss_') for key in cls.LOSSES]
        weights = dict.fromkeys(parts, 1.0) | dict(loss_weights or {})
        for name, weight in weights.items():
            check_choice('loss_weights', name, parts)
            check_number(f'loss_weights.{name}', weight, 0, open_minimum=name == 'recon')
        return weights

    def check_sizes(self, more: Iterable[tuple[str, object, object, str]] = ()) -> None:
        """Refuse parts of a masked autoencoder that do not fit together.

        Args:
            more: Further rows of a field, its value, what it must be, and why.
        """
        encoder, channels = self.backbone, self.backbone.in_channels
        self.masking.split(encoder.num_patches)
        check_masks(encoder, self.masking)
        rows = [
            ('neck.num_patches', self.neck.num_patches, encoder.num_patches, 'the patches of `backbone`'),
            ('neck.embed_dims', self.neck.embed_dims, encoder.token_dims, 'the width of `backbone`'),
            ('head.in_channels', getattr(self.head, 'in_channels', channels), channels, 'the channels of `backbone`'),
            (
                'neck.with_cls_token',
                bool(self.neck.num_extra_tokens),
                bool(encoder.num_extra_tokens),
                'as `backbone` has a class token or has none',
            ),
            ('neck.out_dims', self.neck.out_dims, self.head.out_dims, f'what `head.target={self.head.target!r}` takes'),
        ]
        check_equal([*rows, *more])

    def _check_images(self, images: Tensor) -> None:
        check_channels(getattr(self.backbone, 'in_channels', images.shape[1]), images)
        size = getattr(self.backbone, 'img_size', None)
        if size is not None and tuple(images.shape[-2:]) != tuple(size):
            raise ValueError(
                f'`backbone.img_size` is {tuple(size)}, but the images are {tuple(images.shape[-2:])}: '
                f"make the pipeline's crop and `img_size` equal"
            )


def _logged(figure: str, teacher: str) -> str:
    return f'{figure}_{teacher.removesuffix("_teacher")}'


def check_masks(encoder: nn.Module, masking: nn.Module) -> None:
    """Refuse masks of one image each for an encoder that takes one for all of a batch, and the other way round."""
    shared = [getattr(part, 'shares_mask', False) for part in (encoder, masking)]
    if shared[0] != shared[1]:
        raise ValueError(
            f'`masking.type` {type(masking).__name__} gives {_MASKS[shared[1]]}, but `backbone.type` '
            f'{type(encoder).__name__} takes {_MASKS[shared[0]]}'
        )


def check_equal(rows: Iterable[tuple[str, object, object, str]]) -> None:
    """Refuse sizes that do not fit: rows of a field, its value, what it must be, and why."""
    for field, value, expected, reason in rows:
        if value != expected:
            raise ValueError(f'`{field}` must be {expected}, {reason}, but got {value}')


def build_autoencoder(backbone: dict, neck: dict, head: dict) -> tuple[nn.Module, nn.Module, nn.Module]:
    """Build encoder, decoder and reconstruction head; sizes that follow from the encoder are filled in."""
    for field, cfg in dict(backbone=backbone, neck=neck, head=head).items():
        check_part(field, cfg)
    encoder = MODELS.build(backbone)
    of_encoder = dict(embed_dims=encoder.token_dims, patch_size=encoder.token_size)
    if head.get('target') == 'pixel':
        of_encoder.update(in_channels=encoder.in_channels)
    recon_head = MODELS.build(with_defaults(head, **of_encoder))
    sizes = dict(embed_dims=encoder.token_dims, num_patches=encoder.num_patches, out_dims=recon_head.out_dims)
    if not encoder.num_extra_tokens:
        sizes['with_cls_token'] = False
    return encoder, MODELS.build(with_defaults(neck, **sizes)), recon_head


def check_left_out(cfg: dict) -> None:
    """Refuse fields of a part that is not built, as its loss weighs nothing, like those of one that is."""
    with preserve_rng_state():
        MODELS.build(cfg)


def view_boxes(samples: list | None) -> list | None:
    """Where the two views of each image lie in it, (2, 4) each; None if they share their geometry, or without samples.

    Args:
        samples: With ``view_boxes`` of :class:`mmpl.datasets.TwoViews`.

    Raises:
        ValueError: ``view_boxes`` are missing in some.
    """
    if any('view_boxes' not in sample for sample in samples or []):
        raise ValueError(
            '`view_boxes` of mmpl.TwoViews is missing in the data samples: hand it on with '
            "`dict(type='PackInputs', meta_keys=('view_boxes',))`"
        )
    boxes = [sample.get('view_boxes') for sample in samples or []]
    without = sum(box is None for box in boxes)
    if without == len(boxes):
        return None
    if without:
        raise ValueError(f'`view_boxes` must be in every sample or in none, but {without} of {len(boxes)} lack it')
    return boxes


def with_defaults(cfg: Mapping, **defaults: Any) -> dict:
    """A config with the fields that it leaves out."""
    return defaults | dict(cfg)


def weigh(loss: Tensor, weight: float) -> Tensor:
    """Weigh a loss; a weight of 1 leaves its bits alone."""
    return loss if weight == 1 else loss * weight
