"""Teachers: the moving average, what they look at, and that they never learn."""

import math

import pytest
import torch
from mmpretrain.registry import MODELS

from mmpl.models import RandomMasking, Teacher, TeacherView
from tests.test_models.helpers import build_plmae, move_teachers, plmae_cfg, scramble


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
        move_teachers(model, *momenta)
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


def test_momentum_zero_copies_even_over_nan():
    model = build_plmae()
    for parameter in model.recon_teacher.parameters():
        parameter.fill_(float('nan'))
    model.copy_to_teachers(['recon_teacher'])
    for name, parameter in model.recon_teacher.named_parameters():
        assert torch.equal(parameter, model.get_parameter(name)), name


def test_a_teacher_that_moves_once_an_epoch_does_so_and_remembers_it():
    student = torch.nn.Linear(2, 2)
    fields = dict(start=0.96, end=0.99, every='epoch')
    teacher = Teacher(fields, backbone=student)
    moves, weight = [], teacher.backbone.weight.double().clone()
    for step in range(1, 13):  # three epochs of four steps
        student.weight.data += 1
        if step == 4:
            continue  # a step that is not taken: the move follows with the next one
        before = teacher.backbone.weight.clone()
        teacher.after_step(step / 12, step // 4)
        if not torch.equal(teacher.backbone.weight, before):
            moves.append(step)
            momentum = 0.96 + 0.03 * (1 - math.cos(math.pi * step / 12)) / 2
            weight = momentum * weight + (1 - momentum) * student.weight.detach().double()
        if step == 6:
            resumed = Teacher(fields, backbone=student)
            resumed.load_state_dict(teacher.state_dict())
            teacher = resumed
    assert moves == [5, 8, 12]
    torch.testing.assert_close(teacher.backbone.weight.double(), weight, rtol=0, atol=1e-6)


def test_a_teacher_may_start_on_its_own():
    model = MODELS.build(plmae_cfg())
    teacher = Teacher(dict(start=0.9), starts_as='own', backbone=model.backbone)
    model.init_weights()
    teacher.init_copies()
    own, student = teacher.backbone.layers[0].ffn.layers[1].weight, model.backbone.layers[0].ffn.layers[1].weight
    assert not torch.equal(own, student)
    assert own.std().item() == pytest.approx(student.std().item(), rel=0.1), 'drawn as the student is'


@pytest.mark.parametrize('momentum', [-0.1, 1.1, float('nan')])
def test_refuses_momentum(momentum):
    student = torch.nn.Linear(2, 2)
    with pytest.raises(ValueError, match=r'`momentum` must be a number in \[0, 1\]'):
        Teacher(dict(start=0.9), net=student).move(momentum)


def test_full_view_picks_the_places():
    model = build_plmae()
    scramble(model)
    images, masks = torch.randn(2, 3, 16, 16), RandomMasking(num_masks=2, predict_ratio=0.5)(2, 16)
    view = TeacherView(model.backbone, images, masks, 'full', target_blocks=1)
    tokens, (block,) = model.backbone.encode(images, None, 1)
    for row in range(4):
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
