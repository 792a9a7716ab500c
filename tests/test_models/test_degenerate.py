"""What compares images with each other refuses a batch of one, in which it would teach nothing and say nothing."""

import pytest
import torch
from mmengine.registry import MODELS

from mmpl.methods import MSA, PLMAE


def step(method: type, images: int, **changes) -> dict:
    """The losses of one step of a tiny model on that many images."""
    cfg = method.tiny()
    for path, value in changes.items():
        *parents, key = path.split('__')
        node = cfg
        for parent in parents:
            node = node.setdefault(parent, {})
        node[key] = value
    torch.manual_seed(0)
    model = MODELS.build(cfg)
    model.init_weights()
    model.attach_updater('test')
    views = [torch.randn(images, 3, 16, 16, generator=torch.Generator().manual_seed(i)) for i in range(model.num_views)]
    return model.loss(views if len(views) > 1 else views[0])


CASES = [
    (PLMAE, dict(head__target_norm='position'), "`head.target_norm` 'position' compares the images"),
    (PLMAE, dict(head__target_norm='position_layer'), '`head.target_norm`'),
    (PLMAE, dict(label_head__teacher_norm='batch'), "`label_head.teacher_norm` 'batch' compares the tokens"),
    (PLMAE, dict(data_label_head__teacher_norm='position'), "`label_head.teacher_norm` 'position' compares the images"),
    (PLMAE, dict(label_head__student_norm='batch'), '`label_head.student_norm`'),
    (PLMAE, dict(label_head__assignment='sinkhorn'), "or 'centering'"),
    (MSA, {}, "`align_head.loss` 'infonce' compares the images"),
    (MSA, dict(align_head__norm='batch', loss_weights__align_tokens=0.0), '`align_head.norm`'),
]


@pytest.mark.parametrize(('method', 'changes', 'message'), CASES)
def test_one_image_is_refused_and_two_are_not(method: type, changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match='train_dataloader.batch_size') as refused:
        step(method, 1, **changes)
    assert message in str(refused.value)
    losses = step(method, 2, **changes)
    assert all(loss.item() > 0 for loss in losses.values())


@pytest.mark.parametrize(
    ('method', 'changes'),
    [(PLMAE, {}), (PLMAE, dict(head__target_norm='batch')), (MSA, dict(loss_weights__align_cls=0.0))],
)
def test_what_compares_no_images_takes_one(method: type, changes: dict) -> None:
    assert all(loss.item() > 0 for loss in step(method, 1, **changes).values())


def test_a_patch_of_one_number_cannot_be_standardised() -> None:
    head = dict(type='mmpl.TokenReconHead', target='pixel', patch_size=1, in_channels=1)
    with pytest.raises(ValueError, match='`head.norm_pix` must be False'):
        MODELS.build(head)
    assert MODELS.build(dict(head, norm_pix=False)).out_dims == 1
