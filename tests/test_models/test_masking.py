"""Masks: what they hold, and that they are drawn again after a resume."""

import json
import re

import pytest
import torch
from torch.nn import functional as F  # noqa: N812

from mmpl.models import TeacherView
from mmpl.models.masking import BlockMasking, Masks, RandomMasking, gather_tokens


def test_masks_partition_the_patches():
    masks = RandomMasking(mask_ratio=0.75, num_masks=3, predict_ratio=0.5)(4, 64)
    assert masks.ids_keep.shape == (12, 16)
    assert masks.ids_predict.shape == (12, 24)
    order = torch.cat((masks.ids_keep, masks.ids_masked), 1)
    assert torch.equal(order.sort(1).values, torch.arange(64).expand(12, -1))
    assert torch.equal(torch.gather(order, 1, masks.ids_restore), torch.arange(64).expand(12, -1))
    assert torch.equal(masks.ids_predict, masks.ids_masked[:, :24])
    assert len({tuple(row.sort().values.tolist()) for row in masks.ids_keep}) == 12, 'all masks differ'


def test_every_patch_is_as_often_visible():
    masks = RandomMasking(mask_ratio=0.75)(20_000, 16)
    share = torch.bincount(masks.ids_keep.flatten(), minlength=16) / 20_000
    assert torch.allclose(share, torch.full((16,), 0.25), atol=5 * (0.25 * 0.75 / 20_000) ** 0.5)


def test_resumed_masks_are_the_ones_that_would_have_been():
    straight = RandomMasking(seed=3)
    drawn = [straight(2, 36).ids_keep for _ in range(5)]
    killed = RandomMasking(seed=3)
    for _ in range(3):
        killed(2, 36)
    resumed = RandomMasking(seed=3)
    resumed.load_state_dict(killed.state_dict())
    assert torch.equal(resumed(2, 36).ids_keep, drawn[3])
    assert torch.equal(resumed(2, 36).ids_keep, drawn[4])
    assert not torch.equal(drawn[3], drawn[4])
    assert not torch.equal(RandomMasking(seed=4)(2, 36).ids_keep, drawn[0])


def test_ranks_draw_slices_of_the_joint_batch(monkeypatch):
    joint = RandomMasking(num_masks=2)(6, 49).ids_keep
    for rank in (0, 1):
        monkeypatch.setattr('mmpl.models.masking.get_rank', lambda rank=rank: rank)
        assert torch.equal(RandomMasking(num_masks=2)(3, 49).ids_keep, joint[6 * rank : 6 * rank + 6])


def test_masks_do_not_touch_the_global_generators():
    state = torch.get_rng_state()
    RandomMasking()(2, 16)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize('repeats', [1, 3])
def test_gather_tokens(repeats):
    tokens = torch.randn(2, 5, 4, requires_grad=True)
    ids = torch.randint(5, (2 * repeats, 3))
    picked = gather_tokens(tokens, ids)
    for row in range(2 * repeats):
        for place in range(3):
            assert torch.equal(picked[row, place], tokens[row // repeats, ids[row, place]])
    picked.sum().backward()
    counts = torch.stack([torch.bincount(ids[repeats * b : repeats * (b + 1)].flatten(), minlength=5) for b in (0, 1)])
    assert torch.equal(tokens.grad[..., 0], counts.float())


def test_from_noise_keeps_the_least():
    masks = Masks.from_noise(torch.tensor([[0.9, 0.1, 0.5, 0.3]]), num_visible=2)
    assert masks.ids_keep.tolist() == [[1, 3]]
    assert masks.ids_masked.tolist() == [[2, 0]]
    assert masks.predicts_all


@pytest.mark.parametrize('ratio', [0, 1, -0.5, 1.5, float('nan')])
def test_refuses_mask_ratio(ratio):
    with pytest.raises(ValueError, match=r'`masking.mask_ratio` must be a number in \(0, 1\)'):
        RandomMasking(mask_ratio=ratio)


@pytest.mark.parametrize(('ratio', 'patches'), [(0.99, 16), (0.9, 4), (1e-17, 16)])
def test_refuses_a_mask_that_hides_all_or_nothing(ratio, patches):
    with pytest.raises(ValueError, match='patches visible; at least one must be visible and one masked'):
        RandomMasking(mask_ratio=ratio).split(patches)


def test_the_interval_that_the_error_gives_is_allowed():
    for patches in [*range(2, 600), 1024, 2**20]:
        with pytest.raises(ValueError, match='use a value in') as error:
            RandomMasking(mask_ratio=1 - 1e-9).split(patches)
        low, high = json.loads(re.search(r'\[.*\]', str(error.value)).group())
        assert RandomMasking(mask_ratio=low).split(patches)[0] == patches - 1
        assert RandomMasking(mask_ratio=high).split(patches)[0] == 1


def test_every_ratio_that_the_error_of_folds_gives_is_allowed():
    for patches in [*range(3, 300), 400, 1024, 4096]:
        with pytest.raises(ValueError, match='these do: ') as error:
            TeacherView.check_folds(1, patches - 1)
        ratios = [float(ratio) for ratio in str(error.value).rpartition('these do: ')[2].split(', ')]
        visible = [RandomMasking(mask_ratio=ratio).split(patches)[0] for ratio in ratios]
        assert len(set(visible)) == len(visible) > 0
        for count in visible:
            TeacherView.check_folds(patches - count, count)


def test_the_visible_patches_are_cut_off_as_mae_does():
    assert RandomMasking(mask_ratio=0.8).split(100)[0] == 19 == int(100 * (1 - 0.8))
    assert RandomMasking(mask_ratio=0.75).split(196)[0] == 49


def test_refuses_to_mask_a_single_patch():
    with pytest.raises(ValueError, match='splits at least two patches, but an image has 1: make `img_size` larger'):
        RandomMasking().split(1)


@pytest.mark.parametrize(
    ('field', 'value', 'error'),
    [('num_masks', 0, ValueError), ('num_masks', 1.5, TypeError), ('predict_ratio', 0, ValueError),
     ('predict_ratio', 1.1, ValueError), ('mask_ratio', '0.75', TypeError), ('seed', -1, ValueError)],
)  # fmt: skip
def test_refuses(field, value, error):
    with pytest.raises(error, match=f'`masking.{field}`'):
        RandomMasking(**{field: value})


# ---------------------------------------------------------------------- blocks


def painted(masking: BlockMasking, numbers: list[float], height: int, width: int) -> set[int]:
    """Masked patches of one image, by laying one rectangle after another."""
    blocks, count = masking.BLOCKS, height * width
    boxes, (lying, back) = numbers[: 4 * blocks], numbers[4 * blocks : 4 * blocks + 2]
    places = [(y, x) for y in range(height) for x in range(width)]
    places.sort(key=lambda place: place if lying < 0.5 else place[::-1], reverse=back < 0.5)
    late = {y * width + x: number for number, (y, x) in enumerate(places)}
    num_masked = count - masking.split(count)[0]
    masked: list[int] = []
    for block in range(blocks):
        area, aspect, down, across = boxes[block::blocks]
        area = count * (masking.min_block + area * (masking.mask_ratio - masking.min_block))
        aspect = masking.max_aspect ** (2 * aspect - 1)
        high = min(height, max(1, round((area * aspect) ** 0.5)))
        wide = min(width, max(1, round((area / aspect) ** 0.5)))
        top, left = int(down * (height - high + 1)), int(across * (width - wide + 1))
        box = {y * width + x for y in range(top, top + high) for x in range(left, left + wide)}
        masked += sorted(box - set(masked), key=late.__getitem__)
    masked += sorted(set(range(count)) - set(masked), key=late.__getitem__)
    return set(masked[:num_masked])


@pytest.mark.parametrize('grid', [(14, 14), (4, 4), (2, 8), (6, 3)])
@pytest.mark.parametrize('ratio', [0.1, 0.5, 0.75])
def test_block_masks_equal_a_loop_over_rectangles(grid, ratio, monkeypatch):
    drawn = []
    original = BlockMasking.noise
    monkeypatch.setattr(BlockMasking, 'noise', lambda self, *args: drawn.append(args[0]) or original(self, *args))
    masking = BlockMasking(mask_ratio=ratio, num_masks=2)
    masks = masking(8, grid)
    assert masks.ids_masked.shape == (16, grid[0] * grid[1] - masking.split(grid[0] * grid[1])[0])
    for numbers, masked in zip(drawn[0].tolist(), masks.ids_masked.tolist(), strict=True):
        assert set(masked) == painted(masking, numbers, *grid)


def neighbours(masks: Masks, side: int) -> float:
    """Share of the patches right of and below a masked one that are masked."""
    masked = torch.zeros(len(masks.ids_masked), side**2).scatter(1, masks.ids_masked, 1.0).view(-1, side, side)
    pairs = (masked[:, 1:] * masked[:, :-1]).mean() + (masked[..., 1:] * masked[..., :-1]).mean()
    return (pairs / (masked[:, :-1].mean() + masked[..., :-1].mean())).item()


def test_what_a_block_mask_leaves_has_few_holes():
    """Patches that are visible among masked ones alone, or masked among visible ones: hardly any, as with BEiT."""
    masks = BlockMasking()(500, 196)
    masked = torch.zeros(500, 196).scatter(1, masks.ids_masked, 1.0).view(-1, 1, 14, 14)
    cross = torch.tensor([[[[0.0, 1, 0], [1, 0, 1], [0, 1, 0]]]])
    around, beside = (F.conv2d(maps, cross, padding=1) for maps in (masked, torch.ones_like(masked)))
    holes = ((masked == 0) & (around == beside)).sum() / 500
    alone = ((masked == 1) & (around == 0)).sum() / 500
    assert holes < 0.3 and alone < 0.3


def test_block_masks_hide_connected_patches():
    blocks, random = BlockMasking()(500, 196), RandomMasking(mask_ratio=0.5)(500, 196)
    assert blocks.ids_keep.shape == random.ids_keep.shape == (500, 98)
    assert neighbours(random, 14) == pytest.approx(0.5, abs=0.02)
    assert neighbours(blocks, 14) > 0.8


def test_what_is_predicted_of_a_block_mask_is_a_random_part_of_it():
    """And not the first rectangle: its neighbours are as often predicted as any masked patch."""
    masks = BlockMasking(predict_ratio=0.5)(500, 196)
    predicted = masks._replace(ids_masked=masks.ids_predict)
    assert neighbours(predicted, 14) == pytest.approx(0.5 * neighbours(masks, 14), abs=0.02)


def test_block_masks_are_drawn_again_after_a_resume_and_are_slices_of_the_joint_batch(monkeypatch):
    straight = BlockMasking(seed=3)
    drawn = [straight(4, 36).ids_masked for _ in range(3)]
    killed = BlockMasking(seed=3)
    killed(4, 36)
    resumed = BlockMasking(seed=3)
    resumed.load_state_dict(killed.state_dict())
    assert torch.equal(resumed(4, 36).ids_masked, drawn[1]) and not torch.equal(drawn[1], drawn[2])
    resumed.rewind(1)
    assert torch.equal(resumed(4, 36).ids_masked, drawn[1])
    assert torch.equal(BlockMasking(seed=3)(4, (6, 6)).ids_masked, drawn[0])
    for rank in (0, 1):
        monkeypatch.setattr('mmpl.models.masking.get_rank', lambda rank=rank: rank)
        assert torch.equal(BlockMasking(seed=3)(2, 36).ids_masked, drawn[0][2 * rank : 2 * rank + 2])


def test_refuses_blocks_that_are_none():
    with pytest.raises(
        ValueError, match='`masking.min_block` must be at most `mask_ratio` 0.05, but is 0.08: lower it'
    ):
        BlockMasking(mask_ratio=0.05)
    with pytest.raises(ValueError, match=r'`masking.max_aspect` must be a number in \[1, inf\)'):
        BlockMasking(max_aspect=0.5)
    with pytest.raises(ValueError, match='`num_patches` must be a square number, or say .* down and across, but got 8'):
        BlockMasking()(1, 8)
