"""Teachers: the moving average, what they look at, and that they never learn."""

import pytest
import torch

from mmpl.models import EMATeacher, TeacherView, move_teachers
from mmpl.models import teacher as teacher_module
from mmpl.models.masking import RandomMasking
from mmpl.models.teacher_view import coarser_places
from tests.test_models.helpers import build_plmae, scramble


def test_the_average_follows_its_formula_in_float64():
    model = build_plmae()
    students = {n: p for n, p in model.named_parameters() if n.startswith(('backbone.', 'label_heads.'))}
    label = {n: p.detach().double() for n, p in students.items()}
    recon = {n: p.detach().double() for n, p in students.items()}
    generator = torch.Generator().manual_seed(0)
    for step in range(50):
        for parameter in students.values():
            parameter.data += 0.05 * torch.randn(parameter.shape, generator=generator)
        momenta = 0.9 + step / 1000, 0.99 + step / 10000
        model.update_teachers(*momenta)
        for average, momentum in ((label, momenta[0]), (recon, momenta[1])):
            for name, value in average.items():
                value.mul_(momentum).add_(students[name].detach().double(), alpha=1 - momentum)
    own = dict(model.named_parameters())
    for name in students:
        teacher = name.replace('label_heads.', 'label_teacher.heads.').replace('backbone.', 'label_teacher.backbone.')
        torch.testing.assert_close(own[teacher].double(), label[name], rtol=0, atol=1e-6)
        if name.startswith('backbone.'):
            torch.testing.assert_close(own[f'recon_teacher.{name}'].double(), recon[name], rtol=0, atol=1e-6)


def test_teachers_start_as_the_student_and_stay_in_evaluation_mode():
    model = build_plmae(backbone=dict(drop_path_rate=0.5))
    for name, parameter in model.label_teacher.named_parameters():
        student = name.replace('heads.', 'label_heads.')
        assert torch.equal(parameter, model.get_parameter(student)), name
        assert not parameter.requires_grad
    assert model.training
    assert not any(module.training for module in model.label_teacher.modules())
    assert not any(module.training for module in model.recon_teacher.modules())


def test_a_shared_head_stays_shared_and_moves_once():
    model = build_plmae(share_label_head=True)
    assert model.label_heads['cls'] is model.label_heads['data']
    assert model.label_teacher.heads['cls'] is model.label_teacher.heads['data']
    assert model.label_teacher.assigners['cls'] is not model.label_teacher.assigners['data']
    before = model.label_teacher.heads['cls'].prototypes.clone()
    model.label_heads['cls'].prototypes.data += 1
    model.update_teachers(0.75, 1)
    torch.testing.assert_close(model.label_teacher.heads['cls'].prototypes, before + 0.25)


def test_older_torch_moves_the_same(monkeypatch):
    results = []
    for _ in range(2):
        torch.manual_seed(0)
        model = build_plmae()
        for parameter in model.backbone.parameters():
            parameter.data += 1
        model.update_teachers(0.9, 0.99)
        results.append([p.clone() for p in model.parameters()])
        monkeypatch.setattr(teacher_module, 'hasattr', lambda *args: False, raising=False)
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_refuses_a_teacher_of_another_student():
    teacher = EMATeacher(net=torch.nn.Linear(2, 2))
    with pytest.raises(KeyError, match=r"a teacher has parameters that its student lacks: \['net.bias'\]"):
        move_teachers([(teacher, 0.9)], dict(net=torch.nn.Linear(2, 2, bias=False)))


@pytest.mark.parametrize('momentum', [-0.1, 1.1, float('nan')])
def test_refuses_momentum(momentum):
    student = torch.nn.Linear(2, 2)
    with pytest.raises(ValueError, match=r'`momentum` must be a number in \[0, 1\]'):
        EMATeacher(net=student).update(dict(net=student), momentum)


def test_full_view_picks_the_places():
    model = build_plmae()
    scramble(model)
    images, masks = torch.randn(2, 3, 16, 16), RandomMasking(num_masks=2, predict_ratio=0.5)(2, 16)
    view = TeacherView(model.backbone, images, masks, 'full', target_blocks=1)
    tokens, (block,) = model.backbone.encode(images, None, 1)
    for row in range(4):
        torch.testing.assert_close(view.visible[row], tokens[row // 2, 1:][masks.ids_keep[row]])
        torch.testing.assert_close(view.masked[row], tokens[row // 2, 1:][masks.ids_predict[row]])
        torch.testing.assert_close(view.masked_features[row], block[row // 2, 1:][masks.ids_predict[row]])


def test_folds_view_is_each_fold_encoded_by_itself():
    model = build_plmae()
    scramble(model)
    images, masks = torch.randn(2, 3, 16, 16), RandomMasking(num_masks=2)(2, 16)
    view = TeacherView(model.backbone, images, masks, 'folds', target_blocks=2)
    assert view.cls.shape == (2 * 2 * 3, 32)
    for row in range(4):
        for fold in range(3):
            ids = masks.ids_masked[row, 4 * fold : 4 * fold + 4]
            tokens, blocks = model.backbone.encode(images[row // 2][None], ids[None], 2)
            torch.testing.assert_close(view.cls[3 * row + fold], tokens[0, 0], rtol=1e-4, atol=1e-5)
            at = slice(4 * fold, 4 * fold + 4)
            torch.testing.assert_close(view.masked[row, at], tokens[0, 1:], rtol=1e-4, atol=1e-5)
            mean = torch.stack([torch.nn.functional.layer_norm(b[0, 1:], (32,)) for b in blocks]).mean(0)
            torch.testing.assert_close(view.masked_features[row, at], mean, rtol=1e-4, atol=1e-5)


def test_refuses_folds_that_do_not_come_out_even():
    with pytest.raises(ValueError, match=r'138 masked patches do not split into folds of 58.*0\.75'):
        TeacherView.check_folds(138, 58)


@pytest.mark.parametrize(('fine', 'coarse'), [(4, 2), (14, 7), (14, 10), (5, 3)])
def test_coarser_places_hold_the_centres(fine, coarse):
    places = coarser_places(fine**2, coarse)
    for place, found in enumerate(places.tolist()):
        row, column = divmod(place, fine)
        at_row, at_column = divmod(found, coarse)
        for centre, at in ((row, at_row), (column, at_column)):
            assert at <= (centre + 0.5) / fine * coarse < at + 1


def test_a_grid_of_the_same_size_needs_no_places():
    assert coarser_places(196, 14) is None
