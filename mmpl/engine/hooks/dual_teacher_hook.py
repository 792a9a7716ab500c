"""When the teachers move, and what the log says of them and of their labels."""

from collections.abc import Mapping
from typing import Any

from mmengine.dist import all_reduce_dict
from mmengine.hooks import Hook
from mmengine.optim import OptimWrapperDict
from mmengine.runner import Runner

from mmpl.checkpoints.fit import CheckpointMismatchError, check_state_dict
from mmpl.engine.schedules import MomentumSchedule
from mmpl.registry import HOOKS
from mmpl.utils.dist import unwrapped
from mmpl.utils.fields import check_choice, check_number


class LabelCollapseError(RuntimeError):
    """The pseudo labels have collapsed, and the run was told to stop then."""


@HOOKS.register_module()
class DualTeacherHook(Hook):
    """Moves the teachers after each *optimizer* step, each on its own schedule.

    PL-MAE has two teachers, ``label`` and ``recon``; MSA has one, ``align``.
    Gradient accumulation and steps that a loss scaler skips are told apart by
    the optimizer itself, which reports the steps it really took. Logged are
    ``momentum_<teacher>`` and ``teacher_temp``, and every ``health_interval``
    iterations over all processes, per labelling head h (``cls``, ``data``):

    - ``h_entropy_mean``: mean entropy of the assignments over log K; near 1
      the labels say nothing, near 0 they are hard.
    - ``h_entropy_marginal``: entropy of the mean assignment over log K; near 0
      all tokens have one label.
    - ``h_usage``: share of the prototypes that are some token's first choice
      (of those that could be: K, or the tokens if they are fewer).
    - ``h_agreement``: share of the tokens for which teacher and student choose
      the same prototype.
    - ``target_norm``: mean norm of the reconstruction teacher's features;

    and per alignment head h (``align_cls``, ``align_tokens``):

    - ``h_cosine``: mean cosine between student and teacher.
    - ``h_spread``: 1 minus the squared length of the teacher's mean unit
      embedding; 0 if all are the same.
    - ``h_agreement``: share of the tokens whose own teacher token is the
      nearest (only with ``'infonce'``).

    Args:
        momentum_label (dict): Fields of
            :class:`mmpl.engine.schedules.MomentumSchedule` for the labelling
            teacher. Defaults to 0.996 to 1 (our choice).
        momentum_recon (dict): The same for the reconstruction teacher.
            Defaults to 0.9995 to 1 (our choice).
        momentum_align (dict): The same for MSA's teacher. Defaults to 0.99 to
            1 (our choice, after BYOL's 0.996 for longer runs).
        health_interval (int): Iterations between two looks at the labels.
            Defaults to 10.
        min_usage (float): Warn if ``h_usage`` stays below, in [0, 1]. Defaults
            to 0.02.
        min_entropy_marginal (float): Warn if ``h_entropy_marginal`` stays
            below, in [0, 1]. Defaults to 0.1.
        max_entropy_mean (float): Warn if ``h_entropy_mean`` stays above, in
            [0, 1]. Defaults to 0.995.
        min_spread (float): Warn if ``h_spread`` stays below, in [0, 1].
            Defaults to 0.02.
        patience (int): Looks in a row after which a warning is given, once
            until the labels have recovered. Defaults to 20.
        on_collapse (str): ``'warn'``, or ``'stop'`` the run with a
            :class:`LabelCollapseError` where the warning would be given.
            Defaults to ``'warn'``.

    Raises:
        TypeError: If a field has the wrong type.
        ValueError: If a field is outside of what is allowed.
    """

    priority = 'NORMAL'  # before the logger and the checkpoint

    def __init__(
        self,
        momentum_label: Mapping[str, Any] = dict(start=0.996, end=1.0),  # noqa: B006
        momentum_recon: Mapping[str, Any] = dict(start=0.9995, end=1.0),  # noqa: B006
        momentum_align: Mapping[str, Any] = dict(start=0.99, end=1.0),  # noqa: B006
        health_interval: int = 10,
        min_usage: float = 0.02,
        min_entropy_marginal: float = 0.1,
        max_entropy_mean: float = 0.995,
        min_spread: float = 0.02,
        patience: int = 20,
        on_collapse: str = 'warn',
    ) -> None:
        self.momenta = dict(
            label=MomentumSchedule(**momentum_label, name='momentum_label'),
            recon=MomentumSchedule(**momentum_recon, name='momentum_recon'),
            align=MomentumSchedule(**momentum_align, name='momentum_align'),
        )
        check_number('health_interval', health_interval, 1, integer=True)
        check_number('min_usage', min_usage, 0, 1)
        check_number('min_entropy_marginal', min_entropy_marginal, 0, 1)
        check_number('max_entropy_mean', max_entropy_mean, 0, 1)
        check_number('min_spread', min_spread, 0, 1)
        check_number('patience', patience, 1, integer=True)
        check_choice('on_collapse', on_collapse, ('warn', 'stop'))
        self.health_interval = health_interval
        self.bounds = dict(  # of figures that tell a collapse: lowest and highest healthy value
            usage=(min_usage, 1.0),
            entropy_marginal=(min_entropy_marginal, 1.0),
            entropy_mean=(0.0, max_entropy_mean),
            spread=(min_spread, 1.0),
        )
        self.patience = patience
        self.on_collapse = on_collapse
        self._ill: dict[str, int] = {}
        self._handles: list = []
        self._stepped = False
        self._missing: list[str] = []

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Refuse what does not fit, and note which teachers the checkpoint lacks; one of a plain MAE lacks all.

        Raises:
            CheckpointMismatchError: If the keys of the backbone, or when a run
                is resumed any keys, do not all fit.
        """
        model, state_dict = self._model(runner), checkpoint.get('state_dict', checkpoint)
        if runner._resume:
            try:
                check_state_dict(model, state_dict)
            except CheckpointMismatchError as error:
                raise CheckpointMismatchError(
                    f'{error}\n  A run that is resumed needs all keys. To start from the weights of this checkpoint, '
                    'set `load_from` to it and `resume=False`.'
                ) from error
        else:
            check_state_dict(model.backbone, state_dict, 'backbone.', resizable=('pos_embed',))
        self._missing = [
            name
            for name in getattr(model, 'teachers', {})
            if not any(key.startswith(f'{name}_teacher.') for key in state_dict)
        ]

    def before_train(self, runner: Runner) -> None:
        """Take charge of the teachers."""
        model = self._model(runner)
        if not hasattr(model, 'update_teachers'):
            raise TypeError(
                f'DualTeacherHook needs a model with teachers, such as mmpl.PLMAE or mmpl.MSA, '
                f'but got {type(model).__name__}'
            )
        model.attach_updater(type(self).__name__)
        if self._missing:
            runner.logger.info(
                f'The checkpoint does not bring these teachers, which start as copies of its student: {self._missing}.'
            )
            model.copy_to_teachers(self._missing)
            self._missing = []
        wrappers = runner.optim_wrapper
        wrappers = list(wrappers.values()) if isinstance(wrappers, OptimWrapperDict) else [wrappers]
        self._handles = [wrapper.optimizer.register_step_post_hook(self._note_step) for wrapper in wrappers]

    def after_train(self, runner: Runner) -> None:
        """Leave the teachers alone again."""
        self._model(runner).detach_updater()
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """Tell the model how far the run is, and whether to look at its labels."""
        model = self._model(runner)
        model.set_progress(min(1.0, runner.iter / runner.max_iters))
        model.track_health = self.every_n_train_iters(runner, self.health_interval)
        self._stepped = False

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: dict | None = None
    ) -> None:
        """Move the teachers if the optimizer took a step, and log."""
        model = self._model(runner)
        if not model.has_teachers:
            return
        progress = min(1.0, (runner.iter + 1) / runner.max_iters)
        momenta = {f'momentum_{name}': self.momenta[name](progress) for name in model.teachers}
        if self._stepped:
            model.update_teachers(**momenta)
        scalars = dict(momenta)
        if getattr(model, 'label_heads', None):
            scalars['teacher_temp'] = next(iter(model.label_heads.values())).teacher_temp_at(model.progress)
        if model.track_health:
            scalars |= self._health(runner, model)
        for name, value in scalars.items():
            runner.message_hub.update_scalar(f'train/{name}', value)

    def _note_step(self, *args, **kwargs) -> None:
        self._stepped = True

    @staticmethod
    def _model(runner: Runner):
        return unwrapped(runner.model)

    def _health(self, runner: Runner, model) -> dict[str, float]:
        """Figures of labels and alignments over all processes, with a warning if they are ill."""
        figures: dict[str, float] = {}
        for name, stats in model.health_stats.items():
            sums = stats._asdict()
            all_reduce_dict(sums, 'sum')
            health = type(stats)(**sums).figures()
            figures |= {f'{name}_{key}': value for key, value in health.items()}
            self._warn(runner, name, health)
        if model.target_norm is not None:
            sums = dict(norm=model.target_norm.clone())
            all_reduce_dict(sums, 'mean')
            figures['target_norm'] = sums['norm'].item()
        model.health_stats = {}
        return figures

    def _warn(self, runner: Runner, name: str, health: Mapping[str, float]) -> None:
        ills = []
        for key, (lowest, highest) in self.bounds.items():
            if key in health and not lowest <= health[key] <= highest:
                bound = f'< {lowest}' if health[key] < lowest else f'> {highest}'
                ills.append(f'{key} {health[key]:.4f} {bound}')
        self._ill[name] = self._ill.get(name, 0) + 1 if ills else 0
        if self._ill[name] == self.patience:
            advice = (
                'Try a higher `momentum_align`, a lower learning rate or less weight for what is aligned.'
                if 'spread' in health
                else "Try a lower `teacher_temp`, `assignment='sinkhorn'`, `teacher_norm='batch'`, "
                'fewer `num_prototypes` or a lower learning rate.'
            )
            what = 'embeddings' if 'spread' in health else 'labels'
            message = (
                f'The {name} {what} have collapsed or say nothing ({"; ".join(ills)}) at iteration {runner.iter + 1}, '
                f'{self.patience} looks in a row. {advice}'
            )
            if self.on_collapse == 'stop':
                raise LabelCollapseError(message)
            runner.logger.warning(message)
