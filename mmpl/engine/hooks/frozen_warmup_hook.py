"""Parts of a model that stay as they are in the first epochs."""

from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Any

from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch import Tensor

from mmpl.engine.optimizers.guarded_wrapper import guarded_wrappers, single_wrappers
from mmpl.registry import HOOKS
from mmpl.utils.dist import unwrapped
from mmpl.utils.fields import Count, checked


@HOOKS.register_module()
class FrozenWarmupHook(Hook):
    """Holds parts of a model still in the first epochs, while what is new beside them learns.

    Their gradients are dropped before each optimizer step, so that neither weights nor the optimizer's averages move;
    the graph stays the same, and with it DDP and exact resuming.

    Args:
        parts: Attributes of the model, or names of its parameters, in which ``*`` stands for anything:
            ``'label_heads.*.prototypes'`` are the prototypes of a :class:`mmpl.methods.PLMAE`, whose labelling teacher
            has the same ones as long as they stay.
        epochs: How long.

    Raises:
        ValueError: The model trains no such part, or all of what is trained would be held.
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
        for part in self.parts:
            if not _parameters_of(model, part):
                raise ValueError(
                    f'`FrozenWarmupHook.parts` must be among {[name for name, _ in model.named_children()]}, or names '
                    f"of parameters such as 'label_heads.*.prototypes', but the model trains no {part!r}"
                )
        held = {id(p) for part in self.parts for p in _parameters_of(model, part)}
        if all(id(p) in held for p in model.parameters() if p.requires_grad):
            raise ValueError(f'`FrozenWarmupHook.parts` {list(self.parts)} holds all that is trained')
        guarded_wrappers(runner.optim_wrapper, 'FrozenWarmupHook')
        if runner.epoch < self.epochs:
            runner.logger.info(f'{", ".join(self.parts)} stays as it is for the first {self.epochs} epochs.')

    def before_train_epoch(self, runner: Runner) -> None:
        """Hold the parts, or let them go."""
        model, parts = unwrapped(runner.model), self.parts if runner.epoch < self.epochs else ()
        held = [parameter for part in parts for parameter in _parameters_of(model, part)]
        for wrapper in single_wrappers(runner.optim_wrapper):
            wrapper.held = held
        if runner.epoch == self.epochs:
            runner.logger.info(f'{", ".join(self.parts)} is trained from here on.')


def _parameters_of(model: Any, part: str) -> list[Tensor]:
    """What is trained of a part, which is an attribute or a pattern of names."""
    return [
        parameter
        for name, parameter in model.named_parameters()
        if parameter.requires_grad and (name.startswith(f'{part}.') or fnmatchcase(name, part))
    ]
