"""SdAE against its loss computed image by image and fold by fold; when its teacher moves; and what it refuses."""

import copy

import pytest
import torch
from mmpretrain.registry import MODELS

from mmpl.methods import SdAE
from tests.test_engine.runs import METHODS, run_cfg
from tests.test_models.helpers import scramble, tiny_cfg


def build(**fields):
    model = MODELS.build(tiny_cfg(SdAE, **fields))
    model.init_weights()
    model.attach_updater('the test')
    return model.train()


@pytest.mark.parametrize('num_masks', [1, 2])
def test_the_loss_equals_a_loop_over_folds_and_tokens(num_masks):
    model = build(masking=dict(num_masks=num_masks))
    scramble(model)
    images = torch.randn(3, 3, 16, 16)
    masks = copy.deepcopy(model.masking)(3, 16)
    loss = model(images, mode='loss')['loss_recon']
    pred = model.neck(model.backbone(images, masks.ids_keep), masks)
    losses = []
    for row, masked in enumerate(masks.ids_masked):
        image = images[row // num_masks][None]
        for fold, ids in enumerate(masked.split(4)):
            tokens = model.teacher.backbone.encode(image, ids[None])[0][0, 1:].double()  # without its class token
            target = (tokens - tokens.mean(-1, keepdim=True)) / (
                tokens.var(-1, correction=0, keepdim=True) + 1e-6
            ).sqrt()
            for place, token in enumerate(target):
                value = pred[row, 4 * fold + place].double()
                losses.append(1 - (value @ token) / value.norm() / token.norm())
    assert len(losses) == 3 * num_masks * 12
    torch.testing.assert_close(loss.double(), torch.stack(losses).mean(), rtol=1e-5, atol=1e-6)


def test_the_teacher_starts_on_its_own_and_moves_once_an_epoch(tmp_path, monkeypatch):
    from mmengine.hooks import Hook
    from mmengine.runner import Runner

    class Watch(Hook):
        priority = 'VERY_LOW'

        def before_train(self, runner):
            teacher, student = runner.model.teacher.backbone.state_dict(), runner.model.backbone.state_dict()
            self.own = any(not torch.equal(teacher[key], student[key]) for key in teacher)
            self.moved, self.last = [], copy.deepcopy(teacher)

        def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
            now = copy.deepcopy(runner.model.teacher.backbone.state_dict())
            if any(not torch.equal(now[key], self.last[key]) for key in now):
                self.moved.append(runner.iter + 1)
            self.last = now

    monkeypatch.setitem(METHODS, 'sdae', (lambda **fields: tiny_cfg(SdAE, **fields), 1))
    runner = Runner.from_cfg(run_cfg(tmp_path, method='sdae'))
    watch = Watch()
    runner.register_hook(watch)
    runner.train()
    assert watch.own, 'the teacher is no copy of the student'
    assert watch.moved == [4, 8], 'two epochs of four steps'
    momenta = runner.message_hub.get_scalar('train/momentum_teacher').data[0]
    assert momenta[-1] == pytest.approx(0.99) and momenta[3] == pytest.approx(0.975)


@pytest.mark.parametrize(
    ('fields', 'error', 'message'),
    [
        (dict(masking=dict(mask_ratio=0.6)), ValueError, 'SdAE needs a `masking.mask_ratio` .* into folds of'),
        (dict(neck=dict(with_cls_token=False)), ValueError, '`neck.with_cls_token` must be True, as `backbone`'),
        (dict(momentum=dict(start=0.96, end=0.9)), ValueError, '`momentum.start` must be at most `momentum.end`'),
        (
            dict(momentum=dict(start=0.9, every='year')),
            ValueError,
            r"`momentum.every` must be one of \['epoch', 'step'\]",
        ),
        (dict(head=dict(target='pixel')), TypeError, '`head` is not a field of SdAE'),
    ],
)
def test_refuses(fields, error, message):
    with pytest.raises(error, match=message):
        MODELS.build(tiny_cfg(SdAE, **fields))
