"""Fully sharded training (torch's FSDP2): each process holds a share of the weights, and of all that goes with them.

A model is built, initialised, loaded and resumed whole, as under DDP. Then, before the first step, its weights and the
optimizer's averages are cut into shards. Teachers are cut as their students are, so each process moves its own shard.
Checkpoints are put together again before they are written, and have the layout of any other run's.
"""

from collections.abc import Mapping
from typing import Annotated, Any

from mmengine.dist import get_world_size
from mmengine.hooks import CheckpointHook, EMAHook
from mmengine.runner import Runner
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, Optimizer

from mmpl.registry import MODEL_WRAPPERS
from mmpl.utils.fields import Interval, checked

from .hooks.compile_hook import transformer_blocks
from .hooks.safe_checkpoint_hook import SafeCheckpointHook
from .optimizers.guarded_wrapper import guarded_wrappers, single_wrappers
from .shards import shard_like

OPTIMIZERS = (SGD, Adam, AdamW)  # what they do to an element depends on that element alone


@MODEL_WRAPPERS.register_module()
class FullySharded(nn.Module):
    """Trains a model of which each process holds a share: weights, gradients, optimizer state and teachers.

    The unit that is gathered, used and dropped again is a transformer block, of student, decoder and teachers alike;
    all else, such as embeddings and heads, is one more unit. Gradients are averaged over all processes, as DDP does.
    Precision is that of the optimizer wrapper: weights are kept and sent in fp32.

    :class:`mmpl.engine.ExactEpochLoop` cuts the model before the first step; until then it is whole. On one process
    without a launcher mmengine wraps no model, and this one is not used.

    Args:
        module: The model.
        shard_size: Processes that share one copy, neighbours by rank; each group of as many holds a copy of its own,
            and gradients are averaged over the groups too (HSDP). With the GPUs of a machine, weights never leave it.
            None: all processes share one copy.

    Raises:
        TypeError: The model has no transformer blocks.
        ValueError: The number of processes is no multiple of ``shard_size``.
    """

    @checked('model_wrapper_cfg')
    def __init__(self, module: nn.Module, shard_size: Annotated[int, Interval(2)] | None = None) -> None:
        super().__init__()
        from torch.distributed.device_mesh import init_device_mesh

        processes = get_world_size()
        shards = shard_size or processes
        if processes % shards:
            raise ValueError(
                f'`model_wrapper_cfg.shard_size` must divide the number of processes {processes}, but got {shard_size}'
            )
        transformer_blocks(module, 'to shard by: leave `model_wrapper_cfg` out, for DDP')
        sizes = dict(shard=shards) if shards == processes else dict(copy=processes // shards, shard=shards)
        device = next(module.parameters()).device.type
        self.mesh = init_device_mesh(device, tuple(sizes.values()), mesh_dim_names=tuple(sizes))
        self.module: Any = module
        self.is_cut = False

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the model returns."""
        return self.module(*args, **kwargs)

    def train_step(self, data: Any, optim_wrapper: Any) -> dict[str, Tensor]:
        """One step of training.

        Raises:
            RuntimeError: Nobody has cut the model.
        """
        if not self.is_cut:
            raise RuntimeError(
                '`model_wrapper_cfg.type` mmpl.FullySharded needs a loop that cuts the model before the first step: '
                "set `train_cfg.type` to 'mmpl.ExactEpochLoop'"
            )
        return self.module.train_step(data, optim_wrapper)

    def val_step(self, data: Any) -> Any:
        """Predict a batch for an evaluation."""
        return self.module.val_step(data)

    def test_step(self, data: Any) -> Any:
        """Predict a batch for a test."""
        return self.module.test_step(data)

    def cut(self, runner: Runner) -> None:
        """Cut weights and optimizer state into shards; they must be the same in all processes. It happens once.

        Raises:
            TypeError: The run holds a part that cannot work with shards.
        """
        if self.is_cut:
            return
        from torch.distributed.fsdp import fully_shard

        check_run(runner)
        before = dict(self.module.named_parameters())
        for block in transformer_blocks(self.module):
            fully_shard(block, mesh=self.mesh)
        fully_shard(self.module, mesh=self.mesh, reshard_after_forward=True)  # as pre-training does not always go back
        fully_shard.state(self.module)._lazy_init()  # it is the root, even if a probe calls parts of it first
        after = dict(self.module.named_parameters())
        shards = {whole: after[name] for name, whole in before.items()}
        for wrapper in single_wrappers(runner.optim_wrapper):
            _cut_optimizer(wrapper.optimizer, shards)
        self.is_cut = True
        held = sum(p.to_local().numel() for p in after.values())
        runner.logger.info(
            f'Each process holds a share of {len(after)} weights, this one {held:,} of '
            f'{sum(p.numel() for p in after.values()):,} numbers; {self.mesh}.'
        )


def check_run(runner: Runner) -> None:
    """Refuse a run with parts that would do something wrong with shards."""
    wrapped = '`model_wrapper_cfg.type` mmpl.FullySharded'
    for wrapper in guarded_wrappers(runner.optim_wrapper, wrapped):
        if type(wrapper.optimizer) not in OPTIMIZERS:
            raise TypeError(
                f'`optim_wrapper.optimizer.type` must be one of {", ".join(kind.__name__ for kind in OPTIMIZERS)} with '
                f'{wrapped}, as it sees shards, but got {type(wrapper.optimizer).__name__}'
            )
        if isinstance(wrapper.optimizer, SGD):  # of torch's fused ones it alone has no form for shards
            for group in wrapper.optimizer.param_groups:
                group['fused'] = None
            wrapper.optimizer._step_supports_amp_scaling = False
    for hook in runner.hooks:
        if isinstance(hook, CheckpointHook) and not isinstance(hook, SafeCheckpointHook):
            raise TypeError(
                f'`default_hooks.checkpoint.type` must be mmpl.SafeCheckpointHook with {wrapped}, which puts the '
                f'shards together, but got {type(hook).__name__}'
            )
        if isinstance(hook, EMAHook):
            raise TypeError(f'`custom_hooks` must not hold {type(hook).__name__} with {wrapped}: it copies the model')


def _cut_optimizer(optimizer: Optimizer, shards: Mapping[Tensor, Tensor]) -> None:
    """Give an optimizer shards in place of whole parameters, and cut what it knows of them."""
    for group in optimizer.param_groups:
        group['params'] = [shards[whole] for whole in group['params']]
    for whole, state in list(optimizer.state.items()):
        del optimizer.state[whole]
        optimizer.state[shards[whole]] = {
            name: shard_like(shards[whole], value) if getattr(value, 'shape', None) == whole.shape else value
            for name, value in state.items()
        }
