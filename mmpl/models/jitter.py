"""Photometric jitter of normalised images, of any channels, on the device that they are on."""

from typing import Annotated

import torch
from mmengine.dist import get_rank
from torch import Tensor

from mmpl.registry import MODELS
from mmpl.utils.fields import Interval, Natural, checked
from mmpl.utils.transfer import to_device

from .step_noise import StepNoise


@MODELS.register_module()
class PhotometricJitter(StepNoise):
    """Gives each image a contrast and a brightness of its own, and each of its channels a little more of both.

    An image x of mean m becomes ``(x - m) * (1 + a) + m + b``: a and b are uniform in ±``strength`` for the image, and
    those of each channel, in ±``strength / 2``, are added to them. Images are in units of the standard deviation that
    they were normalised by. Our choice, after the colour jitter of SimCLR and BYOL, which is weaker in hue and
    saturation too.

    Args:
        strength: In [0, 1).
        seed: Seed of the draws.
    """

    stream = 1

    @checked('jitter')
    def __init__(self, strength: Annotated[float, Interval(0, 1, open_high=True)] = 0.5, seed: Natural = 0) -> None:
        super().__init__(seed)
        self.strength = strength

    def forward(self, images: Tensor) -> Tensor:
        """Draw the jitter of one step, and count the step: (B, C, H, W)."""
        size, channels = images.shape[:2]
        numbers = torch.from_numpy(self.numbers(get_rank() * size, size, 2 + 2 * channels)).float()
        drawn = to_device(self.strength * (2 * numbers - 1), images.device)
        of_image, of_channels = drawn[:, :2, None], drawn[:, 2:].view(size, 2, channels) / 2
        gain, shift = (of_image + of_channels)[..., None, None].unbind(1)  # each (B, C, 1, 1)
        mean = images.mean((1, 2, 3), keepdim=True)
        return (images - mean) * (1 + gain) + mean + shift
