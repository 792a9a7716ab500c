"""The masked Swin against mmpretrain's, grouped attention against the dense one, and packing against brute force."""

from itertools import combinations

import numpy as np
import pytest
import torch
from mmpretrain.models.backbones import SwinTransformer
from torch.nn import functional as F  # noqa: N812

from mmpl.models.backbones import MaskedSwin
from mmpl.models.backbones.masked_swin import attend, group_windows, pack
from tests.test_models.helpers import scramble

ARCH = dict(embed_dims=16, depths=[2, 2], num_heads=[2, 4])
SIZES = dict(  # (stages' maps, window)
    small=dict(arch=ARCH, img_size=16, patch_size=2, window_size=2),  # 8 and 4, 2
    odd_window=dict(arch=ARCH, img_size=36, patch_size=2, window_size=3),  # 18 and 9, 3
    last_is_one_window=dict(
        arch=ARCH, img_size=32, patch_size=4, window_size=4
    ),  # 8 and 4, 4: mmpretrain does not shift
    three_stages=dict(arch=dict(embed_dims=8, depths=[2, 2, 2], num_heads=[1, 2, 4]), img_size=48, window_size=3),
)


def make(**fields):
    model = MaskedSwin(**fields)
    model.init_weights()
    scramble(model, 0.1)
    model.eval()  # mmpretrain's returns nothing
    return model


def peer_of(model, **fields):
    peer = SwinTransformer(out_indices=(len(model.stages) - 1,), drop_path_rate=0.0, **fields)
    assert list(peer.state_dict()) == list(model.state_dict())
    peer.load_state_dict(model.state_dict())
    peer.eval()
    return peer


@pytest.mark.parametrize('name', SIZES)
def test_with_all_units_visible_it_is_mmpretrains_swin(name):
    """In any order of the units; blocks with and without shift, values and gradients."""
    model = make(**SIZES[name])
    peer = peer_of(model, **SIZES[name])
    side = SIZES[name]['img_size']
    images, ids = torch.randn(2, 3, side, side), torch.randperm(model.num_patches)
    tokens = model(images, ids)
    expected = peer(images)[0].flatten(2).transpose(1, 2)
    assert tokens.shape == (2, model.units**2, model.token_dims)
    torch.testing.assert_close(tokens, expected[:, ids], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(model.encode(images)[0], expected, rtol=1e-5, atol=1e-5)
    tokens.square().mean().backward()
    expected.square().mean().backward()
    for (key, a), b in zip(model.named_parameters(), peer.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-4, atol=1e-5, msg=key)


def dense(model, images, ids):
    """Every token of the image goes through the blocks, but only visible ones are looked at: one row of the softmax at
    a time, over those of the same window, found coordinate by coordinate."""
    x, (height, width) = model.patch_embed(images)
    unit, window = height // model.units, model.window_size
    for stage in model.stages:
        seen = [
            (r, c) for r in range(height) for c in range(width) if r // unit * model.units + c // unit in ids.tolist()
        ]
        for block in stage.blocks:
            shift = block.attn.shift_size if height > window else 0
            msa, h = block.attn.w_msa, block.norm1(x)
            q, k, v = msa.qkv(h).unflatten(-1, (3, msa.num_heads, -1)).unbind(2)  # (B, T, heads, d)
            out = torch.zeros_like(h)
            for r, c in seen:
                mine = [
                    (a, b)
                    for a, b in seen
                    if ((a - shift) // window, (b - shift) // window) == ((r - shift) // window, (c - shift) // window)
                ]
                keys = [a * width + b for a, b in mine]
                rows = [(r - a + window - 1) * (2 * window - 1) + c - b + window - 1 for a, b in mine]
                logits = torch.einsum('bhd,bjhd->bhj', q[:, r * width + c], k[:, keys]) * msa.scale
                weights = (logits + msa.relative_position_bias_table[rows].T).softmax(-1)
                out[:, r * width + c] = msa.proj(torch.einsum('bhj,bjhd->bhd', weights, v[:, keys]).flatten(1))
            x = x + out
            x = block.ffn(block.norm2(x), identity=x)
        if stage.downsample is not None:
            x, (height, width) = stage.downsample(x, (height, width))
            unit //= 2
    return model.final_norm(x)[:, ids]


@pytest.mark.parametrize('name', ['small', 'last_is_one_window'])
@torch.no_grad()
def test_masked_it_is_attention_over_the_visible_tokens_of_each_window(name):
    model = make(**SIZES[name])
    side = SIZES[name]['img_size']
    images = torch.randn(1, 3, side, side)
    for count in (1, 5, model.num_patches - 1):
        ids = torch.randperm(model.num_patches)[:count]
        torch.testing.assert_close(model(images, ids), dense(model, images, ids), rtol=1e-5, atol=1e-5)


def test_masked_pixels_change_nothing():
    model = make(**SIZES['small'])
    images, ids = torch.randn(2, 3, 16, 16), torch.tensor([3, 4, 9])
    others = torch.randn(2, 3, 16, 16)
    for unit in ids.tolist():
        rows, columns = (slice(4 * place, 4 * place + 4) for place in divmod(unit, 4))
        others[..., rows, columns] = images[..., rows, columns]
    assert torch.equal(model(images, ids), model(others, ids))


@pytest.mark.parametrize('shift', [0, 3])
@pytest.mark.parametrize('share', [0.2, 0.6, 1.0])
def test_grouped_attention_equals_the_masked_dense_one(shift, share):
    """At the size of Swin's second stage, 28 x 28 with windows of 7."""
    rows, columns = (part.ravel() for part in np.mgrid[:28, :28])
    seen = np.random.default_rng(0).permutation(28 * 28)[: round(share * 28 * 28)]
    rows, columns = rows[seen], columns[seen]
    groups = group_windows(rows, columns, 7, shift)
    assert groups.tokens.shape[0] > 1
    msa = make(arch=ARCH, img_size=28, patch_size=2, window_size=7).stages[0].blocks[0].attn.w_msa
    x = torch.randn(2, len(seen), 16)
    same = torch.from_numpy(
        ((rows[:, None] - shift) // 7 == (rows - shift) // 7)
        & ((columns[:, None] - shift) // 7 == (columns - shift) // 7)
    )
    index = torch.from_numpy((rows[:, None] - rows + 6) * 13 + columns[:, None] - columns + 6)
    bias = msa.relative_position_bias_table[index.where(same, 0)].permute(2, 0, 1).masked_fill(~same, -torch.inf)
    q, k, v = msa.qkv(x).unflatten(-1, (3, 2, 8)).permute(2, 0, 3, 1, 4)
    weights = (q @ k.mT * msa.scale + bias).softmax(-1)
    expected = msa.proj((weights @ v).transpose(1, 2).flatten(2))
    torch.testing.assert_close(attend(msa, x, groups), expected, rtol=1e-5, atol=1e-5)
    # as mmpretrain numbers relative positions: token (6, 0) of a window from its (0, 6)
    assert int(msa.relative_position_index[6 * 7, 6]) == (6 - 0 + 6) * 13 + 0 - 6 + 6


@pytest.mark.parametrize('shift', [0, 2])
def test_groups_hold_every_token_once_and_windows_whole(shift):
    rows, columns = (part.ravel() for part in np.mgrid[:20, :20])
    seen = np.random.default_rng(1).permutation(400)[:150]
    rows, columns = rows[seen], columns[seen]
    groups = group_windows(rows, columns, 5, shift)
    assert torch.equal(groups.tokens.flatten()[groups.places], torch.arange(150))
    window = (rows - shift) // 5 * 100 + (columns - shift) // 5
    group = groups.places // groups.tokens.shape[1]
    assert all(len(set(group[window == number].tolist())) == 1 for number in np.unique(window))
    _, counts = np.unique(window, return_counts=True)
    assert groups.tokens.shape[1] == counts.max(), 'groups of the largest window'
    if shift:  # windows at the border are smaller, and none goes round it
        assert {-101, 303} <= set(window.tolist()) and (window == -101).sum() <= 4 and (window == 303).sum() <= 9


@pytest.mark.parametrize('limit', [2 * 4**2, 2 * 4**2 + 1])
def test_few_tokens_are_one_group(limit):
    rows, columns = (part.ravel()[:limit] for part in np.mgrid[:8, :8])
    assert (len(group_windows(rows, columns, 4, 0).tokens) == 1) == (limit == 32)


def fullest(sizes, capacity):
    """By trying all."""
    every = (chosen for count in range(1, len(sizes) + 1) for chosen in combinations(sizes, count))
    return max(sum(chosen) for chosen in every if sum(chosen) <= capacity)


@pytest.mark.parametrize('seed', range(20))
def test_packing_fills_each_group_as_brute_force_does(seed):
    rng = np.random.default_rng(seed)
    capacity = int(rng.integers(3, 17))
    sizes = rng.integers(1, capacity + 1, size=rng.integers(1, 10)).tolist()
    groups = pack(sizes, capacity)
    assert sorted(window for group in groups for window in group) == list(range(len(sizes)))
    left = list(range(len(sizes)))
    for group in groups:
        assert sum(sizes[window] for window in group) == fullest([sizes[window] for window in left], capacity)
        left = [window for window in left if window not in group]


def test_recomputing_is_the_same():
    fields = SIZES['small'] | dict(drop_path_rate=0.5)
    plain, lean = MaskedSwin(**fields), MaskedSwin(with_cp=True, **fields)
    lean.load_state_dict(plain.state_dict())
    images, ids = torch.randn(2, 3, 16, 16), torch.arange(0, 16, 2)
    for model in (plain, lean):
        torch.manual_seed(0)
        F.mse_loss(model(images, ids), torch.ones(())).backward()
    for (key, a), b in zip(plain.named_parameters(), lean.parameters(), strict=True):
        assert torch.equal(a.grad, b.grad), key


def test_it_starts_as_swin_does_and_keeps_what_it_loads(tmp_path):
    torch.manual_seed(0)
    model = MaskedSwin(**SIZES['small'])
    model.init_weights()
    weight = model.stages[1].blocks[0].ffn.layers[0][0].weight
    assert 0.018 < weight.std() < 0.022, 'not 0.1, as torch draws it'
    torch.save(
        dict(state_dict={f'backbone.{key}': value for key, value in model.state_dict().items()}), tmp_path / 'a.pth'
    )
    init = dict(type='mmpl.StrictPretrained', checkpoint=str(tmp_path / 'a.pth'), prefix='backbone.')
    loaded = MaskedSwin(**SIZES['small'], init_cfg=init)
    loaded.init_weights()
    assert all(
        torch.equal(a, b) for a, b in zip(model.state_dict().values(), loaded.state_dict().values(), strict=True)
    )


@pytest.mark.parametrize(
    ('fields', 'message'),
    [
        (dict(img_size=20), r'`backbone.img_size` must be a multiple of 8 with mask units of 4 .* but got 20'),
        (dict(window_size=3), r'`backbone.img_size` must be a multiple of 12 .* `window_size` 3, but got 16'),
        (dict(arch='huge'), r"`backbone.arch` must be one of \['b', 'base'"),
        (dict(arch=dict(embed_dims=16)), r"`backbone.arch` must have the fields .* but got \['embed_dims'\]"),
        (dict(arch=dict(ARCH, depths=2)), '`backbone.arch.depths` must have one number a stage, but got 2'),
        (dict(arch=dict(ARCH, depths=[2, 0])), r'`backbone.arch.depths` must be an integer in \[1, inf\), but got 0'),
        (
            dict(arch=dict(ARCH, num_heads=[2])),
            '`backbone.arch.num_heads` must have one number for each of the 2 stages',
        ),
        (dict(arch=dict(ARCH, num_heads=[2, 3])), '`backbone.arch.num_heads` must divide the width 32 of stage 1'),
        (dict(drop_path_rate=2), r'`backbone.drop_path_rate` must be a number in \[0, 1\], but got 2'),
    ],
)
def test_refuses_when_it_is_built(fields, message):
    with pytest.raises(ValueError, match=message):
        MaskedSwin(**SIZES['small'] | fields)


@pytest.mark.parametrize(
    ('ids', 'side', 'message'),
    [
        (torch.zeros(2, 4).long(), 16, r'`ids` must be one row \(V,\) .* got the shape \(2, 4\): .* mmpl.BatchMasking'),
        (torch.zeros(0).long(), 16, r'`ids` must be one row .* got the shape \(0,\)'),
        (torch.tensor([-1, 2]), 16, r'`ids` must be different mask units, 0 to 15, but got \[-1, 2\]'),
        (torch.tensor([0, 16]), 16, r'`ids` must be different mask units'),
        (torch.tensor([0, 0, 1]), 16, r'`ids` must be different mask units'),
        (torch.arange(4), 32, r'`backbone.img_size` is \(16, 16\), but the images are \(32, 32\)'),
    ],
)
def test_refuses_at_a_step(ids, side, message):
    with pytest.raises(ValueError, match=message):
        MaskedSwin(**SIZES['small'])(torch.randn(2, 3, side, side), ids)
