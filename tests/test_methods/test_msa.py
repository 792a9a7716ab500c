"""MSA: against a loss put together by hand, image by image and token by token; that it learns, and what it refuses."""

import copy

import pytest
import torch
from mmengine.dataset import default_collate
from mmpretrain.registry import MODELS
from torch.nn import functional as F  # noqa: N812

from mmpl.models.masking import Masks
from tests.test_models.helpers import build_msa, move_teachers, msa_cfg, samples_of, scramble
from tests.test_models.test_matching import by_hand as match_by_hand

pytestmark = pytest.mark.smoke
BOXES = [  # of the weak and the strong view of three images: overlapping, flipped, and apart
    [[0, 0, 16, 16], [3, 5, 23, 21]],
    [[20, 2, 4, 18], [0, 0, 20, 20]],
    [[0, 0, 8, 8], [8, 8, 16, 16]],
]


def views(seed, count=3):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(count, 3, 16, 16, generator=generator) for _ in range(2)]


def by_hand(model, inputs, masks, boxes=None):
    """The three losses, one image and one token at a time."""
    weak, strong = inputs
    teacher, heads = model.align_teacher, model.align_heads
    seen = [teacher.backbone.encode(image[None])[0][0] for image in strong]
    known = {
        name: [F.normalize(teacher.heads[name].projector(image), dim=-1) for image in seen]
        for name in ('cls', 'tokens')
    }
    recon, cls, tokens = [], [], []
    for row, (keep, predict) in enumerate(zip(masks.ids_keep, masks.ids_predict, strict=True)):
        image = row // masks.num_masks
        latent = model.backbone.encode(weak[image][None], keep[None])[0]
        one = Masks(*(x[row][None] for x in masks[:4]), num_masks=1)
        patches = F.unfold(weak[image][None], 4, stride=4)[0].t()  # channels first, which changes no mean
        for place, value in zip(predict, model.neck(latent, one)[0], strict=True):
            pixels = patches[place].view(3, 16).t().flatten()
            recon.append(F.mse_loss(value, (pixels - pixels.mean()) / (pixels.var() + 1e-6).sqrt()))

        def prediction(name, token):
            return F.normalize(heads[name].predictor(heads[name].projector(token)), dim=-1)

        scores = torch.stack([prediction('cls', latent[0, 0]) @ other[0] for other in known['cls']]) / 0.2
        cls.append(-torch.log_softmax(scores, 0)[image])
        places = list(range(16)) if boxes is None else match_by_hand(*boxes[image], 4)
        for token, place in zip(latent[0, 1:], keep.tolist(), strict=True):
            if places[place] is not None:
                own = known['tokens'][image][1 + places[place]]
                tokens.append(1 - prediction('tokens', token) @ own)
    return [torch.stack(x).mean() for x in (recon, cls, tokens)]


@pytest.mark.parametrize('num_masks', [1, 2])
@pytest.mark.parametrize('boxes', [None, BOXES], ids=['shared', 'own_crop'])
def test_losses_and_gradients_equal_a_loop_over_tokens(num_masks, boxes):
    model = build_msa(masking=dict(num_masks=num_masks), loss_weights=dict(recon=0.5, align_cls=2, align_tokens=3))
    scramble(model)
    inputs, samples = views(0), None if boxes is None else samples_of(boxes)
    masks = copy.deepcopy(model.masking)(3, 16)
    losses = model(inputs, samples, mode='loss')
    recon, cls, tokens = by_hand(model, inputs, masks, boxes)
    expected = dict(loss_recon=0.5 * recon, loss_align_cls=2 * cls, loss_align_tokens=3 * tokens)
    assert losses.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(losses[name], value, rtol=1e-5, atol=1e-6)
    parameters = [p for p in model.parameters() if p.requires_grad]
    ours = torch.autograd.grad(sum(losses.values()), parameters)
    loop = torch.autograd.grad(sum(expected.values()), parameters)
    for a, b in zip(ours, loop, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


VARIANTS = dict(
    plain={},
    many_masks=dict(masking=dict(num_masks=3, predict_ratio=0.5)),
    cls_only=dict(loss_weights=dict(align_tokens=0)),
    tokens_only=dict(loss_weights=dict(align_cls=0)),
    infonce_tokens=dict(tokens_align_head=dict(loss='infonce', temperature=0.1), masking=dict(num_masks=2)),
    cosine_cls=dict(align_head=dict(loss='cosine', num_layers=3)),
    lean=dict(backbone=dict(embed_visible_only=True)),
)


@pytest.mark.parametrize('variant', VARIANTS)
@pytest.mark.parametrize('own_crop', [False, True])
def test_gradients_reach_the_student_and_no_teacher(variant, own_crop):
    model = build_msa(**VARIANTS[variant])
    scramble(model)
    with torch.autocast('cpu', torch.bfloat16, enabled=variant == 'plain'):
        losses = model(views(1), samples_of(BOXES) if own_crop else None, mode='loss')
    expected = {'loss_recon', *(f'loss_align_{name}' for name in model.align_heads)}
    assert set(losses) == expected
    assert all(torch.isfinite(loss) and loss.ndim == 0 and loss > 0 for loss in losses.values())
    sum(losses.values()).backward()
    for name, parameter in model.named_parameters():
        if 'teacher' in name or name.endswith('pos_embed'):
            assert parameter.grad is None and not parameter.requires_grad, name
        else:
            assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


def test_each_alignment_has_its_own_loss():
    model = build_msa(align_head=dict(loss='infonce', temperature=0.5), tokens_align_head=dict(out_dims=4))
    heads = model.align_heads
    assert (heads['cls'].loss_type, heads['tokens'].loss_type) == ('infonce', 'cosine')
    assert heads['tokens'].temperature == 0.5 and heads['tokens'].predictor[-1].out_features == 4
    assert build_msa(tokens_align_head=dict(loss='infonce')).align_heads['tokens'].loss_type == 'infonce'


def test_no_token_is_its_own_negative():
    """Two masks keep some places twice: a perfect student still finds each of its tokens, first choice."""
    model = build_msa(
        masking=dict(num_masks=4, mask_ratio=0.5), tokens_align_head=dict(loss='infonce', temperature=0.01)
    )
    scramble(model)
    head, seen = model.align_heads['tokens'], {}
    head.loss = lambda tokens, target, rows, *args: seen.update(target=target, rows=rows) or (target.sum(), None)
    model(views(0), mode='loss')
    masks = build_msa(masking=dict(num_masks=4, mask_ratio=0.5)).masking(3, 16)  # those of the step
    assert seen['target'].shape == (48, 8)
    assert len(torch.unique(seen['target'], dim=0)) == 48
    expected = [16 * (row // 4) + place for row, kept in enumerate(masks.ids_keep.tolist()) for place in kept]
    assert seen['rows'].tolist() == expected


def test_it_learns():
    torch.manual_seed(0)
    model = build_msa()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=3e-3)
    weak, history = torch.randn(16, 3, 16, 16), []
    for _ in range(60):
        losses = model([weak, 0.8 * weak + 0.1], mode='loss')
        optimizer.zero_grad()
        sum(losses.values()).backward()
        optimizer.step()
        move_teachers(model, 0.9)
        history.append({name: loss.item() for name, loss in losses.items()})
    for name in history[0]:
        first, last = (sum(losses[name] for losses in part) for part in (history[:5], history[-5:]))
        assert last < 0.9 * first, name


def test_the_teacher_sees_the_strong_view_only():
    model = build_msa()
    scramble(model)
    weak, strong = views(2)
    masking, losses = copy.deepcopy(model.masking), []
    for inputs in ([weak, strong], [weak, strong + 1], [weak + torch.randn(3, 3, 1, 1), strong]):
        model.masking = copy.deepcopy(masking)
        losses.append(model(inputs, mode='loss'))
    assert torch.equal(losses[0]['loss_recon'], losses[1]['loss_recon'])
    for name in ('loss_align_cls', 'loss_align_tokens'):
        assert not torch.equal(losses[0][name], losses[1][name])
        assert not torch.equal(losses[0][name], losses[2][name])


def test_without_alignment_one_view_is_enough_and_no_teacher_is_built():
    model = build_msa(False, loss_weights=dict(align_cls=0, align_tokens=0), align_head=None)
    assert model.teachers == {}
    state = copy.deepcopy(model.masking)
    loss = model(views(0)[0], mode='loss')
    model.masking = state
    assert torch.equal(loss['loss_recon'], model(views(0), mode='loss')['loss_recon'])


def test_teacher_starts_as_the_student_and_moves_with_its_momentum():
    model = build_msa()
    names = {n: n.removeprefix('align_teacher.') for n, _ in model.named_parameters() if n.startswith('align_teacher.')}
    own = dict(model.named_parameters())
    student = {n: own[s if s.startswith('backbone.') else f'align_{s}'] for n, s in names.items()}
    assert student and all(torch.equal(own[n], p) for n, p in student.items())
    before = {n: own[n].double().clone() for n in names}
    for parameter in student.values():
        parameter.data += torch.randn_like(parameter)
    move_teachers(model, 0.9)
    for name, parameter in student.items():
        torch.testing.assert_close(own[name].double(), 0.9 * before[name] + 0.1 * parameter.detach().double())


@pytest.mark.parametrize('own_crop', [False, True])
def test_a_step_from_the_real_pipeline(own_crop, tmp_path_factory):
    """Embedded digits through TwoViews, PackInputs, the loader's collate function and the preprocessor."""
    from mmengine.registry import init_default_scope

    from mmpl.datasets import EmbeddedClassification

    init_default_scope('mmpretrain')
    views_cfg = dict(
        type='mmpl.TwoViews',
        geometry=[dict(type='mmpl.BoxedResizedCrop', scale=16), dict(type='RandomFlip', prob=0.5)],
        strong=[dict(type='ColorJitter', brightness=0.4, contrast=0.4)],
        own_crop=own_crop,
    )
    pipeline = [dict(type='LoadImageFromFile'), views_cfg, dict(type='PackInputs', meta_keys=('view_boxes',))]
    root = tmp_path_factory.getbasetemp() / 'embedded'
    dataset = EmbeddedClassification(data_root=str(root), size='test', split='train', pipeline=pipeline)
    model = build_msa(data_preprocessor=dict(mean=[53.46] * 3, std=[57.2] * 3, bgr_to_rgb=True))
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.01)
    loader = torch.utils.data.DataLoader(dataset, batch_size=4, collate_fn=default_collate)
    for step, batch in zip(range(2), loader, strict=False):
        data = model.data_preprocessor(batch, True)
        assert [tuple(view.shape) for view in data['inputs']] == [(4, 3, 16, 16)] * 2
        boxes = [sample.get('view_boxes') for sample in data['data_samples']]
        assert all((box is not None) == own_crop for box in boxes), step
        losses = model(**data, mode='loss')
        assert set(losses) == {'loss_recon', 'loss_align_cls', 'loss_align_tokens'}
        optimizer.zero_grad()
        sum(losses.values()).backward()
        optimizer.step()
        move_teachers(model, 0.9)
        assert all(torch.isfinite(p).all() for p in model.parameters())


@pytest.mark.parametrize(
    ('fields', 'message'),
    [
        (dict(head=dict(target='feature')), "`head.target` must be 'pixel' in MSA, .* but got 'feature'"),
        (dict(align_head=None), '`align_head` must be given'),
        (dict(align_head=dict(in_dims=5)), '`cls align head in_dims` must be 32'),
        (dict(tokens_align_head=dict(in_dims=5)), '`tokens align head in_dims` must be 32'),
        (dict(align_head=dict(loss='l1')), r"`align_head.loss` must be one of \['cosine', 'infonce'\], but got 'l1'"),
        (dict(loss_weights=dict(label_cls=1)), "`loss_weights` must be one of .*'align_cls'.*, but got 'label_cls'"),
        (dict(loss_weights=dict(align_cls=-1)), '`loss_weights.align_cls`'),
        (dict(neck=dict(num_patches=25)), '`neck.num_patches` must be 16'),
        (dict(masking=dict(mask_ratio=0.99)), '`mask_ratio` 0.99 leaves 0 of 16 patches visible'),
    ],
)
def test_refuses(fields, message):
    with pytest.raises(ValueError, match=message):
        MODELS.build(msa_cfg(**fields))


def test_refuses_inputs_that_do_not_fit():
    model = build_msa()
    weak, strong = views(0)
    with pytest.raises(ValueError, match='MSA needs 2 views of each image, .* gives 1: end it with .*mmpl.TwoViews'):
        model(weak, mode='loss')
    with pytest.raises(ValueError, match='gives 3'):
        model([weak, strong, strong], mode='loss')
    with pytest.raises(ValueError, match=r'`backbone.img_size` is \(16, 16\), but the images are \(8, 8\)'):
        model([weak, strong[..., :8, :8]], mode='loss')
    samples = samples_of(BOXES)
    samples[1] = type(samples[1])()
    with pytest.raises(ValueError, match=r"`view_boxes` .* is missing .*meta_keys=\('view_boxes',\)"):
        model([weak, strong], samples, mode='loss')
    samples[1].set_metainfo(dict(view_boxes=None))
    with pytest.raises(ValueError, match='`view_boxes` must be in every sample or in none, but 1 of 3 lack it'):
        model([weak, strong], samples, mode='loss')
    with pytest.raises(RuntimeError, match='nobody updates the teachers'):
        build_msa(attach=False)([weak, strong], mode='loss')
