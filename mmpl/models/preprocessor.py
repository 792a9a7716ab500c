"""Normalised images of any number of channels."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from mmpretrain.models.utils import SelfSupDataPreprocessor
from torch import Tensor

from mmpl.registry import MODELS


@MODELS.register_module()
class BandPreprocessor(SelfSupDataPreprocessor):
    """mmpretrain's preprocessor for any number of channels, which does not wait for the device.

    mmengine's takes 1 or 3 channels; mmpretrain's swaps them by a list, which is copied to the device in each step.

    Args:
        mean: Of each channel.
        std: Of each channel.
        non_blocking: Whether the host goes on while a batch is copied, which wants ``train_dataloader.pin_memory``.
        **kwargs: As in mmpretrain, such as ``bgr_to_rgb``.
    """

    def __init__(
        self,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        non_blocking: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(non_blocking=non_blocking, **kwargs)
        self._enable_normalize = mean is not None
        for name, values in dict(mean=mean, std=std).items():
            if values is not None:
                self.register_buffer(name, torch.tensor(values).view(-1, 1, 1), persistent=False)

    def forward(self, data: dict, training: bool = False) -> dict:
        """Copy a collated batch to the device and normalise its images, or each view of them, (B, C, H, W)."""
        inputs, samples = self.cast_data(list(data.values()))
        views = [self._normalised(view) for view in (inputs if isinstance(inputs, list) else [inputs])]
        return dict(inputs=views if isinstance(inputs, list) else views[0], data_samples=samples)

    def _normalised(self, images: Tensor) -> Tensor:
        images = (images.flip(1) if self._channel_conversion else images).float()
        return (images - self.mean) / self.std if self._enable_normalize else images


def fit_preprocessor(cfg: Mapping[str, Any], in_channels: int) -> dict[str, Any]:
    """Check a preprocessor's config against the encoder's channels; mmpretrain's becomes ours.

    Raises:
        ValueError: Mean or std are not one number, or one a channel, one of them is missing, or a std is not above 0;
            channels that are not three are to be swapped.
    """
    numbers = {name: cfg.get(name) for name in ('mean', 'std')}
    if (numbers['mean'] is None) != (numbers['std'] is None):
        raise ValueError(f'`data_preprocessor.mean` and `std` must be given both or neither, but got {numbers}')
    if not all(values is None or isinstance(values, Sequence) for values in numbers.values()):
        return dict(cfg)  # for the preprocessor to refuse
    if any(not value > 0 for value in numbers['std'] or []):
        raise ValueError(f'`data_preprocessor.std` must be above 0, but got {numbers["std"]!r}')
    for name, values in numbers.items():
        if values is not None and len(values) not in (1, in_channels):
            raise ValueError(
                f'`data_preprocessor.{name}` must have one number, or one for each of the {in_channels} channels of '
                f'`backbone.in_channels`, but got {values!r}'
            )
    for name in ('bgr_to_rgb', 'rgb_to_bgr', 'to_rgb'):
        if cfg.get(name) and in_channels != 3:
            raise ValueError(
                f'`data_preprocessor.{name}` must be False with `backbone.in_channels` {in_channels}, where no channel '
                'is red or blue, but got True'
            )
    kind = str(cfg.get('type', 'SelfSupDataPreprocessor')).rsplit('.', maxsplit=1)[-1]
    return dict(cfg, type='mmpl.BandPreprocessor') if kind == 'SelfSupDataPreprocessor' else dict(cfg)


def check_channels(in_channels: int, inputs: Any) -> None:
    """Refuse raw images, (B, C, H, W) or one (C, H, W) a sample, or views of them, with other channels than expected.

    mmengine's preprocessors would drop a fourth channel while they swap the first three, or make three of one by
    subtracting three means.

    Raises:
        ValueError: The images have another number of channels.
    """
    found = {image.shape[-3] for image in (inputs if isinstance(inputs, list | tuple) else [inputs])}
    if found - {in_channels}:
        raise ValueError(
            f'`backbone.in_channels` is {in_channels}, but the images have {sorted(found)} channels: make it equal to '
            'what the loading transform gives (its `color_type`)'
        )


def check_scale(std: Sequence[float] | None, inputs: Any) -> None:
    """Refuse raw images of 0 to 255 whose mean and std are for 0 to 1, as torchvision has them.

    Args:
        std: Of ``data_preprocessor``.
        inputs: As of :func:`check_channels`.

    Raises:
        ValueError: The images are whole numbers, and each ``std`` is below 1.
    """
    images = inputs if isinstance(inputs, list | tuple) else [inputs]
    if isinstance(std, Sequence) and max(std) < 1 and any(image.dtype == torch.uint8 for image in images):
        raise ValueError(
            f'`data_preprocessor.std` {list(std)} is for pixels from 0 to 1, but the images have 0 to 255: multiply '
            '`mean` and `std` by 255'
        )
