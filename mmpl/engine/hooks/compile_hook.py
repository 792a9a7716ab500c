"""torch.compile for the transformer blocks of student, decoder and teachers."""

from typing import Any

import numpy as np
from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmpretrain.models.backbones.vision_transformer import TransformerEncoderLayer
from torch import nn

from mmpl.registry import HOOKS
from mmpl.utils.dist import unwrapped


def compile_blocks(model: nn.Module, **options: Any) -> int:
    """Compile every transformer block of a model in place; parameters and their names stay as they are.

    Blocks of one width share their compiled code, so a ViT-B compiles a handful of blocks, not 12 of each encoder.

    Args:
        model (nn.Module): The model.
        **options: Of ``torch.compile``.

    Returns:
        int: Number of blocks.

    Raises:
        TypeError: If the model has no transformer block of mmpretrain's.
    """
    blocks = [module for module in model.modules() if isinstance(module, TransformerEncoderLayer)]
    if not blocks:
        raise TypeError(
            f'{type(model).__name__} has no TransformerEncoderLayer to compile: leave CompileHook out of `custom_hooks`'
        )
    for block in blocks:
        for module in block.modules():
            if isinstance(getattr(module, 'drop_prob', None), np.floating):
                module.drop_prob = float(module.drop_prob)  # dynamo takes a number of numpy's for a tensor and breaks
        block.compile(**options)
    return len(blocks)


@HOOKS.register_module()
class CompileHook(Hook):
    """Compiles the transformer blocks before the first step.

    mmengine's own ``compile=True`` traces the whole training step, masks, optimizer and logs included, and compiles
    again whenever a counter in it moves. The blocks are where the time is, and nothing in them changes from step to
    step. Works on CPU (inductor needs a C++ compiler there) and CUDA, alone and distributed.

    Args:
        dynamic (bool, optional): As in ``torch.compile``. Defaults to False: shapes do not change in pre-training.
        **options: Further options of ``torch.compile``, such as ``mode`` or ``backend``.
    """

    priority = 'VERY_LOW'  # after whatever changes the model

    def __init__(self, dynamic: bool | None = False, **options: Any) -> None:
        self.options = dict(options, dynamic=dynamic)

    def before_train(self, runner: Runner) -> None:
        """Compile; the work is done in the first step.

        Raises:
            TypeError: If the model has no transformer block of mmpretrain's.
        """
        model = unwrapped(runner.model)
        number = compile_blocks(model, **self.options)
        runner.logger.info(f'{number} transformer blocks will be compiled in the first step.')
