"""Codes of patches against brute force; what they do not depend on; how many of them there are in use."""

import math

import pytest
import torch
from mmpretrain.registry import MODELS
from torch.nn import functional as F  # noqa: N812

from mmpl.models import OnlineTokenizer, PatchTokenizer, RandomTokenizer
from mmpl.models.codebook import OnlineCodebook
from mmpl.models.patch_tokenizer import CodeStats

TOKENIZERS = dict(random=RandomTokenizer, online=OnlineTokenizer)
either = pytest.mark.parametrize('name', TOKENIZERS)


def images_of(channels: int = 3, height: int = 16, width: int = 16, count: int = 4, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, channels, height, width, generator=torch.Generator().manual_seed(seed))


def brute_force(tokenizer: PatchTokenizer, image: torch.Tensor, place: int) -> int:
    """Code of one patch of an image (C, H, W): the one with the highest cosine, in float64."""
    size, across = tokenizer.patch_size, image.shape[2] // tokenizer.patch_size
    top, left = size * (place // across), size * (place % across)
    patch = image[:, top : top + size, left : left + size].double().flatten()
    if tokenizer.norm_pix:
        patch = (patch - patch.mean()) / (patch.var(correction=0) + 1e-6).sqrt()
    if isinstance(tokenizer, RandomTokenizer):
        entries, vector = tokenizer.codes.double(), patch @ tokenizer.projection.double()
    else:
        entries, vector = tokenizer.codebook.codes.double(), patch
    cosines = [(entry @ vector / entry.norm() / vector.norm()).item() for entry in entries]
    return max(range(len(cosines)), key=cosines.__getitem__)


@either
@pytest.mark.parametrize('norm_pix', [True, False])
@pytest.mark.parametrize(('channels', 'height', 'width'), [(3, 16, 16), (1, 8, 24), (4, 16, 8)])
def test_a_code_is_the_nearest_by_brute_force(name, norm_pix, channels, height, width):
    tokenizer = TOKENIZERS[name](num_codes=32, norm_pix=norm_pix, patch_size=4, in_channels=channels).eval()
    images = images_of(channels, height, width) + 0.5
    count = height * width // 16
    ids = torch.stack([torch.randperm(count)[:5] for _ in range(8)])  # two masks of each image
    codes = tokenizer(images, ids)
    assert codes.shape == (8, 5)
    for row in range(8):
        for place in range(5):
            assert codes[row, place] == brute_force(tokenizer, images[row // 2], ids[row, place].item())


@either
def test_many_codes_of_noise_are_in_use(name):
    tokenizer = TOKENIZERS[name](num_codes=256, patch_size=4)
    codes = tokenizer(images_of(count=256), torch.arange(16).expand(256, -1))
    figures = tokenizer.stats(codes, torch.zeros(*codes.shape, 256)).figures()
    assert figures['usage'] > 0.95 and figures['entropy'] > 0.9


def test_the_random_codes_come_from_the_seed_and_stay():
    one, same, other = RandomTokenizer(seed=1), RandomTokenizer(seed=1), RandomTokenizer(seed=2)
    assert set(one.state_dict()) == {'projection', 'codes'} and not list(one.parameters())
    assert all(torch.equal(one.state_dict()[key], same.state_dict()[key]) for key in one.state_dict())
    images, ids = images_of(height=32, width=32), torch.arange(4).expand(4, -1)
    assert not torch.equal(one(images, ids), other(images, ids))
    state = torch.get_rng_state()
    RandomTokenizer(seed=3)
    assert torch.equal(torch.get_rng_state(), state)
    other.load_state_dict(one.state_dict())
    assert torch.equal(one(images, ids), other(images, ids)), 'a checkpoint brings its codes'


@either
def test_brightness_and_contrast_of_a_patch_have_no_code(name):
    tokenizer = TOKENIZERS[name](num_codes=64, patch_size=4).eval()
    images, ids = images_of(), torch.arange(16).expand(4, -1)
    assert torch.equal(tokenizer(images, ids), tokenizer(3 * images + 2, ids))
    plain = TOKENIZERS[name](num_codes=64, patch_size=4, norm_pix=False).eval()
    assert not torch.equal(plain(images, ids), plain(images + 2, ids))


@either
def test_flat_patches_have_the_first_code_whatever_their_grey(name):
    tokenizer = TOKENIZERS[name](num_codes=64, patch_size=4).eval()
    greys = torch.linspace(-2.1, 2.6, 50)[:, None, None, None].expand(-1, 3, 16, 16)
    assert tokenizer(greys, torch.arange(16).expand(50, -1)).unique().tolist() == [0]
    dotted = greys.clone()
    dotted[:, :, ::4, ::4] += 1 / 58  # one pixel of each patch, one grey level
    (code,) = tokenizer(dotted, torch.arange(16).expand(50, -1)).unique().tolist()
    assert code != 0


def test_online_codes_follow_patches_after_the_step_and_only_then():
    tokenizer = OnlineTokenizer(num_codes=8, momentum=0.5, patch_size=4).train()
    images, ids = images_of(count=64), torch.arange(16).expand(64, -1)
    before = tokenizer.codebook.codes.clone()
    tokenizer(images, ids)
    assert torch.equal(tokenizer.codebook.codes, before)
    tokenizer.codebook.after_step(0.5, 0)
    assert not torch.equal(tokenizer.codebook.codes, before)
    after = tokenizer.codebook.codes.clone()
    tokenizer(images, ids)
    tokenizer.codebook.forget()
    tokenizer.codebook.after_step(0.5, 0)
    assert torch.equal(tokenizer.codebook.codes, after), 'a step that is not taken leaves no trace'


def test_no_code_is_moved_onto_flat_patches_and_none_that_is_in_use():
    book = OnlineCodebook(num_codes=16, embed_dims=6).train()
    tokens = torch.randn(64, 6, generator=torch.Generator().manual_seed(0))
    tokens[::2] = 0
    before = book.codes.clone()
    used = set(book(tokens[1::2]).tolist())
    book.forget()
    book(tokens)
    book.after_step(0.0, 0)
    assert torch.allclose(book.codes.norm(dim=-1), torch.ones(16))
    for code in used:
        assert F.cosine_similarity(book.codes[code], before[code], dim=0) > 0.99


def test_the_figures_are_those_of_their_closed_forms():
    codes = torch.tensor([[0, 0, 0, 0], [1, 1, 2, 2]])  # shares 1/2, 1/4, 1/4
    logits = torch.nn.functional.one_hot(torch.tensor([[0, 0, 0, 3], [1, 0, 0, 0]]), 4).float()
    figures = RandomTokenizer(num_codes=4).stats(codes, logits).figures()
    assert figures == pytest.approx(dict(usage=0.75, entropy=1.5 * math.log(2) / math.log(4), accuracy=0.5))
    few = CodeStats(torch.tensor(2.0), torch.tensor(0.0), torch.tensor([1.0, 1.0] + 98 * [0.0]))
    assert few.figures()['usage'] == 1, 'two patches cannot use more than two codes'


@pytest.mark.parametrize(
    ('fields', 'error', 'message'),
    [
        (dict(num_codes=1), ValueError, r'`tokenizer.num_codes` must be an integer in \[2, inf\)'),
        (dict(code_dims=0), ValueError, '`tokenizer.code_dims`'),
        (dict(momentum=0.9), TypeError, '`tokenizer.momentum` is not a field of RandomTokenizer'),
        (dict(patch_size=1, in_channels=1), ValueError, '`tokenizer.norm_pix` must be False'),
    ],
)
def test_refuses(fields, error, message):
    with pytest.raises(error, match=message):
        MODELS.build(dict(type='mmpl.RandomTokenizer', **fields))
