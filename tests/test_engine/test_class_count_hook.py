"""The class-count hook: which differences it refuses, and which modules it leaves alone."""

from types import SimpleNamespace

import pytest
from torch import nn

from mmpl.engine.hooks import ClassCountHook


def _runner(head_classes: int, data_classes: int, wrapped: bool = False, rpn_classes: int = 1) -> SimpleNamespace:
    model = nn.Module()
    for name, count in (('decode_head', head_classes), ('rpn_head', rpn_classes)):
        head = nn.Identity()
        head.num_classes = count
        model.add_module(name, head)
    dataset = SimpleNamespace(metainfo={'classes': [f'c{i}' for i in range(data_classes)]})
    loader = SimpleNamespace(dataset=SimpleNamespace(dataset=dataset) if wrapped else dataset)
    return SimpleNamespace(model=model, train_dataloader=loader, val_dataloader=loader, test_dataloader=loader)


@pytest.mark.parametrize('when', ['before_train', 'before_val', 'before_test'])
@pytest.mark.parametrize('wrapped', [False, True])
def test_difference_is_refused(when, wrapped) -> None:
    """The message names the head and both numbers; equal numbers and mmdet's class-agnostic RPN pass."""
    getattr(ClassCountHook(), when)(_runner(3, 3, wrapped))
    with pytest.raises(
        ValueError, match=r'decode_head \(Identity\) has num_classes=4, but SimpleNamespace has 3 classes'
    ):
        getattr(ClassCountHook(), when)(_runner(4, 3, wrapped))


def test_data_without_classes() -> None:
    """Unlabelled data say nothing about classes."""
    runner = _runner(4, 3)
    runner.train_dataloader.dataset.metainfo = {}
    ClassCountHook().before_train(runner)
