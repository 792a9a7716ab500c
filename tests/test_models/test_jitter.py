"""Photometric jitter: its formula, its range, and when it draws what."""

import copy

import numpy as np
import pytest
import torch

from mmpl.models import PhotometricJitter, RandomMasking
from tests.test_models.helpers import build_plmae, scramble


@pytest.mark.parametrize('channels', [1, 3, 13])
def test_each_channel_is_an_affine_function_of_what_it_was(channels):
    images = torch.randn(200, channels, 6, 5)
    out = PhotometricJitter(0.5)(images)
    means = images.mean((1, 2, 3), keepdim=True)
    before, after = ((part - means).flatten(2).double() for part in (images, out))
    design = torch.stack((before, torch.ones_like(before)), -1)  # fitted anew, channel by channel
    gain, shift = torch.linalg.lstsq(design, after[..., None]).solution[..., 0].unbind(-1)
    torch.testing.assert_close(gain[..., None] * before + shift[..., None], after, rtol=0, atol=1e-5)
    for drawn in (gain - 1, shift):
        assert 0.5 < drawn.abs().max() < 0.75
        assert drawn.mean().abs() < 0.06
        of_image = drawn.mean(1)
        if channels == 13:  # uniform in ±1/2 for the image, in ±1/4 for a channel
            assert of_image.std() == pytest.approx((1 / 12 + 1 / 48 / 13) ** 0.5, rel=0.15)
            assert (drawn - of_image[:, None]).std() == pytest.approx((1 / 48 * 12 / 13) ** 0.5, rel=0.1)
    assert abs(torch.corrcoef(torch.stack((gain[:, 0], shift[:, 0])))[0, 1]) < 0.2


def test_no_strength_changes_nothing():
    images = torch.randn(2, 3, 4, 4)
    torch.testing.assert_close(PhotometricJitter(0)(images), images)


def test_a_resumed_run_draws_what_it_would_have_drawn(monkeypatch):
    images = torch.randn(4, 3, 8, 8)
    jitter = PhotometricJitter(0.5)
    first, second = jitter(images), jitter(images)
    assert not torch.equal(first, second)
    resumed = PhotometricJitter(0.5)
    resumed.load_state_dict({'step': torch.tensor(1)})
    assert torch.equal(resumed(images), second)
    resumed.rewind(2)
    assert torch.equal(resumed(images), first)
    monkeypatch.setattr('mmpl.models.jitter.get_rank', lambda: 1)  # the second process of two with half a batch each
    assert torch.equal(PhotometricJitter(0.5)(images[2:]), first[2:])
    assert not torch.equal(PhotometricJitter(0.5, seed=1)(images), first)


def test_its_draws_are_not_those_of_the_masks():
    """Same seed, same step: the numbers themselves, in any row of either, are others."""
    masking, jitter = RandomMasking(seed=3), PhotometricJitter(seed=3)
    masks, jitters = masking.numbers(0, 64, 64).ravel(), jitter.numbers(0, 256, 8).ravel()
    assert len(masks) == len(np.unique(masks)) and len(jitters) == len(np.unique(jitters))
    assert not np.isin(jitters, masks).any()
    assert abs(np.corrcoef(jitters, masks[: len(jitters)])[0, 1]) < 0.1


def test_the_student_sees_it_and_the_teachers_do_not():
    model = build_plmae(jitter=dict(strength=0.5))
    scramble(model)
    images = torch.randn(4, 3, 16, 16)
    masks = copy.deepcopy(model.masking)(4, 16)
    other = build_plmae(teacher_view='other')
    other.load_state_dict({k: v for k, v in model.state_dict().items() if not k.startswith('jitter.')})
    for each in (model, other):
        each.masking.forward = lambda *args: masks
    jittered = PhotometricJitter(0.5)(images)
    losses, expected = model(images, mode='loss'), other([images, jittered], mode='loss')
    assert all(torch.equal(losses[name], expected[name]) for name in expected)


def test_what_it_refuses():
    with pytest.raises(ValueError, match='`jitter.strength`'):
        PhotometricJitter(1.0)
    with pytest.raises(TypeError, match='`jitter`'):
        build_plmae(jitter=0.5)
