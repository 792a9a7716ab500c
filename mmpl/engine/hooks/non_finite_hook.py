"""What happens when numbers stop being finite: skip, explain, stop or mend."""

from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from mmengine.dist import all_gather_object, all_reduce, get_world_size
from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch import Tensor, nn

from mmpl.checkpoints import files as checkpoint_files
from mmpl.compat import load_checkpoint
from mmpl.engine.optimizers.guarded_wrapper import Gradients, guarded_wrappers, single_wrappers
from mmpl.engine.shards import load_whole
from mmpl.registry import HOOKS
from mmpl.utils import transfer
from mmpl.utils.dist import local_shard, on_main, unwrapped
from mmpl.utils.fields import Count, checked
from mmpl.utils.seeds import preserve_rng_state

from .safe_checkpoint_hook import SafeCheckpointHook


class NonFiniteError(RuntimeError):
    """NaN or Inf where the run cannot go on from."""


@dataclass
class Look:
    """What an iteration left to be judged.

    Attributes:
        iteration: Counted from 1.
        data_batch: As loaded.
        losses: By name.
        gradients: Of each optimizer that tried to step.
        names: Keys of the weights and buffers that were looked at.
        numbers: 0 if all optimizers took their steps, 1 if one did not, -1 if none tried to; then 1 for each of
            ``names`` that is non-finite in any process, else 0.
        passes: Forward passes since the batch was loaded, its own among them.
    """

    iteration: int
    data_batch: Any
    losses: Mapping[str, Tensor]
    gradients: list[Gradients]
    names: list[str]
    numbers: transfer.Late
    passes: int = 1


@HOOKS.register_module()
class NonFiniteHook(Hook):
    """Watches over the steps that :class:`mmpl.engine.GuardedOptimWrapper` skips, and over the model itself.

    A skipped step is counted (``train/skipped_steps`` in the log), and what the teachers noted of it is forgotten.
    The first of a row is explained: the input, weight, layer, loss or gradient that was non-finite first, by a second
    forward pass of the same batch. Weights and buffers are looked at in every iteration, so NaN in a teacher or a
    centre is found in the step in which it appears.

    On CUDA what an iteration found is read after the next one, so that the host need not wait for the device, but
    before a checkpoint is saved and at the end of an epoch. A second forward pass then has the weights of the step
    after; losses and gradients that are named are those of the iteration itself.

    Args:
        max_skips: Stop after that many skipped steps in a row (our choice).
        on_bad_state: When weights or buffers are non-finite: ``'stop'``, or ``'reload'`` those from the newest whole
            checkpoint of the work folder and go on.
    """

    priority = 'BELOW_NORMAL'  # after the teachers moved, before anything is saved

    @checked()
    def __init__(self, max_skips: Count = 10, on_bad_state: Literal['stop', 'reload'] = 'stop') -> None:
        self.max_skips = max_skips
        self.on_bad_state = on_bad_state
        self.skipped = 0
        self.in_a_row = 0
        self._cause = ''
        self._since = 0
        self._looks: deque[Look] = deque()  # not judged yet

    def before_train(self, runner: Runner) -> None:
        """See that the steps are guarded."""
        guarded_wrappers(runner.optim_wrapper, 'NonFiniteHook')
        self.skipped = int(runner.message_hub.runtime_info.get('skipped_steps', 0))

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: dict | None = None
    ) -> None:
        """Look at the step that was taken or skipped.

        Raises:
            NonFiniteError: Too many steps in a row were skipped, or the model itself is non-finite.
        """
        wrappers: list[Any] = single_wrappers(runner.optim_wrapper)
        taken = [inner.step_taken for inner in wrappers if inner.step_taken is not None]
        gradients = [inner.gradients for inner in wrappers if inner.step_taken is not None and inner.gradients]
        for inner in wrappers:
            inner.step_taken = None
        model = unwrapped(runner.model)
        skipped = any(value is False for value in taken)  # a tensor is not known yet
        if skipped:
            forget_observations(model)
        device = next(model.parameters()).device
        names, bad = look_at_state(model)
        each = [value if isinstance(value, Tensor) else torch.full((), value, device=device) for value in taken]
        missed = (~torch.stack(each).all()).float() if each else torch.full((), -1.0, device=device)
        for look in self._looks:
            look.passes += 1
        numbers = transfer.Late(torch.cat([missed[None], bad]))
        losses = {name: value.detach() for name, value in (outputs or {}).items() if isinstance(value, Tensor)}
        self._looks.append(Look(runner.iter + 1, data_batch, losses, gradients, names, numbers))
        last = self.end_of_epoch(runner.train_dataloader, batch_idx)  # judged before the model is evaluated or saved
        self.settle(runner, kept=0 if last else int(transfer.reading_waits(device)))

    def settle(self, runner: Runner, kept: int = 0) -> None:
        """Judge what was looked at, but for the ``kept`` newest iterations; :class:`SafeCheckpointHook` asks for all.

        Raises:
            NonFiniteError: As :meth:`after_train_iter`.
        """
        while len(self._looks) > kept:
            self._judge(runner, self._looks.popleft())

    def _judge(self, runner: Runner, look: Look) -> None:
        missed, *bad = look.numbers.read()
        model = unwrapped(runner.model)
        state = [name for name, is_bad in zip(look.names, bad, strict=True) if is_bad]
        if missed == 1:
            self.skipped += 1
            self.in_a_row += 1
            if self.in_a_row == 1:
                self._since = look.iteration
                self._cause = explain(runner, model, look, state)
                runner.logger.warning(
                    f'Non-finite numbers at iteration {look.iteration}: the step is skipped, weights and teachers '
                    f'stay as they were. First of all: {self._cause}'
                )
            for teacher in getattr(model, 'teachers', {}).values():
                teacher.rewind()
        elif missed == 0:
            self.in_a_row = 0
        runner.message_hub.update_scalar('train/skipped_steps', self.skipped)
        runner.message_hub.update_info('skipped_steps', self.skipped)
        if state:
            self._handle_bad_state(runner, model, look.iteration, state)
        if self.in_a_row >= self.max_skips:
            self._looks.clear()
            self._stop(
                runner,
                f'{self.in_a_row} steps in a row had non-finite losses or gradients, since iteration {self._since} '
                f'(`max_skips` {self.max_skips}). First of all: {self._cause}',
                saved=self._save(runner),
            )

    def _handle_bad_state(self, runner: Runner, model: nn.Module, iteration: int, names: list[str]) -> None:
        what = f'non-finite at iteration {iteration}: {shorten(names)}'
        path = self._good_checkpoint(runner)
        if self.on_bad_state == 'stop' or path is None:
            self._stop(runner, f'The model itself is {what}', saved=path)
        assert path is not None  # or the run has stopped
        source = load_checkpoint(path)['state_dict']
        load_whole(model.state_dict(), source, bad_state(model))  # those above, and what they have spoilt since
        runner.logger.warning(f'The model itself was {what}. These were reloaded from {path}')
        if still := bad_state(model):
            self._stop(runner, f'The model itself is non-finite after reloading {path}: {shorten(still)}', saved=path)

    @staticmethod
    def _good_checkpoint(runner: Runner) -> str | None:
        return on_main(lambda: checkpoint_files.find_whole_checkpoint(runner.work_dir)[0])  # all take the same

    def _save(self, runner: Runner) -> str | None:
        """Save the weights, which no bad step has touched; name what there is to go back to."""
        for hook in runner.hooks:
            if isinstance(hook, SafeCheckpointHook) and hook.save_now(runner):
                return str(hook.last_ckpt)
        return self._good_checkpoint(runner)

    @staticmethod
    def _stop(runner: Runner, message: str, saved: str | None) -> None:
        message += f'\nCheckpoint from before: {saved or "none was written yet"}'
        runner.logger.error(message)
        raise NonFiniteError(message)


def shorten(names: list[str], shown: int = 4) -> str:
    """The first names of a list, and how many there are."""
    return ', '.join(names[:shown]) + (f' and {len(names) - shown} more' if len(names) > shown else '')


def look_at_state(model: nn.Module) -> tuple[list[str], Tensor]:
    """Keys of the parameters and persistent buffers, S of them, and 1 for those that hold NaN or Inf in any process."""
    state = {name: value for name, value in model.state_dict().items() if value.is_floating_point() and value.numel()}
    if not state:
        return [], torch.zeros(0)
    held = [local_shard(value) for value in state.values()]
    held = [value if value.numel() else value.new_zeros(1) for value in held]  # others may hold all there is
    norms = torch.stack([norm.float() for norm in torch._foreach_norm(held, float('inf'))])
    bad = 1 - torch.isfinite(norms).float()
    all_reduce(bad, 'max')
    return list(state), bad


def bad_state(model: nn.Module) -> list[str]:
    """Keys of the parameters and persistent buffers that hold NaN or Inf in any process; waits for the device."""
    names, bad = look_at_state(model)
    return [name for name, is_bad in zip(names, bad.tolist(), strict=True) if is_bad]


def forget_observations(model: nn.Module) -> None:
    """Drop what parts such as centres and codebooks have seen since the last step: those that have a ``forget``."""
    for module in model.modules():
        if callable(getattr(module, 'forget', None)):
            module.forget()


def explain(runner: Runner, model: nn.Module, look: Look, state: list[str]) -> str:
    """What was non-finite first: input, weight, layer, loss or gradient.

    All processes must call it. The batch is that of the iteration; with accumulation the fault may lie in one before,
    whose gradients are named then.

    Args:
        runner: Knows how a forward pass is made.
        model: Not the wrapper of it.
        look: At the iteration.
        state: Keys of weights and buffers that were non-finite.
    """
    losses = [name for name, value in look.losses.items() if name != 'loss' and not torch.isfinite(value).all()]
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    bad = {id(p) for gradients in look.gradients for p in gradients.bad()}
    gradients = [name for key, name in names.items() if key in bad]  # in the model's order
    gradients += ['a parameter outside of the model'] * len(bad - names.keys())
    inputs = [place for place, tensor in _tensors(look.data_batch, 'data_batch') if not torch.isfinite(tensor).all()]
    layer = first_bad_layer(runner, model, look)
    found = []
    if inputs:
        found.append(f'the input {shorten(inputs)}')
    if state:
        found.append(f'the weights or buffers {shorten(state)}')
    if layer:
        found.append(f'the output of layer {layer}')
    if losses:
        found.append(f'the loss {shorten(losses)}')
    if gradients:
        # gradients flow from the output to the input: the last parameter got its own first
        found.append(f'the gradients of {shorten(gradients[::-1])}')
    text = '; then '.join(found)
    if get_world_size() == 1:
        return text or 'nothing that can be named'
    parts = [f'rank {rank}: {part}' for rank, part in enumerate(all_gather_object(text)) if part]
    parts.sort(key=lambda part: 'gradients' in part.split(':', 1)[1][:20])  # gradients are shared: they say least
    return ' | '.join(parts) or 'nothing that can be named'


def _tensors(data: Any, place: str) -> Iterator[tuple[str, Tensor]]:
    if isinstance(data, Tensor):
        if data.is_floating_point():
            yield place, data
    elif isinstance(data, Mapping):
        for key, value in data.items():
            yield from _tensors(value, f'{place}[{key!r}]')
    elif isinstance(data, (list, tuple)):
        for index, value in enumerate(data):
            yield from _tensors(value, f'{place}[{index}]')


@torch.no_grad()
def first_bad_layer(runner: Runner, model: nn.Module, look: Look) -> str:
    """Name and type of the first layer whose output is non-finite in a second forward pass; empty if there is none.

    The pass has the precision and the random states of the iteration, and leaves no trace in the model.
    """
    first: list[str] = []

    def note(name: str):
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            if not first and any(not torch.isfinite(t).all() for _, t in _tensors(output, '')):
                first.append(f'{name} ({type(module).__name__})')

        return hook

    buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
    counters = [module for module in model.modules() if callable(getattr(module, 'rewind', None))]
    tracked = {key: model.__dict__[key] for key in ('track_health', 'last_figures') if key in model.__dict__}
    handles = [
        module.register_forward_hook(note(name))
        for name, module in model.named_modules()
        if name and not any(True for _ in module.children())
    ]
    try:
        with preserve_rng_state():
            for counter in counters:
                counter.rewind(look.passes)  # the masks of the iteration
            if hasattr(runner.train_loop, 'seed_iteration'):
                runner.train_loop.seed_iteration(look.iteration - 1)
            if 'track_health' in tracked:
                model.track_health = False
            with runner.optim_wrapper.optim_context(model):
                model(**model.data_preprocessor(look.data_batch, True), mode='loss')
    except Exception as error:  # the search must not hide what it looks for
        first = first or [f'(not found: {type(error).__name__}: {error})']
    finally:
        for handle in handles:
            handle.remove()
        for buffer, value in buffers:
            buffer.copy_(value)
        for counter in counters:
            counter.rewind()
        for key, value in tracked.items():
            setattr(model, key, value)
    return first[0] if first else ''
