"""The attention of encoder and decoder: the same as torch's, also where it is computed otherwise."""

import pytest
import torch
from mmengine.model import BaseModule
from mmpretrain.models.utils import MultiheadAttention
from torch.nn import functional as F  # noqa: N812

from mmpl.models import attention as module
from mmpl.models.attention import attention, use_attention
from tests.test_methods.test_contract import build
from tests.test_models.helpers import build_plmae


def inputs(dtype: torch.dtype, grad: bool = True, length: int = 13) -> list[torch.Tensor]:
    torch.manual_seed(0)
    sizes = (7, length, length)
    return [torch.randn(2, 3, size, 8).to(dtype).requires_grad_(grad) for size in sizes]


def with_gradients(function, tensors: list[torch.Tensor]) -> list[torch.Tensor]:
    out = function(*tensors)
    weights = torch.linspace(-1, 1, out.numel(), dtype=torch.double).view_as(out).to(out.dtype)
    return [out, *torch.autograd.grad(out, tensors, weights)]


def test_in_bf16_with_gradients_it_is_attention_up_to_rounding():
    found = with_gradients(attention, inputs(torch.bfloat16))
    exact = with_gradients(
        F.scaled_dot_product_attention, [t.detach().double().requires_grad_() for t in inputs(torch.bfloat16)]
    )
    kernel = with_gradients(F.scaled_dot_product_attention, inputs(torch.bfloat16))
    for ours, theirs, truth in zip(found, kernel, exact, strict=True):
        assert ours.dtype == torch.bfloat16
        error, of_kernel = ((t.double() - truth).norm() / truth.norm() for t in (ours, theirs))
        assert 0 < error < 0.01
        assert not torch.equal(ours, theirs) and error < 4 * of_kernel


@pytest.mark.parametrize(
    ('dtype', 'grad', 'length'),
    [(torch.float32, True, 13), (torch.bfloat16, False, 13), (torch.bfloat16, True, module.MAX_TOKENS + 1)],
    ids=['fp32', 'without gradients', 'many tokens'],
)
def test_elsewhere_it_is_the_kernel_to_the_bit(dtype, grad, length):
    tensors = inputs(dtype, grad, length)
    assert torch.equal(attention(*tensors), F.scaled_dot_product_attention(*tensors))


def test_dropout_drops():
    found = attention(*inputs(torch.bfloat16), dropout_p=0.99)
    assert (found == 0).float().mean() > 0.5


@pytest.mark.parametrize('build_model', [build_plmae, lambda: build('CAE')], ids=['PLMAE', 'CAE'])
def test_encoder_and_decoder_compute_it(build_model):
    layers = [part for part in build_model().modules() if type(part) is MultiheadAttention]
    assert len(layers) >= 3 and all(layer.scaled_dot_product_attention is attention for layer in layers)


def test_a_scale_of_its_own_stays():
    model = BaseModule()
    model.attn = MultiheadAttention(8, 2, qk_scale=0.5)
    use_attention(model)
    assert model.attn.scaled_dot_product_attention is not attention
