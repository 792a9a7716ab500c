"""What PL-MAE and MSA share: a masked student, and teachers that somebody else has to move."""

from collections.abc import Iterable, Mapping

import torch
from mmpretrain.models.selfsup import BaseSelfSupervisor
from torch import Tensor, nn

from mmpl.models import EMATeacher
from mmpl.registry import MODELS
from mmpl.utils.fields import check_choice, check_number, check_part


class MaskedTeacherStudent(BaseSelfSupervisor):
    """A masked autoencoder with teachers that are moving averages of it.

    A subclass builds its parts and then its teachers, names them in
    :attr:`teachers`, and offers ``update_teachers`` with one keyword
    ``momentum_<name>`` a teacher.

    Args:
        backbone (nn.Module): The student's encoder, a
            :class:`mmpl.models.MaskedViT`.
        neck (nn.Module): The decoder, a :class:`mmpl.models.TokenDecoder`.
        head (nn.Module): What is reconstructed, a
            :class:`mmpl.models.TokenReconHead`.
        masking (dict, optional): Where the masks come from. Defaults to
            :class:`mmpl.models.RandomMasking` with its defaults.
        data_preprocessor (dict, optional): As in mmpretrain.
        init_cfg (dict, optional): Initialisation.
    """

    def __init__(
        self,
        backbone: nn.Module,
        neck: nn.Module,
        head: nn.Module,
        masking: dict | None = None,
        data_preprocessor: dict | None = None,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(backbone, neck, head, data_preprocessor=data_preprocessor, init_cfg=init_cfg)
        if masking is not None:
            check_part('masking', masking, 'dict(mask_ratio=0.75)')
        self.masking = MODELS.build(with_defaults(masking or {}, type='mmpl.RandomMasking'))
        self.progress = 0.0
        self.track_health = False
        self.health_stats: dict = {}  # by name, sums over tokens; see `LabelStats` and `AlignStats`
        self.target_norm: Tensor | None = None
        self._updater: str | None = None

    # ------------------------------------------------------------------ the teachers

    @property
    def teachers(self) -> dict[str, EMATeacher]:
        """The teachers by the names under which they are moved."""
        raise NotImplementedError

    @property
    def students(self) -> dict[str, nn.Module]:
        """What the teachers are moving averages of."""
        raise NotImplementedError

    @property
    def has_teachers(self) -> bool:
        """Whether anything has to be updated."""
        return bool(self.teachers)

    def attach_updater(self, name: str) -> None:
        """Promise that somebody calls ``update_teachers`` after each optimizer step.

        Args:
            name (str): Who; for error messages.

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

    def set_progress(self, progress: float) -> None:
        """Say how far the run is; schedules inside the model follow it.

        Args:
            progress (float): Share of the run that is done, in [0, 1].
        """
        check_number('progress', progress, 0, 1)
        self.progress = progress

    @torch.no_grad()
    def copy_to_teachers(self, names: Iterable[str] | None = None) -> None:
        """Make teachers equal to the student, as they are at the start of a run.

        Args:
            names (Iterable[str], optional): Which of :attr:`teachers`. None
                stands for all.
        """
        for name in self.teachers if names is None else names:
            EMATeacher.update(self.teachers[name], self.students, 0)

    def init_weights(self) -> None:
        """Initialise the student; the teachers start as copies of it."""
        super().init_weights()
        self.copy_to_teachers()

    # ------------------------------------------------------------------ checking

    def _check_sizes(self, sizes: list[tuple[str, object, object, str]]) -> None:
        """Refuse parts that do not fit together; a row is field, its value, what it must be, and why."""
        encoder = self.backbone
        self.masking.split(encoder.num_patches)
        common = [
            ('neck.num_patches', self.neck.num_patches, encoder.num_patches, 'the patches of `backbone`'),
            ('neck.embed_dims', self.neck.embed_dims, encoder.embed_dims, 'the width of `backbone`'),
            ('neck.out_dims', self.neck.out_dims, self.head.out_dims, f'what `head.target={self.head.target!r}` takes'),
        ]
        for field, value, expected, reason in common + sizes:
            if value != expected:
                raise ValueError(f'`{field}` must be {expected}, {reason}, but got {value}')

    def _check_images(self, images: Tensor) -> None:
        if tuple(images.shape[-2:]) != tuple(self.backbone.img_size):
            raise ValueError(
                f'`backbone.img_size` is {tuple(self.backbone.img_size)}, '
                f'but the images are {tuple(images.shape[-2:])}: '
                f"make the pipeline's crop and `img_size` equal"
            )

    def _check_updater(self) -> None:
        if self.has_teachers and self._updater is None:
            raise RuntimeError(
                'nobody updates the teachers, so there is nothing to learn from them: add '
                "`dict(type='mmpl.DualTeacherHook')` to `custom_hooks`; a training loop of your own calls "
                '`model.attach_updater(...)` once and `model.update_teachers(...)` after each optimizer step'
            )


def build_autoencoder(backbone: dict, neck: dict, head: dict) -> tuple[nn.Module, nn.Module, nn.Module]:
    """Build encoder, decoder and reconstruction head; sizes that follow from the encoder are filled in.

    Args:
        backbone (dict): Config of the encoder.
        neck (dict): Config of the decoder.
        head (dict): Config of the reconstruction head.

    Returns:
        tuple[nn.Module, nn.Module, nn.Module]: The three, in this order.

    Raises:
        TypeError: If one of them is no config.
    """
    for field, cfg in dict(backbone=backbone, neck=neck, head=head).items():
        check_part(field, cfg)
    encoder = MODELS.build(backbone)
    recon_head = MODELS.build(with_defaults(head, embed_dims=encoder.embed_dims, patch_size=encoder.patch_size))
    sizes = dict(embed_dims=encoder.embed_dims, num_patches=encoder.num_patches, out_dims=recon_head.out_dims)
    return encoder, MODELS.build(with_defaults(neck, **sizes)), recon_head


def with_defaults(cfg: Mapping, **defaults) -> dict:
    """A config with the fields that it leaves out."""
    return defaults | dict(cfg)


def weigh(loss: Tensor, weight: float) -> Tensor:
    """Weigh a loss; a weight of 1 leaves its bits alone."""
    return loss if weight == 1 else loss * weight


def check_weights(loss_weights: Mapping | None, parts: tuple[str, ...], field: str = 'loss_weights') -> dict:
    """Weights of all parts of a loss.

    Args:
        loss_weights (Mapping, optional): Those that differ from 1.
        parts (tuple[str, ...]): All parts; the first one is ``recon``.
        field (str): For error messages.

    Returns:
        dict[str, float]: One weight a part.

    Raises:
        TypeError: If a weight is not a number.
        ValueError: If a part is unknown, a weight negative, or that of ``recon`` 0.
    """
    weights = dict.fromkeys(parts, 1.0) | dict(loss_weights or {})
    for name, weight in weights.items():
        check_choice(field, name, parts)
        check_number(f'{field}.{name}', weight, 0, open_minimum=name == 'recon')
    return weights
