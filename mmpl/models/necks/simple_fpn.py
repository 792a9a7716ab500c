"""A feature pyramid from the single feature map of a plain Vision Transformer."""

from collections.abc import Sequence
from math import log2

import torch.nn.functional as F
from mmengine.model import BaseModule
from mmpretrain.models.utils import build_norm_layer
from torch import Tensor, nn

from mmpl.registry import MODELS


@MODELS.register_module()
class SimpleFPN(BaseModule):
    """Simple feature pyramid: every level is made from the last feature map alone.

    Li et al., "Exploring Plain Vision Transformer Backbones for Object Detection" (ECCV 2022), section 3 and appendix
    A.2: transposed 2 x 2 convolutions (LayerNorm and GELU between two of them) enlarge the map, max pooling shrinks it;
    then a 1 x 1 and a 3 x 3 convolution, each with LayerNorm.

    Args:
        in_channels: Channels of the input map; can be halved as often as the map is enlarged.
        out_channels: Channels of every level.
        scale_factors: Size of each level over the input's, powers of two, falling. The defaults make strides 4, 8, 16
            and 32 of a stride-16 map; patches of 4 pixels need (1, 0.5, 0.25, 0.125) for the same.
        num_outs: Number of levels; those beyond ``scale_factors`` halve the last one by taking every second element, as
            for the stride-64 level of Mask R-CNN's RPN. None means one per scale factor.
        norm_cfg: Normalisation after each convolution, ``dict(type='LN2d', eps=1e-6)`` if it is None.
        init_cfg: Initialisation.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int = 256,
        scale_factors: Sequence[float] = (4, 2, 1, 0.5),
        num_outs: int | None = None,
        norm_cfg: dict | None = None,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(init_cfg)
        norm_cfg = norm_cfg or dict(type='LN2d', eps=1e-6)
        wrong = [s for s in scale_factors if s <= 0 or log2(s) % 1]
        if wrong or not scale_factors:
            raise ValueError(f'scale_factors={tuple(scale_factors)}: {wrong} not powers of two')
        if list(scale_factors) != sorted(set(scale_factors), reverse=True):
            raise ValueError(f'scale_factors={tuple(scale_factors)} must fall')
        if in_channels % max(scale_factors):
            raise ValueError(f'in_channels={in_channels} cannot be divided by the scale factor {max(scale_factors)}')
        self.num_outs = len(scale_factors) if num_outs is None else num_outs
        if self.num_outs < len(scale_factors):
            raise ValueError(f'num_outs={num_outs} is less than the {len(scale_factors)} scale_factors')
        self.in_channels = in_channels
        self.scale_factors = tuple(scale_factors)
        self.levels = nn.ModuleList()
        for scale in scale_factors:
            steps: list[nn.Module] = []
            channels = in_channels
            doublings = int(log2(scale))
            for i in range(doublings):
                steps.append(nn.ConvTranspose2d(channels, channels // 2, kernel_size=2, stride=2))
                channels //= 2
                if i < doublings - 1:
                    steps += [build_norm_layer(norm_cfg, channels), nn.GELU()]
            if scale < 1:
                steps.append(nn.MaxPool2d(kernel_size=int(1 / scale)))
            for kernel, width in ((1, channels), (3, out_channels)):
                steps.append(nn.Conv2d(width, out_channels, kernel, padding=kernel // 2, bias=False))
                steps.append(build_norm_layer(norm_cfg, out_channels))
            self.levels.append(nn.Sequential(*steps))

    def forward(self, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Of one map, (B, in_channels, H, W), ``num_outs`` (B, out_channels, H * scale, W * scale), finest first."""
        if len(inputs) != 1:
            raise ValueError(f'SimpleFPN takes one feature map, got {len(inputs)}: set out_indices=-1 in the backbone')
        x = inputs[0]
        if min(x.shape[-2:]) * self.scale_factors[-1] < 1:
            raise ValueError(f'a {x.shape[-2]} x {x.shape[-1]} map is too small for scale {self.scale_factors[-1]}')
        outs = [level(x) for level in self.levels]
        while len(outs) < self.num_outs:
            outs.append(F.max_pool2d(outs[-1], kernel_size=1, stride=2))
        return tuple(outs)
