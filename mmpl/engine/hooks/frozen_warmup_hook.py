"""Parts of a model that stay as they are in the first epochs."""

from collections.abc import Sequence

from mmengine.hooks import Hook
from mmengine.runner import Runner

from mmpl.engine.optimizers.guarded_wrapper import GuardedOptimWrapper, single_wrappers
from mmpl.registry import HOOKS
from mmpl.utils.dist import unwrapped
from mmpl.utils.fields import Count, checked


@HOOKS.register_module()
class FrozenWarmupHook(Hook):
    """Holds parts of a model still in the first epochs, while what is new beside them learns.

    Their gradients are dropped before each optimizer step, so that neither weights nor the optimizer's averages move;
    the graph stays the same, and with it DDP and exact resuming.

    Args:
        parts: Attributes of the model.
        epochs: How long.

    Raises:
        ValueError: The model has no such part, or all of what is trained would be held.
        TypeError: The optimizer wrapper is not one of mmpl's.
    """

    priority = 'NORMAL'

    @checked()
    def __init__(self, parts: Sequence[str] = ('backbone',), epochs: Count = 1) -> None:
        self.parts = tuple(parts)
        self.epochs = epochs

    def before_train(self, runner: Runner) -> None:
        """Find the parts, and refuse what cannot be held."""
        model = unwrapped(runner.model)
        children = dict(model.named_children())
        for name in self.parts:
            if name not in children:
                raise ValueError(f'`FrozenWarmupHook.parts` must be among {sorted(children)}, but got {name!r}')
        held = {id(p) for name in self.parts for p in children[name].parameters()}
        if all(id(p) in held for p in model.parameters() if p.requires_grad):
            raise ValueError(f'`FrozenWarmupHook.parts` {list(self.parts)} holds all that is trained')
        for wrapper in single_wrappers(runner.optim_wrapper):
            if not isinstance(wrapper, GuardedOptimWrapper):
                raise TypeError(
                    '`optim_wrapper.type` must be mmpl.GuardedOptimWrapper or mmpl.AutocastOptimWrapper with '
                    f'FrozenWarmupHook, but got {type(wrapper).__name__}'
                )
        if runner.epoch < self.epochs:
            runner.logger.info(f'{", ".join(self.parts)} stays as it is for the first {self.epochs} epochs.')

    def before_train_epoch(self, runner: Runner) -> None:
        """Hold the parts, or let them go."""
        children = dict(unwrapped(runner.model).named_children())
        held = [p for name in self.parts for p in children[name].parameters()] if runner.epoch < self.epochs else []
        for wrapper in single_wrappers(runner.optim_wrapper):
            wrapper.held = held
        if runner.epoch == self.epochs:
            runner.logger.info(f'{", ".join(self.parts)} is trained from here on.')
