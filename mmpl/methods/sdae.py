"""SdAE: self-distillated masked autoencoder (Chen et al., ECCV 2022)."""

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from mmpl.models import Teacher, TeacherView
from mmpl.registry import MODELS
from mmpl.utils.fields import checked
from mmpl.utils.figures import Figure, of_part

from .base import Method, Step, build_autoencoder


@MODELS.register_module()
class SdAE(Method):
    """A masked autoencoder that predicts the tokens of a teacher, which sees nothing but the masked patches.

    The student is MAE's. The teacher encodes the masked patches in folds of as many as the student sees, each fold with
    a class token of its own (section 3.2); it starts from an initialisation of its own and follows the student once an
    epoch (section 3.3). Its tokens after the final norm, normalised one by one, are compared by their cosine.

    Args:
        backbone: The student's encoder, a :class:`mmpl.models.MaskedViT`.
        neck: The decoder, a :class:`mmpl.models.TokenDecoder`.
        masking: Where the masks come from, a :class:`mmpl.models.RandomMasking`; the masked patches must come out even
            in folds.
        momentum: Of the teacher, see :class:`mmpl.models.MomentumSchedule`.
        data_preprocessor: As in mmpretrain.
        init_cfg: Initialisation.
    """

    LOSSES = dict(loss_recon='reconstruction')

    @checked()
    def __init__(
        self,
        backbone: dict,
        neck: dict,
        masking: dict | None = None,
        momentum: dict = dict(start=0.96, end=0.99, every='epoch'),  # noqa: B006
        data_preprocessor: dict | None = None,
        init_cfg: dict | None = None,
    ) -> None:
        encoder, decoder, head = build_autoencoder(backbone, neck, dict(type='mmpl.TokenReconHead', loss='cosine'))
        super().__init__(encoder, decoder, head, masking or {}, data_preprocessor=data_preprocessor, init_cfg=init_cfg)
        self.check_sizes()
        num_visible, _ = self.masking.split(encoder.num_patches)
        TeacherView.check_folds(encoder.num_patches - num_visible, num_visible, 'SdAE')
        self.teacher = Teacher(momentum, starts_as='own', backbone=self.backbone)

    def step(self, views: list[Tensor], samples: list | None = None) -> Step:
        """One step on images (B, C, H, W)."""
        (images,) = views
        masks = self.masking(len(images), self.backbone.num_patches, images.device)
        pred = self.neck(self.backbone(images, masks.ids_keep), masks)  # (B·R, P, D)
        with torch.no_grad():
            tokens = TeacherView(self.teacher.backbone, images, masks, 'folds').masked.float()  # (B·R, P, D)
            target = F.layer_norm(tokens, tokens.shape[-1:], eps=1e-6)
        figures = {'target_norm': tokens.norm(dim=-1).mean()} if self.track_health else {}
        return Step({'loss_recon': self.head.loss(pred, target, masks)}, figures)

    @property
    def figures(self) -> dict[str, Figure]:
        """Of the targets, and the momentum."""
        return super().figures | of_part('target', 'target tokens', self.head.FIGURES)

    @classmethod
    def tiny(cls) -> dict:
        """Without a head: it follows from the method."""
        cfg = super().tiny()
        del cfg['head']
        return cfg
