"""The encoder against mmpretrain's, and its two ways to embed against each other."""

import pytest
import torch
from mmpretrain.models.backbones import VisionTransformer
from mmpretrain.models.selfsup import MAEViT

from mmpl.models.backbones import MaskedViT
from mmpl.models.masking import RandomMasking
from tests.test_models.helpers import ARCH, build_plmae, scramble


def make(**kwargs):
    model = MaskedViT(**{**dict(arch=ARCH, img_size=16, patch_size=4), **kwargs})
    model.init_weights()
    scramble(model)
    model.eval()  # mmpretrain's returns nothing
    return model


def test_unmasked_it_is_mmpretrains_vit():
    model = make()
    peer = VisionTransformer(arch=ARCH, img_size=16, patch_size=4, out_type='raw', norm_cfg=dict(type='LN', eps=1e-6))
    assert set(peer.state_dict()) == set(model.state_dict())
    peer.load_state_dict(model.state_dict())
    peer.eval()
    for size in (16, 24):  # the second one interpolates the position embedding
        images = torch.randn(2, 3, size, size)
        torch.testing.assert_close(model(images)[0], peer(images)[0], rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(model.encode(images)[0], peer(images)[0], rtol=1e-5, atol=1e-6)


def test_masked_it_is_mmpretrains_mae_vit():
    model = make()
    peer = MAEViT(arch=ARCH, img_size=16, patch_size=4, mask_ratio=0.75)
    peer.load_state_dict(model.state_dict())
    images = torch.randn(3, 3, 16, 16)
    torch.manual_seed(5)
    expected, _, ids_restore = peer(images)
    ids_keep = torch.argsort(ids_restore, dim=1)[:, :4]
    assert torch.equal(model(images, ids_keep), expected)


@pytest.mark.parametrize('num_masks', [1, 3])
def test_embedding_only_what_is_visible_is_the_same(num_masks):
    plain, lean = make(), make(embed_visible_only=True)
    lean.load_state_dict(plain.state_dict())
    masks, images = RandomMasking(num_masks=num_masks)(2, 16), torch.randn(2, 3, 16, 16)
    outputs = [model(images, masks.ids_keep) for model in (plain, lean)]
    torch.testing.assert_close(*outputs, rtol=1e-5, atol=1e-5)
    for output in outputs:
        output.square().sum().backward()
    for (name, a), b in zip(plain.named_parameters(), lean.parameters(), strict=True):
        if a.requires_grad:
            torch.testing.assert_close(a.grad, b.grad, rtol=1e-4, atol=1e-4, msg=name)


@pytest.mark.parametrize(
    'patch_cfg',
    [dict(norm_cfg=dict(type='LN')), dict(padding=2, kernel_size=8), dict(dilation=2), dict(stride=2),
     dict(conv_type='Conv2dAdaptivePadding')],
)  # fmt: skip
def test_refuses_to_embed_alone_what_is_no_matrix_product(patch_cfg):
    with pytest.raises(ValueError, match=r'`backbone.patch_cfg` must keep .* `embed_visible_only=True`, but got') as e:
        MaskedViT(arch=ARCH, img_size=16, patch_size=4, embed_visible_only=True, patch_cfg=patch_cfg)
    assert str(e.value).endswith(f'but got {patch_cfg}')


def test_embeds_alone_with_a_harmless_patch_cfg():
    patch_cfg = dict(bias=False, in_channels=4, padding=0, dilation=(1, 1), norm_cfg=None)
    plain, lean = (make(patch_cfg=patch_cfg, embed_visible_only=lean) for lean in (False, True))
    lean.load_state_dict(plain.state_dict())
    ids, images = RandomMasking()(2, 16).ids_keep, torch.randn(2, 4, 16, 16)
    torch.testing.assert_close(lean(images, ids), plain(images, ids), rtol=1e-5, atol=1e-5)


def test_last_blocks():
    model, images = make(), torch.randn(1, 3, 16, 16)
    tokens, blocks = model.encode(images, last_blocks=2)
    assert len(blocks) == 2
    torch.testing.assert_close(model.norm1(blocks[-1]), tokens)
    torch.testing.assert_close(model.layers[-1](blocks[-2]), blocks[-1])


def test_blocks_with_another_attention():
    """One that gives the values: the block is then linear in them, and the others are as they were."""
    model, images = make(), torch.randn(2, 3, 16, 16)
    tokens = model.embed(images)
    assert torch.equal(model.transform(tokens)[0], model.encode(images)[0])
    others = [None] * model.num_layers
    others[1] = lambda query, key, value, dropout_p: value
    _, blocks = model.transform(tokens, last_blocks=model.num_layers, attentions=others)
    x, layer = blocks[0], model.layers[1]
    value = layer.attn.qkv(layer.ln1(x)).chunk(3, dim=-1)[2]
    x = x + layer.attn.proj(value)
    torch.testing.assert_close(blocks[1], layer.ffn(layer.ln2(x), identity=x))
    torch.testing.assert_close(model.layers[2](blocks[1]), blocks[2])
    assert torch.equal(model.transform(tokens)[0], model.encode(images)[0]), 'and afterwards so are all'
    with pytest.raises(ValueError, match='shorter'):
        model.transform(tokens, attentions=[None])


def test_the_order_of_patches_does_not_matter():
    model, images = make(), torch.randn(2, 3, 16, 16)
    ids = RandomMasking()(2, 16).ids_keep
    forwards, backwards = model(images, ids), model(images, ids.flip(1))
    torch.testing.assert_close(forwards[:, 0], backwards[:, 0], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(forwards[:, 1:], backwards[:, 1:].flip(1), rtol=1e-5, atol=1e-5)


def test_checkpointed_activations_give_the_same_gradients():
    plain, cheap = make(), make(with_cp=True)
    cheap.load_state_dict(plain.state_dict())
    images, ids = torch.randn(2, 3, 16, 16), RandomMasking()(2, 16).ids_keep
    for model in (plain, cheap):
        model.train()
        model(images, ids).square().sum().backward()
    for a, b in zip(plain.parameters(), cheap.parameters(), strict=True):
        assert a.grad is None or torch.equal(a.grad, b.grad)


@pytest.mark.parametrize('kind', ['Pretrained', 'mmpl.StrictPretrained'])
@pytest.mark.parametrize('as_list', [False, True])
@pytest.mark.parametrize('inside', [False, True])
def test_nothing_is_drawn_again_after_loading(kind, as_list, inside, tmp_path):
    """Not the patch embedding, the class token or the position embedding, which mmpretrain draws last."""
    source = make()  # scrambled, position embedding included
    torch.save({f'backbone.{name}': value for name, value in source.state_dict().items()}, tmp_path / 'source.pth')
    init_cfg = dict(type=kind, checkpoint=str(tmp_path / 'source.pth'), prefix='backbone.')
    if as_list:
        init_cfg = [dict(type='TruncNormal', layer='Linear', std=0.02), init_cfg]
    if inside:
        model = build_plmae(backbone=dict(init_cfg=init_cfg))
        loaded = [model.backbone, model.label_teacher.backbone, model.recon_teacher.backbone]
    else:
        loaded = [MaskedViT(arch=ARCH, img_size=16, patch_size=4, init_cfg=init_cfg)]
        loaded[0].init_weights()
    for encoder in loaded:
        for name, value in source.state_dict().items():
            assert torch.equal(encoder.state_dict()[name], value), name


@pytest.mark.parametrize('init_cfg', [None, [dict(type='TruncNormal', layer='Linear', std=0.02)]])
def test_the_same_seed_draws_maes_weights(init_cfg):
    states = []
    for model_type in (MAEViT, MaskedViT):
        torch.manual_seed(3)
        model = model_type(arch=ARCH, img_size=16, patch_size=4, init_cfg=init_cfg)
        model.init_weights()
        states.append(model.state_dict())
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())


def test_refuses():
    with pytest.raises(ValueError, match='`img_size` must be a multiple of `patch_size` 16, but got 230'):
        MaskedViT(img_size=230)
    with pytest.raises(TypeError, match=r'`backbone.img_size` must be an integer in'):
        MaskedViT(img_size=(224, 192))
    with pytest.raises(ValueError, match=r'`img_size` must make at most 1048576 patches, but 1000000 .* 62500000000'):
        MaskedViT(img_size=1_000_000, patch_size=4)
    arch = dict(embed_dims=96, num_layers=4, num_heads=3, feedforward_channels=384)
    with pytest.raises(TypeError, match=r'`arch.num_heads` must be an integer in .*, but got 1.5'):
        MaskedViT(arch=dict(arch, num_heads=1.5))
    with pytest.raises(ValueError, match=r'`arch.embed_dims` must be a multiple of `arch.num_heads` 5, but got 96'):
        MaskedViT(arch=dict(arch, num_heads=5))
    with pytest.raises(ValueError, match='`backbone.final_norm` must be True, .*, but got False'):
        MaskedViT(arch=ARCH, final_norm=False)
    with pytest.raises(TypeError, match=r'masking=dict\(mask_ratio='):
        MaskedViT(mask_ratio=0.75)
    with pytest.raises(ValueError, match='18x16 pixels, which is not a multiple of `patch_size` 4'):
        make().encode(torch.randn(1, 3, 18, 16))
