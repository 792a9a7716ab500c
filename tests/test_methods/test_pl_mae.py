"""The algorithm: against mmpretrain's MAE, against a loss put together by hand, and what it refuses."""

import copy
import subprocess
import sys

import numpy as np
import pytest
import torch
from mmpretrain.registry import MODELS
from mmpretrain.structures import DataSample
from torch.nn import functional as F  # noqa: N812

from mmpl.datasets import TwoViews
from mmpl.engine.optimizers import StrictOptimWrapperConstructor
from mmpl.models.masking import Masks
from tests.test_models.helpers import ARCH, build_msa, build_plmae, move_teachers, plmae_cfg, samples_of, scramble

pytestmark = pytest.mark.smoke
NO_LABELS = dict(label_cls=0, label_data=0)


AS_MAE = dict(  # the algorithms without what they add
    plmae=lambda **head: build_plmae(False, head=dict(target='pixel', **head), loss_weights=NO_LABELS),
    msa=lambda **head: build_msa(False, head=head, loss_weights=dict(align_cls=0, align_tokens=0)),
)


@pytest.mark.parametrize('method', AS_MAE)
@pytest.mark.parametrize('norm_pix', [True, False])
@pytest.mark.parametrize('batch_size', [2, 5])
def test_pixel_targets_are_mae_bit_for_bit(method, norm_pix, batch_size):
    mae = MODELS.build(
        dict(
            type='MAE',
            backbone=dict(type='MAEViT', arch=ARCH, img_size=16, patch_size=4, mask_ratio=0.75),
            neck=dict(
                type='MAEPretrainDecoder', num_patches=16, patch_size=4, embed_dim=32, decoder_embed_dim=24,
                decoder_depth=2, decoder_num_heads=4),
            head=dict(
                type='MAEPretrainHead', norm_pix=norm_pix, patch_size=4,
                loss=dict(type='PixelReconstructionLoss', criterion='L2'))))  # fmt: skip
    ours = AS_MAE[method](norm_pix=norm_pix)
    scramble(ours)
    mae.load_state_dict({k: v for k, v in ours.state_dict().items() if not k.startswith('masking.')}, strict=False)
    shared = [n for n, _ in ours.named_parameters()]
    assert shared == [n for n, _ in mae.named_parameters()]
    assert all(torch.equal(ours.get_parameter(n), mae.get_parameter(n)) for n in shared)
    images = torch.randn(batch_size, 3, 16, 16)

    torch.manual_seed(7)
    theirs = mae(images, mode='loss')['loss']
    theirs.backward()
    torch.manual_seed(7)
    masks = Masks.from_noise(torch.rand(batch_size, 16), num_visible=4)
    ours.masking.forward = lambda *args: masks
    loss = sum(ours(images, mode='loss').values())
    loss.backward()

    assert torch.equal(loss, theirs)
    for name in shared:
        a, b = ours.get_parameter(name).grad, mae.get_parameter(name).grad
        assert (a is None and b is None) or torch.equal(a, b), name


def score(head, x):
    """Logits of a labelling head."""
    return F.normalize(head.projector(x), dim=-1) @ F.normalize(head.prototypes, dim=-1).t()


def by_hand(model, images, masks):
    """The losses of full images, one image and one token at a time."""
    cls_losses, data_losses, recon = [], [], []
    label, student = model.label_teacher, model
    for row, (keep, predict) in enumerate(zip(masks.ids_keep, masks.ids_predict, strict=True)):
        image = images[row // masks.num_masks][None]
        latent = student.backbone.encode(image, keep[None])[0]
        one = Masks(*(x[row][None] for x in masks[:4]), num_masks=1)
        pred = student.neck(latent, one)
        teacher = label.backbone.encode(image)[0][0]
        raw = model.recon_teacher.backbone.encode(image, None, 1)[1][0][0, 1:]
        for place, value in zip(predict, pred[0], strict=True):
            recon.append(F.smooth_l1_loss(value, F.layer_norm(raw[place], (32,))))

        def entropy(name, token, target):
            probs = torch.softmax(score(label.heads[name], target) / 0.04, -1)
            return -(probs * torch.log_softmax(score(student.label_heads[name], token) / 0.1, -1)).sum()

        cls_losses.append(entropy('cls', latent[0, 0], teacher[0]))
        data_losses += [entropy('data', latent[0, 1 + i], teacher[1 + place]) for i, place in enumerate(keep)]
    return [torch.stack(x).mean() for x in (recon, cls_losses, data_losses)]


@pytest.mark.parametrize('num_masks', [1, 3, 5])  # with 5 the data tokens are labelled before they are picked
@pytest.mark.parametrize('predict_ratio', [1.0, 0.5])
def test_losses_and_gradients_equal_a_loop_over_tokens(num_masks, predict_ratio):
    model = build_plmae(
        masking=dict(num_masks=num_masks, predict_ratio=predict_ratio),
        loss_weights=dict(recon=0.5, label_cls=2, label_data=3),
    )
    scramble(model)
    images = torch.randn(2, 3, 16, 16)
    masks = copy.deepcopy(model.masking)(2, 16)
    losses = model(images, mode='loss')
    recon, cls, data = by_hand(model, images, masks)
    expected = dict(loss_recon=0.5 * recon, loss_label_cls=2 * cls, loss_label_data=3 * data)
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
    folds=dict(teacher_input='folds', data_tokens='masked'),
    folds_many=dict(teacher_input='folds', data_tokens='masked', masking=dict(num_masks=2, predict_ratio=0.5)),
    masked=dict(data_tokens='masked'),
    all_tokens=dict(data_tokens='all', masking=dict(predict_ratio=0.25)),
    single=dict(single_teacher=True),
    single_no_labels=dict(single_teacher=True, loss_weights=NO_LABELS),
    sinkhorn=dict(label_head=dict(assignment='sinkhorn')),
    chunked=dict(label_head=dict(chunk_size=3)),
    own_data_head=dict(data_label_head=dict(num_prototypes=7)),
    no_class_labels=dict(loss_weights=dict(label_cls=0)),
    no_data_labels=dict(loss_weights=dict(label_data=0)),
    discrete=dict(head=dict(target='discrete', num_codes=32)),
    pixel=dict(head=dict(target='pixel'), loss_weights=NO_LABELS),
    pixel_labels=dict(head=dict(target='pixel')),
    batch_norm=dict(head=dict(target_norm='batch', target_blocks=2, loss='cosine')),
    lean=dict(backbone=dict(embed_visible_only=True)),
    other_view=dict(teacher_view='other', masking=dict(num_masks=2)),
    shared_projector=dict(shared_projector=True, data_label_head=dict(num_prototypes=7)),
)


@pytest.mark.parametrize('variant', VARIANTS)
@pytest.mark.parametrize('bf16', [False, True])
def test_gradients_reach_the_student_and_no_teacher(variant, bf16):
    model = build_plmae(**VARIANTS[variant])
    scramble(model)
    with torch.autocast('cpu', torch.bfloat16, enabled=bf16):
        losses = model([torch.randn(4, 3, 16, 16) for _ in range(model.num_views)], mode='loss')
    assert all(torch.isfinite(loss) and loss.ndim == 0 and loss > 0 for loss in losses.values())
    sum(losses.values()).backward()
    for name, parameter in model.named_parameters():
        if 'teacher' in name or name.endswith('pos_embed'):
            assert parameter.grad is None and not parameter.requires_grad, name
        else:
            assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name
    move_teachers(model, 0.9, 0.99)
    assert all(torch.isfinite(p).all() for p in model.parameters())


@pytest.mark.parametrize('variant', ['plain', 'folds', 'sinkhorn', 'discrete', 'no_class_labels'])
def test_it_learns(variant):
    torch.manual_seed(0)
    model = build_plmae(**VARIANTS[variant])
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=3e-3)
    images, recon = torch.randn(16, 3, 16, 16), []
    for _ in range(40):
        losses = model(images, mode='loss')
        optimizer.zero_grad()
        sum(losses.values()).backward()
        optimizer.step()
        move_teachers(model, 0.99, 0.999)
        recon.append(losses['loss_recon'].item())
    assert sum(recon[-5:]) < 0.9 * sum(recon[:5])


@pytest.mark.parametrize('single_teacher', [False, True])
def test_teachers_see_the_other_view_and_the_student_its_own(single_teacher):
    """B for the student of A gives what A gives if B is A, and else the losses by hand with B in the teachers."""
    model = build_plmae(teacher_view='other', single_teacher=single_teacher)
    scramble(model)
    one, two = torch.randn(2, 4, 3, 16, 16)
    masks = copy.deepcopy(model.masking)(4, 16)
    plain = build_plmae(single_teacher=single_teacher)
    plain.load_state_dict(model.state_dict())
    for each in (model, plain):
        each.masking.forward = lambda *args: masks
    same, expected = model([one, one], mode='loss'), plain(one, mode='loss')
    assert same.keys() == expected.keys() and all(torch.equal(same[name], expected[name]) for name in same)

    losses = model([two, one], mode='loss')
    latent = model.backbone(one, masks.ids_keep)
    features = model.teachers['label_teacher' if single_teacher else 'recon_teacher'].backbone.encode(two, None, 1)[1][
        0
    ]
    rows = torch.arange(4)[:, None]
    target = F.layer_norm(features[:, 1:][rows, masks.ids_predict], (32,))
    tokens = model.label_teacher.backbone.encode(two)[0]
    by_hand = dict(loss_recon=F.smooth_l1_loss(model.neck(latent, masks), target))
    for name, student, teacher in (
        ('cls', latent[:, 0], tokens[:, 0]),
        ('data', latent[:, 1:], tokens[:, 1:][rows, masks.ids_keep]),
    ):
        probs = torch.softmax(score(model.label_teacher.heads[name], teacher) / 0.04, -1)
        predicted = torch.log_softmax(score(model.label_heads[name], student) / 0.1, -1)
        by_hand[f'loss_label_{name}'] = -(probs * predicted).sum(-1).mean()
    for name, value in by_hand.items():
        torch.testing.assert_close(losses[name], value, rtol=1e-5, atol=1e-6)


def test_teachers_see_the_weak_view_of_two_views():
    """Through the transform that makes them: what corrupts the strong view is seen by the student alone."""
    views = TwoViews(geometry=[], strong=[dict(type='mmpretrain.Solarize', thr=0, prob=1.0)])
    made = views(dict(img=np.full((16, 16, 3), 10, np.uint8), img_shape=(16, 16)))['img']
    images = [torch.from_numpy(image).permute(2, 0, 1).float()[None].repeat(2, 1, 1, 1) for image in made]
    model = build_plmae(teacher_view='other')
    seen = {}
    for name in ('backbone', 'label_teacher.backbone', 'recon_teacher.backbone'):
        part = model.get_submodule(name)
        part.patch_embed.register_forward_pre_hook(
            lambda _, inputs, name=name: seen.__setitem__(name, inputs[0].unique().tolist())
        )
    model(images, mode='loss')
    assert seen == {'backbone': [245.0], 'label_teacher.backbone': [10.0], 'recon_teacher.backbone': [10.0]}


def test_labels_of_a_checkpoint_are_those_at_the_end_of_the_schedule():
    sinkhorn = dict(assignment='sinkhorn', warmup_teacher_temp=0.04, teacher_temp=1.0)
    model = build_plmae(False, label_head=plmae_cfg()['label_head'] | sinkhorn)
    scramble(model)
    images = torch.randn(8, 3, 16, 16)
    loaded = model.predict_labels(images)
    model.attach_updater('a test')
    early = model.predict_labels(images)
    model.set_progress(1.0)
    late = model.predict_labels(images)
    assert torch.equal(loaded['data'], late['data']) and not torch.equal(loaded['data'], early['data'])


def test_a_temperature_of_its_own_is_logged():
    model = build_plmae(data_label_head=dict(teacher_temp=0.2))
    model.set_progress(1.0)
    logged = {key: value for key, value in model.scheduled(1.0).items() if 'temp' in key}
    assert logged == dict(cls_teacher_temp=0.07, data_teacher_temp=0.2) and set(logged) <= set(model.figures)
    assert 'teacher_temp' in build_plmae().scheduled(1.0)


def test_the_norm_of_targets_shows_features_that_run_to_zero():
    """Also where several blocks are averaged, which are layer-normed before."""
    for blocks in (1, 2):
        model = build_plmae(head=dict(target_blocks=blocks))
        scramble(model)
        model.track_health = True
        norms = []
        for _ in range(2):
            with torch.no_grad():
                norms.append(float(model.step([torch.randn(4, 3, 16, 16)]).figures['target_norm']))
                for parameter in model.recon_teacher.backbone.parameters():
                    parameter.mul_(0.01)
        assert norms[1] < 0.1 * norms[0]


def test_pixels_are_of_the_students_view():
    model = build_plmae(teacher_view='other', head=dict(target='pixel'))
    scramble(model)
    one, two = torch.randn(2, 4, 3, 16, 16)
    masks = copy.deepcopy(model.masking)(4, 16)
    model.masking.forward = lambda *args: masks
    first, second = (model([other, one], mode='loss')['loss_recon'] for other in (one, two))
    assert torch.equal(first, second)


def test_a_crop_of_its_own_teaches_nothing_at_places():
    boxes = [[[0, 0, 16, 16], [1, 2, 17, 18]]] * 2
    views = [torch.randn(2, 3, 16, 16) for _ in range(2)]
    with pytest.raises(ValueError, match='with data labels and token features needs views of one geometry'):
        build_plmae(teacher_view='other')(views, samples_of(boxes), mode='loss')
    with pytest.raises(ValueError, match='`view_boxes` of mmpl.TwoViews is missing'):
        build_plmae(teacher_view='other')(views, [DataSample() for _ in range(2)], mode='loss')
    build_plmae(teacher_view='other')(views, samples_of([None, None]), mode='loss')
    class_tokens_only = dict(head=dict(target='pixel'), loss_weights=dict(label_data=0))
    build_plmae(teacher_view='other', **class_tokens_only)(views, samples_of(boxes), mode='loss')


def test_a_shared_projector_is_one_in_student_and_teacher_and_learns_of_both():
    model = build_plmae(shared_projector=True)
    scramble(model)
    for heads in (model.label_heads, model.label_teacher.heads):
        assert heads['cls'].projector is heads['data'].projector
        assert heads['cls'].prototypes is not heads['data'].prototypes
    names = [name for name in model.state_dict() if 'projector' in name]
    assert len(names) == 2 * 6 and all('heads.cls.' in name for name in names), 'one in student and teacher'
    StrictOptimWrapperConstructor(dict(optimizer=dict(type='SGD', lr=0.1)))(model)
    other = build_plmae(shared_projector=True)
    other.load_state_dict(model.state_dict())
    images = torch.randn(4, 3, 16, 16)
    masks = copy.deepcopy(model.masking)(4, 16)
    model.masking.forward = lambda *args: masks
    losses = model(images, mode='loss')
    weight = model.label_heads['cls'].projector[0].weight
    parts = [
        torch.autograd.grad(losses[f'loss_label_{name}'], weight, retain_graph=True)[0] for name in ('cls', 'data')
    ]
    sum(losses.values()).backward()
    torch.testing.assert_close(weight.grad, parts[0] + parts[1])
    assert all(part.abs().sum() > 0 for part in parts)
    before = model.label_teacher.heads['data'].projector[0].weight.clone()
    move_teachers(model, 0.5, 0.5)
    torch.testing.assert_close(model.label_teacher.heads['data'].projector[0].weight, (before + weight) / 2)


@pytest.mark.parametrize(
    ('fields', 'message'),
    [
        (
            dict(teacher_view='other', loss_weights=NO_LABELS, head=dict(target='pixel')),
            '`teacher_view` must be .same. without',
        ),
        (dict(teacher_view='another'), '`teacher_view` must be'),
        (dict(neck=dict(decoder_embed_dims=18, num_heads=3)), '`neck.decoder_embed_dims` must be a multiple of 4'),
        (dict(shared_projector=True, loss_weights=dict(label_data=0)), '`shared_projector` needs labels of both'),
        (dict(shared_projector=True, data_label_head=dict(hidden_dims=5)), '`shared_projector` needs the same'),
    ],
)
def test_options_of_mc_ssl_that_do_not_fit_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        build_plmae(**fields)


def test_one_view_is_refused_where_the_other_one_is_asked_for():
    model = build_plmae(teacher_view='other')
    with pytest.raises(ValueError, match='needs 2 views'):
        model(torch.randn(2, 3, 16, 16), mode='loss')


def test_a_shuffled_batch_gives_the_same_losses():
    model = build_plmae()
    scramble(model)
    images, order = torch.randn(4, 3, 16, 16), torch.tensor([2, 0, 3, 1])
    masks = copy.deepcopy(model.masking)(4, 16)
    losses = []
    for batch, rows in ((images, slice(None)), (images[order], order)):
        model.masking.forward = lambda *args, rows=rows: Masks(*(x[rows] for x in masks[:4]), num_masks=1)
        losses.append(model(batch, mode='loss'))
    for name in losses[0]:
        torch.testing.assert_close(losses[0][name], losses[1][name], rtol=1e-5, atol=1e-6)


def test_predicted_labels_are_those_of_the_labelling_teacher():
    model = build_plmae()
    scramble(model)
    images = torch.randn(3, 3, 16, 16)
    labels = model.predict_labels(images)
    tokens = model.label_teacher.backbone.encode(images)[0]
    head = model.label_teacher.heads['data']
    scores = head(tokens[:, 1:]) @ F.normalize(head.prototypes, dim=-1).t()
    assert torch.equal(labels['data'], scores.argmax(-1).view(3, 4, 4))
    assert labels['cls'].shape == (3,)
    assert model.label_teacher.assigners['data'].seen.abs().sum() == 0, 'looking leaves no trace'


def test_the_class_resolves_without_importing_mmpl(tmp_path):
    code = (
        'import sys, mmpretrain\n'
        'from mmpretrain.registry import MODELS, HOOKS\n'
        "assert 'mmpl.models' not in sys.modules\n"
        "print(MODELS.get('mmpl.PLMAE'), MODELS.get('mmpl.TokenReconHead'), HOOKS.get('mmpl.DualTeacherHook'))"
    )
    out = subprocess.run([sys.executable, '-c', code], cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    assert 'pl_mae.PLMAE' in out
    assert 'TokenReconHead' in out
    assert 'DualTeacherHook' in out


@pytest.mark.parametrize(
    ('fields', 'message'),
    [
        (dict(data_tokens='some'), r"`data_tokens` must be one of \['all', 'masked', 'visible'\], but got 'some'"),
        (dict(teacher_input='half'), r"`teacher_input` must be one of \['folds', 'full'\], but got 'half'"),
        (dict(teacher_input='folds'), "`data_tokens` must be 'masked' with `teacher_input='folds'`"),
        (
            dict(teacher_input='folds', data_tokens='masked', masking=dict(mask_ratio=0.6)),
            'masked patches do not split into folds of',
        ),
        (dict(masking=dict(mask_ratio=0.99)), '`mask_ratio` 0.99 leaves 0 of 16 patches visible'),
        (dict(loss_weights=dict(recon=0)), '`loss_weights.recon`'),
        (dict(loss_weights=dict(label_cls=-1)), '`loss_weights.label_cls`'),
        (dict(loss_weights=dict(pixels=1)), "`loss_weights` must be one of .*'recon'.*, but got 'pixels'"),
        (dict(label_head=None), '`label_head` must be given'),
        (dict(neck=dict(num_patches=25)), '`neck.num_patches` must be 16, the patches of `backbone`, but got 25'),
        (dict(neck=dict(embed_dims=8)), '`neck.embed_dims` must be 32'),
        (dict(neck=dict(out_dims=8)), "`neck.out_dims` must be 32, what `head.target='feature'` takes, but got 8"),
        (dict(head=dict(target='pixel'), data_tokens='masked'), '`neck.out_dims` must be 32, what `data_tokens='),
        (dict(head=dict(target_blocks=4)), r'`head.target_blocks` must be an integer in \[1, 3\], but got 4'),
        (dict(label_head=dict(in_dims=5)), '`cls label head in_dims` must be 32'),
        # of parts that are left out, too
        (
            dict(loss_weights=dict(label_data=0), data_label_head=dict(num_prototypes=0)),
            r'`label_head.num_prototypes` must be',
        ),
        (dict(single_teacher=True, momentum_recon=dict(start=5)), '`momentum_recon.start` must be'),
        (dict(backbone=dict(img_size=18)), '`img_size` must be a multiple of `patch_size` 4, but got 18'),
    ],
)
def test_refuses(fields, message):
    with pytest.raises(ValueError, match=message):
        MODELS.build(plmae_cfg(**fields))


def test_refuses_a_data_label_head_that_is_no_dict():
    with pytest.raises(TypeError, match='`data_label_head` must be a dict such as .*, but got -3'):
        MODELS.build(plmae_cfg(data_label_head=-3))


def test_refuses_masking_that_is_no_dict():
    with pytest.raises(TypeError, match='`masking` must be a dict such as .*, but got 2.5'):
        MODELS.build(plmae_cfg(masking=2.5))


def test_refuses_images_of_another_size():
    with pytest.raises(ValueError, match=r'`backbone.img_size` is \(16, 16\), but the images are \(32, 32\)'):
        build_plmae()(torch.randn(2, 3, 32, 32), mode='loss')


def test_refuses_to_train_if_nobody_updates_the_teachers():
    model = build_plmae(attach=False)
    with pytest.raises(RuntimeError, match=r"add `dict\(type='mmpl.DualTeacherHook'\)` to `custom_hooks`"):
        model(torch.randn(2, 3, 16, 16), mode='loss')
    model.attach_updater('DualTeacherHook')
    with pytest.raises(RuntimeError, match='keep one DualTeacherHook'):
        model.attach_updater('DualTeacherHook')
    without_teachers = build_plmae(False, head=dict(target='pixel'), loss_weights=NO_LABELS)
    without_teachers(torch.randn(2, 3, 16, 16), mode='loss')
