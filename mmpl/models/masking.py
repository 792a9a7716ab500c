"""Which patches the student sees, and which it has to predict."""

from math import isqrt, log, prod
from typing import Annotated, NamedTuple

import numpy as np
import torch
from mmengine.dist import get_rank
from torch import Tensor

from mmpl.registry import MODELS
from mmpl.utils.fields import Count, Interval, Natural, checked
from mmpl.utils.transfer import to_device

from .step_noise import StepNoise


class Masks(NamedTuple):
    """The masks of one step.

    B images with R masks each are B·R rows, the masks of one image side by side. N patches are split into V visible and
    M = N - V masked ones, of which the first P are to be predicted. Patches are numbered row by row.

    Attributes:
        ids_keep: Visible patches, (B·R, V).
        ids_masked: Masked patches in random order, (B·R, M).
        ids_predict: ``ids_masked[:, :P]``, (B·R, P).
        ids_restore: Where patch n stands in ``cat(ids_keep, ids_masked)``, (B·R, N).
        num_masks: R.
    """

    ids_keep: Tensor
    ids_masked: Tensor
    ids_predict: Tensor
    ids_restore: Tensor
    num_masks: int

    def to(self, device: torch.device | str) -> 'Masks':
        """The same on a device, without waiting for it."""
        ids = {name: to_device(getattr(self, name), device) for name in self._fields if name != 'num_masks'}
        return self._replace(**ids)

    @property
    def num_patches(self) -> int:
        """N, the number of patches of an image."""
        return self.ids_restore.shape[1]

    @property
    def predicts_all(self) -> bool:
        """Whether every masked patch is to be predicted."""
        return self.ids_predict.shape[1] == self.ids_masked.shape[1]

    @property
    def images(self) -> Tensor:
        """Which image each row masks, (B·R,)."""
        rows = self.ids_keep.shape[0]
        return torch.arange(rows // self.num_masks, device=self.ids_keep.device).repeat_interleave(self.num_masks)

    @classmethod
    def from_noise(cls, noise: Tensor, num_visible: int, num_predict: int | None = None, num_masks: int = 1) -> 'Masks':
        """Sort noise: the patches with the least of it stay visible (MAE, section 3).

        Args:
            noise: One number a patch, (B·R, N).
            num_visible: V.
            num_predict: P; None predicts all masked patches.
            num_masks: R.
        """
        ids_shuffle = torch.argsort(noise, dim=1, stable=True)
        ids_masked = ids_shuffle[:, num_visible:]
        return cls(
            ids_keep=ids_shuffle[:, :num_visible],
            ids_masked=ids_masked,
            ids_predict=ids_masked[:, :num_predict],
            ids_restore=torch.argsort(ids_shuffle, dim=1),
            num_masks=num_masks,
        )


def gather_tokens(tokens: Tensor, ids: Tensor) -> Tensor:
    """Pick tokens by their place.

    Args:
        tokens: (B, N, D).
        ids: Places, (B·R, L); row ``b * R + r`` picks from image b.

    Returns:
        (B·R, L, D).
    """
    batch, num_tokens, dims = tokens.shape
    repeats = ids.shape[0] // batch
    if repeats == 1:
        return torch.gather(tokens, 1, ids.unsqueeze(-1).expand(-1, -1, dims))
    offsets = torch.arange(batch, device=ids.device).repeat_interleave(repeats) * num_tokens
    flat = tokens.reshape(batch * num_tokens, dims)
    return flat.index_select(0, (ids + offsets[:, None]).flatten()).view(*ids.shape, dims)


def count_each(ids: Tensor, number: int) -> Tensor:
    """How often each of 0 to ``number`` - 1 is in ``ids``, (...) -> (number,) in fp32; ``bincount`` would wait."""
    flat = ids.flatten()
    return torch.zeros(number, device=ids.device).index_add_(0, flat, torch.ones(flat.shape, device=ids.device))


def count_visible(num_patches: int, mask_ratio: float) -> int:
    """V of N patches, cut off as MAE does: a ratio a rounding error too high leaves one patch less."""
    return int(num_patches * (1 - mask_ratio))


def ratio_leaving(num_visible: int, num_patches: int) -> float:
    """A short mask ratio that leaves just as many patches visible.

    It is 1 - V/N if a few decimals of it do, or else decimals of 1 - (V + 1/2)/N, which is as far from leaving one
    patch less as from leaving one more.
    """
    ratios = [round(1 - (num_visible + more) / num_patches, digits) for more in (0, 0.5) for digits in range(2, 9)]
    return next(ratio for ratio in ratios if count_visible(num_patches, ratio) == num_visible)


@MODELS.register_module()
class RandomMasking(StepNoise):
    """Uniformly random masks, a function of the step and of an image's place in the global batch.

    Args:
        mask_ratio: Share of the patches that is hidden from the student, in (0, 1). 0.75 is MAE's (section 4.1).
        num_masks: Masks of one image per step; they share the teachers' forward passes (the idea is data2vec 2.0's).
        predict_ratio: Share of the masked patches that the decoder predicts, in (0, 1].
        seed: Seed of the masks.
    """

    stream = 0

    @checked('masking')
    def __init__(
        self,
        mask_ratio: Annotated[float, Interval(0, 1, open_low=True, open_high=True)] = 0.75,
        num_masks: Count = 1,
        predict_ratio: Annotated[float, Interval(0, 1, open_low=True)] = 1.0,
        seed: Natural = 0,
    ) -> None:
        super().__init__(seed)
        self.mask_ratio = mask_ratio
        self.num_masks = num_masks
        self.predict_ratio = predict_ratio

    def split(self, num_patches: int) -> tuple[int, int]:
        """How many of N patches are visible, V, and how many are predicted, P.

        Raises:
            ValueError: If no patch would be visible, or none masked.
        """
        num_visible = count_visible(num_patches, self.mask_ratio)
        if not 0 < num_visible < num_patches:
            if num_patches < 2:
                raise ValueError(
                    f'`mask_ratio` splits at least two patches, but an image has {num_patches}: make `img_size` larger '
                    f'or `patch_size` smaller'
                )
            ends = [ratio_leaving(visible, num_patches) for visible in (num_patches - 1, 1)]
            raise ValueError(
                f'`mask_ratio` {self.mask_ratio} leaves {num_visible} of {num_patches} patches visible; at least one '
                f'must be visible and one masked: use a value in {ends}'
            )
        return num_visible, max(1, round((num_patches - num_visible) * self.predict_ratio))

    def forward(self, batch_size: int, num_patches: int | tuple[int, int], device: torch.device | str = 'cpu') -> Masks:
        """Draw the B·R masks of one step, and count the step.

        Args:
            batch_size: B.
            num_patches: N, or how many patches there are down and across.
            device: Of the masks.
        """
        num_visible, num_predict = self.split(_count(num_patches))
        rows = batch_size * self.num_masks
        noise = to_device(self.draw(get_rank() * rows, rows, num_patches), device)
        return Masks.from_noise(noise, num_visible, num_predict, num_masks=self.num_masks)

    def draw(self, first: int, rows: int, num_patches: int | tuple[int, int]) -> Tensor:
        """Noise of the rows from the place ``first`` of this step on, (rows, N); count the step.

        The patches with the most are masked.
        """
        numbers = self.numbers(first, rows, self.draws(_count(num_patches)))
        return torch.from_numpy(self.noise(numbers, num_patches)).float()

    def draws(self, count: int) -> int:
        """How many random numbers the mask of an image of ``count`` patches takes."""
        return count

    def noise(self, numbers: np.ndarray, num_patches: int | tuple[int, int]) -> np.ndarray:
        """Noise of each patch, (rows, N), from numbers in [0, 1), (rows, draws)."""
        return numbers


def _count(num_patches: int | tuple[int, int]) -> int:
    """N, which may be given as how many patches there are down and across."""
    return num_patches if isinstance(num_patches, int) else prod(num_patches)


@MODELS.register_module()
class BlockMasking(RandomMasking):
    """Masks of rectangles (BEiT, section 2.3), of the same number of patches in every image.

    Rectangles of random area, aspect and place are laid one after another until enough patches are covered. The last
    one covers too many: it is filled row by row or column by column, from one of its ends, as far as it has to be. All
    images are drawn at once, with the generator of :class:`RandomMasking`. BEiT draws the area of a rectangle up to
    what is still to be masked, and here it is up to all that is (our choice: so no rectangle has to wait for the one
    before).

    Args:
        mask_ratio: Share of the patches that is hidden from the student, in (0, 1). 0.5 is CAE's.
        min_block: Least area of a rectangle as a share of the patches, at most ``mask_ratio``; BEiT's 16 of 196.
        max_aspect: Longest side of a rectangle over its shortest, at least 1; BEiT's 1 / 0.3.
        num_masks: As in :class:`RandomMasking`.
        predict_ratio: As in :class:`RandomMasking`.
        seed: Seed of the masks.
    """

    BLOCKS = 16
    """Rectangles that are drawn. Their mean area is at least half of what is to be masked, so the last ones are hardly
    ever needed; what they leave to be masked is taken like the last of them (our choice)."""

    @checked('masking')
    def __init__(
        self,
        mask_ratio: Annotated[float, Interval(0, 1, open_low=True, open_high=True)] = 0.5,
        min_block: Annotated[float, Interval(0, 1, open_low=True)] = 0.08,
        max_aspect: Annotated[float, Interval(1)] = 3.3,
        num_masks: Count = 1,
        predict_ratio: Annotated[float, Interval(0, 1, open_low=True)] = 1.0,
        seed: Natural = 0,
    ) -> None:
        super().__init__(mask_ratio, num_masks, predict_ratio, seed)
        if min_block > mask_ratio:
            raise ValueError(
                f'`masking.min_block` must be at most `mask_ratio` {mask_ratio}, but is {min_block}: lower it as well'
            )
        self.min_block = min_block
        self.max_aspect = max_aspect

    def draws(self, count: int) -> int:
        """Four for each rectangle, two for the order inside of the last, and one for each patch."""
        return 4 * self.BLOCKS + 2 + count

    def noise(self, numbers: np.ndarray, num_patches: int | tuple[int, int]) -> np.ndarray:
        """Noise that is 2 higher where a patch is to be masked; a number of patches is that of a square."""
        if isinstance(num_patches, int):
            side = isqrt(num_patches)
            if side**2 != num_patches:
                raise ValueError(
                    '`num_patches` must be a square number, or say how many there are down and across, but got '
                    f'{num_patches}'
                )
            num_patches = (side, side)
        height, width = num_patches
        count, blocks = height * width, self.BLOCKS
        area, aspect, down, across = np.split(numbers[:, : 4 * blocks, None], 4, axis=1)  # each (B·R, blocks, 1)
        (lying, back), noise = numbers[:, 4 * blocks :, None].swapaxes(0, 1)[:2] < 0.5, numbers[:, 4 * blocks + 2 :]

        area = count * (self.min_block + (self.mask_ratio - self.min_block) * area)
        aspect = np.exp((2 * aspect - 1) * log(self.max_aspect))  # as often upright as lying
        high = np.rint(np.sqrt(area * aspect)).clip(1, height)
        wide = np.rint(np.sqrt(area / aspect)).clip(1, width)
        top, left = np.floor(down * (height - high + 1)), np.floor(across * (width - wide + 1))
        y, x = np.arange(height), np.arange(width)
        covered = ((top <= y) & (y < top + high))[..., None] & ((left <= x) & (x < left + wide))[:, :, None]
        covered = covered.reshape(-1, blocks, count)  # (B·R, blocks, N)
        covered_by = np.where(covered.any(1), covered.argmax(1), blocks)  # first rectangle over each patch

        num_masked = count - self.split(count)[0]
        rows = np.arange(count).reshape(height, width)
        columns = np.arange(count).reshape(width, height).T
        order = np.where(lying, rows.ravel(), columns.ravel())  # (B·R, N): by rows or by columns, forth or back
        order = np.where(back, count - 1 - order, order)
        masked = np.argsort(covered_by * count + order, axis=1)[:, :num_masked]
        higher = np.zeros_like(noise)
        np.put_along_axis(higher, masked, 2.0, axis=1)
        return noise + higher
