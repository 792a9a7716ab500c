"""What happens when numbers stop being finite: skip, explain, stop or mend."""

from collections.abc import Iterator, Mapping
from typing import Any, Literal

import torch
from mmengine.device import get_device
from mmengine.dist import all_gather_object, all_reduce, get_world_size
from mmengine.hooks import Hook
from mmengine.optim import OptimWrapperDict
from mmengine.runner import Runner
from torch import Tensor, nn

from mmpl.checkpoints import files as checkpoint_files
from mmpl.compat import load_checkpoint
from mmpl.engine.optimizers.guarded_wrapper import GuardedOptimWrapper
from mmpl.registry import HOOKS
from mmpl.utils.dist import unwrapped
from mmpl.utils.fields import Count, checked
from mmpl.utils.seeds import preserve_rng_state

from .safe_checkpoint_hook import SafeCheckpointHook


class NonFiniteError(RuntimeError):
    """NaN or Inf where the run cannot go on from."""


@HOOKS.register_module()
class NonFiniteHook(Hook):
    """Watches over the steps that :class:`mmpl.engine.GuardedOptimWrapper` skips, and over the model itself.

    A skipped step is counted (``train/skipped_steps`` in the log), and what the teachers noted of it is forgotten.
    The first of a row is explained: the input, weight, layer, loss or gradient that was non-finite first, by a second
    forward pass of the same batch. Weights and buffers are looked at in every iteration, so NaN in a teacher or a
    centre is found in the step in which it appears.

    Args:
        max_skips: Stop after that many skipped steps in a row (our choice).
        check_interval: Iterations between two looks at weights and buffers.
        on_bad_state: When weights or buffers are non-finite: ``'stop'``, or ``'reload'`` those from the newest whole
            checkpoint of the work folder and go on.
    """

    priority = 'BELOW_NORMAL'  # after the teachers moved, before anything is saved

    @checked()
    def __init__(
        self, max_skips: Count = 10, check_interval: Count = 1, on_bad_state: Literal['stop', 'reload'] = 'stop'
    ) -> None:
        self.max_skips = max_skips
        self.check_interval = check_interval
        self.on_bad_state = on_bad_state
        self.skipped = 0
        self.in_a_row = 0
        self._cause = ''
        self._since = 0

    def before_train(self, runner: Runner) -> None:
        """See that the steps are guarded."""
        wrapper = runner.optim_wrapper
        for inner in wrapper.values() if isinstance(wrapper, OptimWrapperDict) else [wrapper]:
            if not isinstance(inner, GuardedOptimWrapper):
                raise TypeError(
                    '`optim_wrapper.type` must be mmpl.GuardedOptimWrapper or mmpl.AutocastOptimWrapper where '
                    f'custom_hooks hold mmpl.NonFiniteHook, but got {type(inner).__name__}'
                )
        self.skipped = int(runner.message_hub.runtime_info.get('skipped_steps', 0))

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: dict | None = None
    ) -> None:
        """Look at the step that was taken or skipped.

        Raises:
            NonFiniteError: Too many steps in a row were skipped, or the model itself is non-finite.
        """
        wrapper = runner.optim_wrapper
        wrappers = list(wrapper.values()) if isinstance(wrapper, OptimWrapperDict) else [wrapper]
        skipped = any(inner.step_taken is False for inner in wrappers)
        stepped = any(inner.step_taken for inner in wrappers)
        model = unwrapped(runner.model)
        state: list[str] = []
        if skipped or self.every_n_train_iters(runner, self.check_interval):
            state = agree(non_finite_state(model))
        if skipped:
            self.skipped += 1
            self.in_a_row += 1
            if self.in_a_row == 1:
                self._since = runner.iter + 1
                self._cause = explain(runner, model, data_batch, outputs, state)
                runner.logger.warning(
                    f'Non-finite numbers at iteration {runner.iter + 1}: the step is skipped, weights and teachers '
                    f'stay as they were. First of all: {self._cause}'
                )
            forget_observations(model)
        elif stepped:
            self.in_a_row = 0
        for inner in wrappers:
            inner.step_taken = None
        runner.message_hub.update_scalar('train/skipped_steps', self.skipped)
        runner.message_hub.update_info('skipped_steps', self.skipped)
        if state:
            self._handle_bad_state(runner, model, state)
        if self.in_a_row >= self.max_skips:
            self._stop(
                runner,
                f'{self.in_a_row} steps in a row had non-finite losses or gradients, since iteration {self._since} '
                f'(`max_skips` {self.max_skips}). First of all: {self._cause}',
                saved=self._save(runner),
            )

    def _handle_bad_state(self, runner: Runner, model: nn.Module, names: list[str]) -> None:
        what = f'non-finite at iteration {runner.iter + 1}: {shorten(names)}'
        path = self._good_checkpoint(runner)
        if self.on_bad_state == 'stop' or path is None:
            self._stop(runner, f'The model itself is {what}', saved=path)
        assert path is not None  # or the run has stopped
        source = load_checkpoint(path)['state_dict']
        own = model.state_dict()
        with torch.no_grad():
            for name in names:
                own[name].copy_(source[name])
        runner.logger.warning(f'The model itself was {what}. These were reloaded from {path}')
        if still := agree(non_finite_state(model)):
            self._stop(runner, f'The model itself is non-finite after reloading {path}: {shorten(still)}', saved=path)

    @staticmethod
    def _good_checkpoint(runner: Runner) -> str | None:
        return checkpoint_files.find_whole_checkpoint(runner.work_dir)[0]

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


def non_finite_state(model: nn.Module) -> list[str]:
    """Keys of the parameters and persistent buffers that hold NaN or Inf; waits for the device once if none does."""
    state = {name: value for name, value in model.state_dict().items() if value.is_floating_point() and value.numel()}
    if not state:
        return []
    norms = torch.stack([norm.float() for norm in torch._foreach_norm(list(state.values()), float('inf'))])
    finite = torch.isfinite(norms)
    if finite.all().item():
        return []
    return [name for name, good in zip(state, finite.tolist(), strict=True) if not good]


def agree(names: list[str]) -> list[str]:
    """The union of the lists of all processes, in order, the same in all of them."""
    if get_world_size() == 1:
        return names
    any_names = torch.tensor([float(bool(names))], device=get_device())
    all_reduce(any_names, 'max')
    if any_names.item() == 0:
        return []
    found: dict[str, None] = {}
    for part in all_gather_object(names):
        found.update(dict.fromkeys(part))
    return list(found)


def forget_observations(model: nn.Module) -> None:
    """Drop what parts such as centres and codebooks have seen since the last step: those that have a ``forget``."""
    for module in model.modules():
        if callable(getattr(module, 'forget', None)):
            module.forget()


def explain(
    runner: Runner, model: nn.Module, data_batch: Any, outputs: Mapping[str, Any] | None, state: list[str]
) -> str:
    """What was non-finite first: input, weight, layer, loss or gradient.

    All processes must call it. The batch is that of the last iteration; with accumulation the fault may lie in one
    before, whose gradients are named then.

    Args:
        runner: Its optimizer wrapper knows the gradients.
        model: Not the wrapper of it.
        data_batch: The batch as loaded.
        outputs: Losses by name.
        state: From :func:`non_finite_state`.
    """
    losses = [
        name
        for name, value in (outputs or {}).items()
        if name != 'loss' and isinstance(value, Tensor) and not torch.isfinite(value.detach()).all()
    ]
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    wrapper = runner.optim_wrapper
    wrappers = wrapper.values() if isinstance(wrapper, OptimWrapperDict) else [wrapper]
    bad = {id(p) for inner in wrappers for p in inner.bad_gradients}
    gradients = [name for key, name in names.items() if key in bad]  # in the model's order
    gradients += ['a parameter outside of the model'] * len(bad - names.keys())
    inputs = [place for place, tensor in _tensors(data_batch, 'data_batch') if not torch.isfinite(tensor).all()]
    layer = first_bad_layer(runner, model, data_batch)
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
def first_bad_layer(runner: Runner, model: nn.Module, data_batch: Any) -> str:
    """Name and type of the first layer whose output is non-finite in a second forward pass; empty if there is none.

    The pass has the precision and the random states of the step that failed, and leaves no trace in the model.
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
                counter.rewind(1)  # the masks of the step that failed
            if hasattr(runner.train_loop, 'seed_iteration'):
                runner.train_loop.seed_iteration()
            if 'track_health' in tracked:
                model.track_health = False
            with runner.optim_wrapper.optim_context(model):
                model(**model.data_preprocessor(data_batch, True), mode='loss')
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
