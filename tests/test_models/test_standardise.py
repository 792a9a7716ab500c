"""Standardised channels: values and gradients against torch's batch norm, and the kernels behind them."""

import pytest
import torch
from torch.nn import functional as F  # noqa: N812
from torch.utils._python_dispatch import TorchDispatchMode

from mmpl.models.standardise import RunningStandardiser, standardise_channels


class Calls(TorchDispatchMode):
    """Names of the operators that run inside."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.add(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


def make():
    generator = torch.Generator().manual_seed(0)
    tokens = 3 * torch.randn(6, 5, 4, generator=generator, dtype=torch.double) + 2
    return tokens.requires_grad_(), torch.randn(6, 5, 4, generator=generator, dtype=torch.double)


def test_one_group_is_batch_norm_and_scatters_nothing():
    """Adding all tokens into one row is slow, and on CUDA in no fixed order, forward as backward."""
    tokens, direction = make()
    with Calls() as calls:
        normed = standardise_channels(tokens)
        (gradient,) = torch.autograd.grad(normed, tokens, direction)
    assert 'sum' in calls.names
    assert not [name for name in calls.names if 'index' in name or 'scatter' in name]
    expected = F.batch_norm(tokens.flatten(0, 1), None, None, training=True, eps=1e-6).view_as(tokens)
    torch.testing.assert_close(normed, expected)
    torch.testing.assert_close(gradient, torch.autograd.grad(expected, tokens, direction)[0])


def test_each_group_is_standardised_by_itself():
    tokens, direction = make()
    groups = torch.arange(5).expand(6, 5)
    normed = standardise_channels(tokens, groups, 7)  # two groups have no token
    alone = torch.stack([standardise_channels(tokens[:, place]) for place in range(5)], dim=1)
    torch.testing.assert_close(normed, alone)
    torch.testing.assert_close(*(torch.autograd.grad(x, tokens, direction)[0] for x in (normed, alone)))


def test_a_running_standardiser_is_a_batch_norm_without_parameters():
    torch.manual_seed(0)
    norm = torch.nn.BatchNorm1d(6, affine=False, eps=1e-6)
    ours = RunningStandardiser(6)
    for _ in range(3):
        tokens = torch.randn(4, 5, 6) * 3 + 7
        torch.testing.assert_close(ours(tokens), norm(tokens.flatten(0, 1)).view_as(tokens), rtol=1e-5, atol=1e-5)
    ours.eval(), norm.eval()
    torch.testing.assert_close(ours.mean, norm.running_mean)
    # torch keeps the unbiased variance, 20 / 19 of the other; the start, 1, weighs 0.9^3 in both
    torch.testing.assert_close((norm.running_var - 0.9**3) * 19 / 20, ours.variance - 0.9**3, rtol=1e-5, atol=1e-5)
    before = ours.mean.clone()
    standardised = (tokens - ours.mean) / (ours.variance + 1e-6).sqrt()
    torch.testing.assert_close(ours(tokens), standardised)
    assert torch.equal(ours.mean, before)


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16, torch.float64])
def test_a_running_standardiser_keeps_the_dtype(dtype):
    torch.manual_seed(0)
    ours = RunningStandardiser(6).to(dtype)
    tokens = torch.randn(50, 6, dtype=torch.float64) * 3 + 7
    wanted = (tokens - tokens.mean(0)) / tokens.std(0, unbiased=False)
    for module in (ours, ours.eval()):
        assert module(tokens.to(dtype)).dtype == module.mean.dtype == dtype
    ours.train()
    bound = 0.05 if dtype == torch.bfloat16 else 1e-2
    torch.testing.assert_close(ours(tokens.to(dtype)).double(), wanted, rtol=bound, atol=bound)
