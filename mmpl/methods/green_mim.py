"""GreenMIM: green hierarchical vision transformer for masked image modelling (Huang et al., NeurIPS 2022)."""

from typing import Annotated

import torch
from torch import Tensor

from mmpl.models import Masks, RandomMasking
from mmpl.registry import MODELS
from mmpl.utils.fields import Interval, Natural, check_part, checked

from .base import Method, Step, build_autoencoder, with_defaults


@MODELS.register_module()
class BatchMasking(RandomMasking):
    """One uniformly random mask a step, of all images on all ranks (GreenMIM, section 3.2, has one a GPU).

    Args:
        mask_ratio: Share of the mask units that is hidden from the student, in (0, 1).
        predict_ratio: Share of the masked units that the decoder predicts, in (0, 1].
        seed: Seed of the masks.
    """

    shares_mask = True
    """Whether all images have one mask."""

    @checked('masking')
    def __init__(
        self,
        mask_ratio: Annotated[float, Interval(0, 1, open_low=True, open_high=True)] = 0.75,
        predict_ratio: Annotated[float, Interval(0, 1, open_low=True)] = 1.0,
        seed: Natural = 0,
    ) -> None:
        super().__init__(mask_ratio=mask_ratio, predict_ratio=predict_ratio, seed=seed)

    def forward(self, batch_size: int, num_patches: int | tuple[int, int], device: torch.device | str = 'cpu') -> Masks:
        """Draw the mask of one step, as B equal rows, and count the step."""
        noise = self.draw(0, 1, num_patches).expand(batch_size, -1)
        return Masks.from_noise(noise, *self.split(noise.shape[1])).to(device)


@MODELS.register_module()
class GreenMIM(Method):
    """A masked autoencoder with a Swin transformer that encodes nothing but the visible mask units.

    A unit of 32 x 32 pixels is visible or masked as a whole, in all stages, and the same ones are visible in all images
    of a step: so visible tokens of windows of any size are grouped once for all of them, by what fills the groups best.
    The decoder predicts the pixels of the masked units, each standardised by itself.

    Args:
        backbone: The student's encoder, a :class:`mmpl.models.MaskedSwin`.
        neck: The decoder, a :class:`mmpl.models.TokenDecoder`; one token a unit.
        masking: Where the masks come from, a :class:`BatchMasking`.
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
        data_preprocessor: dict | None = None,
        init_cfg: dict | None = None,
    ) -> None:
        encoder, decoder, head = build_autoencoder(backbone, neck, dict(type='mmpl.TokenReconHead', target='pixel'))
        check_part('masking', masking or {}, 'dict(mask_ratio=0.75)')
        masking = with_defaults(masking or {}, type='mmpl.BatchMasking')
        super().__init__(encoder, decoder, head, masking, data_preprocessor=data_preprocessor, init_cfg=init_cfg)
        self.check_sizes()

    def step(self, views: list[Tensor], samples: list | None = None) -> Step:
        """One step on images (B, C, H, W)."""
        (images,) = views
        masks = self.masking(len(images), self.backbone.num_patches)  # on the CPU, where windows are grouped
        latent = self.backbone(images, masks.ids_keep[0])  # (B, V, D)
        masks = masks.to(images.device)
        pred = self.neck(latent, masks)  # (B, P, C)
        target = self.head.targets(images, masks)
        return Step({'loss_recon': self.head.loss(pred, target, masks)})

    @classmethod
    def tiny(cls) -> dict:
        """64 units of 2 x 2 pixels: visible are 64 tokens of the first stage, which are packed, and 16 of the last."""
        cfg = super().tiny()
        del cfg['head'], cfg['masking']
        arch = dict(embed_dims=16, depths=[2, 2], num_heads=[2, 4])
        return cfg | dict(backbone=dict(type='mmpl.MaskedSwin', arch=arch, img_size=16, patch_size=1, window_size=4))
