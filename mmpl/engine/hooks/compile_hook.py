"""torch.compile for the transformer blocks of student, decoder and teachers."""

from typing import Any

import numpy as np
import torch
from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmpretrain.models.backbones.vision_transformer import TransformerEncoderLayer
from torch import nn

from mmpl.registry import HOOKS
from mmpl.utils.dist import unwrapped

GRAPHS = 64  # of the code of a block


def transformer_blocks(model: nn.Module, otherwise: str = '') -> list[nn.Module]:
    """The transformer blocks of student, decoder and teachers.

    Args:
        model: Anything with blocks of mmpretrain's.
        otherwise: What they are for and what to do where there are none, as the error ends.

    Raises:
        TypeError: The model has none.
    """
    blocks = [module for module in model.modules() if isinstance(module, TransformerEncoderLayer)]
    if not blocks:
        raise TypeError(f'{type(model).__name__} has no TransformerEncoderLayer {otherwise}')
    return blocks


def compile_blocks(model: nn.Module, **options: Any) -> int:
    """Compile every transformer block of a model in place; parameters and their names stay as they are.

    Blocks of one width share their compiled code, so a ViT-B compiles a handful of blocks, not 12 of each encoder.

    Args:
        model: Anything with transformer blocks of mmpretrain's.
        **options: Of ``torch.compile``.

    Returns:
        Number of blocks.

    Raises:
        TypeError: The model has none.
    """
    blocks = transformer_blocks(model, 'to compile: leave CompileHook out of `custom_hooks`')
    for block in blocks:
        for module in block.modules():
            if isinstance(getattr(module, 'drop_prob', None), np.floating):
                module.drop_prob = float(module.drop_prob)  # dynamo takes a number of numpy's for a tensor and breaks
        block.compile(**options)
    # All blocks share one piece of code, of which dynamo keeps 8 graphs by default: one for each drop rate, shape, mode
    name = 'recompile_limit' if hasattr(torch._dynamo.config, 'recompile_limit') else 'cache_size_limit'
    setattr(torch._dynamo.config, name, max(GRAPHS, getattr(torch._dynamo.config, name)))
    return len(blocks)


@HOOKS.register_module()
class CompileHook(Hook):
    """Compiles the transformer blocks before the first step.

    mmengine's own ``compile=True`` traces the whole training step, masks, optimizer and logs included, and compiles
    again whenever a counter in it moves. The blocks are where the time is, and nothing in them changes from step to
    step. Works on CPU (inductor needs a C++ compiler there) and CUDA, alone and distributed.

    Args:
        **options: Of ``torch.compile``, such as ``mode`` or ``backend``. ``dynamic`` is False unless given: shapes do
            not change in pre-training.
    """

    priority = 'VERY_LOW'  # after whatever changes the model

    def __init__(self, **options: Any) -> None:
        self.options = dict(dynamic=False) | options

    def before_train(self, runner: Runner) -> None:
        """Compile; the work is done in the first step."""
        number = compile_blocks(unwrapped(runner.model), **self.options)
        runner.logger.info(f'{number} transformer blocks will be compiled in the first step.')
