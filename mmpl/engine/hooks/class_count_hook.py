"""A check that the heads have as many classes as the data set."""

from typing import Any

from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch import nn

from mmpl.registry import HOOKS


@HOOKS.register_module()
class ClassCountHook(Hook):
    """Refuse to run when a head's ``num_classes`` is not the number of the data set's classes.

    mmdet has such a check for its own heads, mmseg has none; with fewer classes in the head than in the labels the
    loss fails on the CPU and kills the process on a GPU, and with more of them nothing is said. This one looks at every
    module that has ``num_classes``, before training, validation and test.
    """

    def _check(self, runner: Runner, dataset: Any) -> None:
        while hasattr(dataset, 'dataset'):  # RepeatDataset and the like
            dataset = dataset.dataset
        classes = (getattr(dataset, 'metainfo', None) or {}).get('classes')
        if classes is None:
            return
        model: nn.Module = runner.model
        for name, module in model.named_modules():
            count = getattr(module, 'num_classes', None)
            # mmdet's RPN tells objects from background only, whatever its num_classes says.
            if isinstance(count, int) and not name.endswith('rpn_head') and count != len(classes):
                raise ValueError(
                    f'{name} ({type(module).__name__}) has num_classes={count}, but {type(dataset).__name__} has '
                    f'{len(classes)} classes: {list(classes)[:5]}{" ..." if len(classes) > 5 else ""}'
                )

    def before_train(self, runner: Runner) -> None:
        """Compare with the training set."""
        self._check(runner, runner.train_dataloader.dataset)

    def before_val(self, runner: Runner) -> None:
        """Compare with the validation set."""
        self._check(runner, runner.val_dataloader.dataset)

    def before_test(self, runner: Runner) -> None:
        """Compare with the test set."""
        self._check(runner, runner.test_dataloader.dataset)
