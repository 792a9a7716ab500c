"""The dense ViT: mmpretrain's numbers, windows, relative positions, freezing, checkpointing and what it rejects."""

import copy

import pytest
import torch
from mmpretrain.models.backbones import VisionTransformer
from torch import nn

from mmpl.models.backbones.dense_vit import DenseViT, _unwindows, _windows
from mmpl.registry import MODELS

ARCH = {'embed_dims': 32, 'num_layers': 4, 'num_heads': 2, 'feedforward_channels': 64}


def _randomise(model: nn.Module, seed: int = 0) -> nn.Module:
    """Draw every parameter, so that no term of the computation is hidden by a zero or a one."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randn(p.shape, generator=generator) * (0.3 if p.ndim == 1 else 0.1))
    return model


def _dense(**kwargs) -> DenseViT:
    kwargs = {'arch': ARCH, 'img_size': 64, 'patch_size': 8, **kwargs}
    return _randomise(DenseViT(**kwargs)).eval()


def _twin(model: DenseViT, **kwargs) -> DenseViT:
    """Another DenseViT with the same weights."""
    other = DenseViT(**{'arch': ARCH, 'img_size': 64, 'patch_size': 8, **kwargs}).eval()
    other.load_state_dict(model.state_dict())
    return other


def _images(height: int, width: int, batch: int = 2) -> torch.Tensor:
    return torch.randn(batch, 3, height, width, generator=torch.Generator().manual_seed(7))


@pytest.mark.parametrize('size', [(224, 224), (512, 512), (320, 480), (230, 250)])
def test_equals_mmpretrain(size) -> None:
    """All-global, same weights: mmpretrain's feature maps to 1e-5, at any size."""
    cfg = {'arch': ARCH, 'img_size': 224, 'patch_size': 16, 'out_indices': [1, 3]}
    reference = _randomise(VisionTransformer(out_type='featmap', **copy.deepcopy(cfg)))
    reference.eval()
    model = DenseViT(**cfg).eval()
    model.load_state_dict(reference.state_dict())  # strict: the same keys
    with torch.no_grad():
        for ours, theirs in zip(model(_images(*size)), reference(_images(*size)), strict=True):
            torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


def test_gradients_equal_mmpretrain() -> None:
    """The backward pass as well, parameter by parameter."""
    reference = _randomise(VisionTransformer(arch=ARCH, img_size=64, patch_size=8, out_type='featmap'))
    reference.eval()
    model = DenseViT(arch=ARCH, img_size=64, patch_size=8).eval()
    model.load_state_dict(reference.state_dict())
    for m in (model, reference):
        m(_images(48, 80))[0].square().mean().backward()
    for (name, ours), theirs in zip(model.named_parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, atol=1e-6, rtol=1e-4, msg=lambda m, n=name: f'{n}: {m}')


def test_base_keys_are_those_of_mmpretrain() -> None:
    """ViT-B has mmpretrain's keys and shapes (meta device: no memory)."""
    with torch.device('meta'):
        want = VisionTransformer(arch='base', out_type='featmap').state_dict()
        got = DenseViT(arch='base', window_size=14).state_dict()
    assert {k: v.shape for k, v in got.items()} == {k: v.shape for k, v in want.items()}


@pytest.mark.parametrize(('size', 'window'), [((64, 64), 8), ((48, 40), 8), ((40, 64), 11)])
def test_one_window_over_the_image_is_global(size, window) -> None:
    """Windowed equals all-global when one window covers the image, filled up with padding or not."""
    model = _dense()
    windowed = _twin(model, window_size=window, global_attn_indexes=[])
    assert all(windowed._windowed(i) for i in range(4))
    with torch.no_grad():
        torch.testing.assert_close(windowed(_images(*size))[0], model(_images(*size))[0], atol=1e-5, rtol=1e-5)


def test_windows_do_not_see_each_other() -> None:
    """A change in one window reaches another only through a global block; without class token, exactly."""
    kwargs = {'with_cls_token': False, 'window_size': 4}
    image = _images(64, 64, 1)
    other = image.clone()
    other[..., :32, :32] += 1.0  # the upper left window of four
    local = _dense(global_attn_indexes=[], **kwargs)
    with torch.no_grad():
        delta = (local(image)[0] - local(other)[0]).abs().sum(1)[0]
        assert delta[:4, :4].min() > 0 and delta[4:].max() == 0 and delta[:, 4:].max() == 0
        mixed = _twin(local, global_attn_indexes=[3], **kwargs)
        assert (mixed(image)[0] - mixed(other)[0]).abs().sum(1).min() > 0


def test_window_attention_by_hand() -> None:
    """One block of masked, windowed attention against a dense softmax with an explicit mask."""
    model = _dense(window_size=3, global_attn_indexes=[])
    attn, grid = model.layers[0].attn, (4, 5)
    x = torch.randn(2, 21, 32, generator=torch.Generator().manual_seed(0))
    q, k, v = attn.qkv(x).reshape(2, 21, 3, 2, 16).permute(2, 0, 3, 1, 4)
    row, col = torch.arange(20) // 5 // 3, torch.arange(20) % 5 // 3
    allowed = torch.ones(21, 21, dtype=torch.bool)
    allowed[1:, 1:] = (row[:, None] == row) & (col[:, None] == col)
    logits = (q @ k.mT * 16**-0.5).masked_fill(~allowed, float('-inf'))
    expected = attn.proj((logits.softmax(-1) @ v).transpose(1, 2).reshape(2, 21, 32))
    torch.testing.assert_close(model._attention(attn, x, grid, True), expected, atol=1e-5, rtol=1e-5)


def test_window_partition_round_trip() -> None:
    """Cutting into windows and back is the identity, also with padding."""
    x = torch.randn(2, 35, 2, 3)
    cut = _windows(x, (5, 7), 4)
    assert cut.shape == (2 * 4, 2, 16, 3)
    assert torch.equal(_unwindows(cut, (5, 7), 4), x)
    # The second window of the first image starts at row 0, column 4.
    assert torch.equal(cut[1, :, 0], x[0, 4])


@pytest.mark.parametrize('windowed', [True, False])
def test_relative_positions_by_hand(windowed) -> None:
    """The appended columns equal an explicit bias; a table of another length is interpolated linearly."""
    model = _dense(window_size=3, global_attn_indexes=[3], rel_pos=True)
    layer = model.layers[0 if windowed else 3]
    attn, grid = layer.attn, (3, 3) if windowed else (8, 8)
    assert attn.rel_pos_h.shape == (2 * grid[0] - 1, 16)
    n = grid[0] * grid[1]
    x = torch.randn(1, 1 + n, 32, generator=torch.Generator().manual_seed(0))
    q, k, v = attn.qkv(x).reshape(1, 1 + n, 3, 2, 16).permute(2, 0, 3, 1, 4)
    logits = q @ k.mT * 16**-0.5
    with torch.no_grad():
        for i in range(n):
            for j in range(n):
                (ri, ci), (rj, cj) = divmod(i, grid[1]), divmod(j, grid[1])
                table = attn.rel_pos_h[ri - rj + grid[0] - 1] + attn.rel_pos_w[ci - cj + grid[1] - 1]
                logits[0, :, 1 + i, 1 + j] += q[0, :, 1 + i] @ table
        expected = attn.proj((logits.softmax(-1) @ v).transpose(1, 2).reshape(1, 1 + n, 32))
        torch.testing.assert_close(model._attention(attn, x, grid, windowed), expected, atol=1e-5, rtol=1e-5)
        assert model(_images(72, 40))[0].shape == (2, 32, 9, 5)


def test_relative_positions_start_at_zero() -> None:
    """Switched on after pre-training, they change nothing at first, and they learn."""
    plain = _dense(window_size=3)
    model = DenseViT(arch=ARCH, img_size=64, patch_size=8, window_size=3, rel_pos=True).eval()
    missing = model.load_state_dict(plain.state_dict(), strict=False)
    assert not missing.unexpected_keys and len(missing.missing_keys) == 8
    assert all('.attn.rel_pos_' in k for k in missing.missing_keys)
    out = model(_images(64, 96))[0]
    torch.testing.assert_close(out, plain(_images(64, 96))[0], atol=1e-5, rtol=1e-5)
    out.square().mean().backward()
    assert all(layer.attn.rel_pos_w.grad.abs().sum() > 0 for layer in model.layers)


def test_position_embedding_is_interpolated_on_load() -> None:
    """A square embedding fits another size; without class token its row is dropped."""
    source = _dense()
    target = DenseViT(arch=ARCH, img_size=(96, 48), patch_size=8)
    target.load_state_dict(source.state_dict())
    want = torch.nn.functional.interpolate(
        source.pos_embed[:, 1:].reshape(1, 8, 8, 32).permute(0, 3, 1, 2), size=(12, 6), mode='bicubic'
    )
    torch.testing.assert_close(target.pos_embed[:, 1:], want.flatten(2).mT)
    assert torch.equal(target.pos_embed[:, 0], source.pos_embed[:, 0])
    state = source.state_dict()
    state.pop('cls_token')
    bare = DenseViT(arch=ARCH, img_size=64, patch_size=8, with_cls_token=False)
    bare.load_state_dict(state)
    assert torch.equal(bare.pos_embed, source.pos_embed[:, 1:])


@pytest.mark.parametrize('window_size', [0, 3])
def test_activation_checkpointing(window_size) -> None:
    """Same output and same gradients, stochastic depth included, with fewer bytes kept."""
    grads, kept = [], []
    for with_cp in (False, True):
        model = _dense(window_size=window_size, with_cp=with_cp, drop_path_rate=0.5).train()
        sizes = []

        def pack(t, sizes=sizes):
            sizes.append(t.numel())
            return t

        torch.manual_seed(3)
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
            loss = model(_images(64, 64))[0].square().mean()
        kept.append(sum(sizes))
        loss.backward()
        grads.append({n: p.grad for n, p in model.named_parameters()})
    for name, grad in grads[0].items():
        torch.testing.assert_close(grads[1][name], grad, msg=lambda m, n=name: f'{n}: {m}')
    assert kept[1] < 0.5 * kept[0]


def test_frozen_stages() -> None:
    """Frozen parts have no gradient and stay deterministic in training mode; the rest learns."""
    model = _dense(frozen_stages=2, drop_path_rate=0.5, out_indices=[1, 3]).train()
    torch.manual_seed(0)
    outs = [model(_images(64, 64)) for _ in range(4)]
    assert all(torch.equal(o[0], outs[0][0]) for o in outs)
    assert any(not torch.equal(o[1], outs[0][1]) for o in outs)
    trained = {n for n, p in model.named_parameters() if p.requires_grad}
    assert trained == {n for n, _ in model.named_parameters() if n.startswith(('layers.2', 'layers.3', 'ln1'))}
    stem = {n for n, p in _dense(frozen_stages=0).named_parameters() if not p.requires_grad}
    assert stem == {'cls_token', 'pos_embed', 'patch_embed.projection.weight', 'patch_embed.projection.bias'}


@pytest.mark.parametrize('out_norm', ['last', 'all', 'none'])
@pytest.mark.parametrize('out_indices', [[0, 3], [0, 1], -1])
def test_outputs_and_unused_parameters(out_norm, out_indices) -> None:
    """The final norm is where it was asked for, and exactly the parameters that matter are trained (DDP)."""
    model = _dense(out_indices=out_indices, out_norm=out_norm)
    plain = _twin(model, out_indices=out_indices, out_norm='none')
    x = _images(64, 64)
    raw = plain(x)
    outs = model(x)
    indices = [3] if out_indices == -1 else out_indices
    for i, out, before in zip(indices, outs, raw, strict=True):
        normed = out_norm == 'all' or (out_norm == 'last' and i == 3)
        want = model.ln1(before.permute(0, 2, 3, 1)).permute(0, 3, 1, 2) if normed else before
        torch.testing.assert_close(out, want)
    sum(out.square().mean() for out in outs).backward()
    for name, p in model.named_parameters():
        assert p.requires_grad == (p.grad is not None), name


def test_global_blocks_are_evenly_spaced() -> None:
    """The indices of ViTDet for ViT-B, ViT-L and ViT-H."""
    with torch.device('meta'):
        assert DenseViT('base', window_size=14).global_attn_indexes == [2, 5, 8, 11]
        assert DenseViT('large', window_size=14).global_attn_indexes == [5, 11, 17, 23]
        assert DenseViT('huge', window_size=14).global_attn_indexes == [7, 15, 23, 31]


@pytest.mark.parametrize(
    ('kwargs', 'message'),
    [
        ({'out_indices': [1, 4]}, r'out_indices=\[1, 4\]: \[4\] not among the 4 blocks'),
        ({'out_indices': [2, 1]}, r'out_indices=\[2, 1\] must be rising'),
        ({'window_size': 4, 'global_attn_indexes': [7]}, r'global_attn_indexes=\[7\]: \[7\] not among'),
        ({'global_attn_indexes': [1]}, 'without windows'),
        ({'window_size': -1}, 'window_size must be an integer >= 0, got -1'),
        ({'out_norm': 'first'}, "out_norm must be .* got 'first'"),
        ({'out_norm': 'all', 'final_norm': False}, 'needs final_norm=True'),
        ({'frozen_stages': 5}, r'frozen_stages must be in \[-1, 4\], got 5'),
        ({'out_type': 'raw'}, "out_type must be 'featmap'"),
    ],
)
def test_bad_arguments(kwargs, message) -> None:
    """Errors come when the model is built and name field and value."""
    with pytest.raises(ValueError, match=message):
        DenseViT(arch=ARCH, img_size=64, patch_size=8, **kwargs)


def test_checkpoints_that_do_not_fit() -> None:
    """A non-square embedding, another width, and wrong keys."""
    state = _dense().state_dict()
    model = DenseViT(arch=ARCH, img_size=64, patch_size=8)
    with pytest.raises(ValueError, match='pos_embed has 61 tokens .* cannot be interpolated'):
        model.load_state_dict({**state, 'pos_embed': torch.zeros(1, 61, 32)})
    with pytest.raises(ValueError, match=r'pos_embed is \(1, 65, 48\) in the checkpoint'):
        model.load_state_dict({**state, 'pos_embed': torch.zeros(1, 65, 48)})
    with pytest.raises(RuntimeError, match='norm.weight'):
        model.load_state_dict({**state, 'norm.weight': torch.zeros(32)})


@pytest.mark.parametrize('rel_pos', [False, True])
def test_loads_a_pretrained_backbone(tmp_path, rel_pos) -> None:
    """Through ``mmpl.StrictPretrained``, from a ``backbone.`` prefix, and no initialiser undoes it."""
    source = _dense()
    path = str(tmp_path / 'pretrained.pth')
    torch.save({'state_dict': {f'backbone.{k}': v for k, v in source.state_dict().items()}}, path)
    init_cfg = {'type': 'mmpl.StrictPretrained', 'checkpoint': path, 'prefix': 'backbone.'}
    if rel_pos:
        init_cfg['ignore'] = ('layers.*.attn.rel_pos_*',)
    model = MODELS.build(
        {
            'type': 'mmpl.DenseViT',
            'arch': ARCH,
            'img_size': 64,
            'patch_size': 8,
            'window_size': 3,
            'rel_pos': rel_pos,
            'init_cfg': init_cfg,
        }
    )
    model.init_weights()
    for key, value in source.state_dict().items():
        assert torch.equal(model.state_dict()[key], value), key
