"""A hook that probes the frozen features while pre-training goes on."""

from collections.abc import Sequence
from typing import Any, Literal

from mmengine.hooks import Hook
from mmengine.runner import IterBasedTrainLoop, Runner

from mmpl.engine.shards import whole_weights
from mmpl.evaluation.dense import DenseProbe
from mmpl.evaluation.features import find_encoder
from mmpl.evaluation.probe import FeatureProbe
from mmpl.registry import HOOKS
from mmpl.utils.dist import unwrapped
from mmpl.utils.fields import Count, check_part, checked
from mmpl.utils.seeds import preserve_rng_state

from .unfinished import Unfinished


@HOOKS.register_module()
class FeatureProbeHook(Hook):
    """Measure kNN and linear-probe accuracy of the frozen features during pre-training.

    Runs before training, every ``interval`` epochs (or iterations) and at the end. The scalars ``probe/knn_top1``,
    ``probe/linear_top1`` (percent, best pooling) and one per pooling (``probe/knn_top1_cls``, ...) go to the text log,
    the message hub and every visualisation backend (JSON, TensorBoard, W&B), at the step "iterations done".

    Training is not disturbed: random states, training flags and gradients are left as they were, so that a run with
    this hook ends with the same weights, bit for bit, as one without.

    Under DDP every rank extracts its share of the features, and rank 0 scores them while the others wait, however long
    it takes (``max_train_images``, ``linear='last'`` or ``linear=False`` make it short on large data).

    Args:
        train_dataloader: Dataloader config of the labelled training images, see
            :class:`mmpl.evaluation.FeatureProbe`.
        val_dataloader: Dataloader config of the images to score.
        interval: Probe every that many epochs (or iterations).
        by_epoch: Whether ``interval`` counts epochs.
        before_train: Also probe before the first step: the baseline of random initialisation. Not repeated on resume.
        linear: True: a linear probe each time; 'last': only at the start (``before_train``) and at the end; False: kNN
            only.
        dense: Options of :class:`mmpl.evaluation.DenseProbe`, to score single patches by label maps too:
            ``probe/patch_knn_miou`` and ``probe/patch_linear_miou`` (percent).
        **probe: Further options of :class:`mmpl.evaluation.FeatureProbe`.
    """

    priority = 'LOWEST'  # after the checkpoint (VERY_LOW): a probe that is cut off must not cost the epoch

    @checked()
    def __init__(
        self,
        train_dataloader: dict,
        val_dataloader: dict,
        interval: Count = 1,
        by_epoch: bool = True,
        before_train: bool = True,
        linear: Literal[True, False, 'last'] = True,
        dense: dict | None = None,
        **probe: Any,
    ) -> None:
        self.interval = interval
        self.by_epoch = by_epoch
        self.probe_before_train = before_train
        self.linear = linear
        self.probe = FeatureProbe(train_dataloader, val_dataloader, linear=bool(linear), **probe)
        self.probes = {'': self.probe}
        self._unfinished = Unfinished('probe')
        if dense is not None:
            check_part('dense', dense, 'dict(train_dataloader=..., val_dataloader=...)')
            self.probes['patch_'] = DenseProbe(**dict(linear=bool(linear), target=self.probe.target) | dense)

    def before_train(self, runner: Runner) -> None:
        """Build the dataloaders, so that a fault in them shows at once, and probe the untrained model."""
        if self.by_epoch and isinstance(runner.train_loop, IterBasedTrainLoop):
            raise ValueError('`by_epoch` must be False in an iteration-based training loop, but got True')
        if sum(isinstance(hook, FeatureProbeHook) for hook in runner.hooks) > 1:
            raise ValueError(
                '`custom_hooks` must hold one FeatureProbeHook: the scores of two would have the same names'
            )
        model = unwrapped(runner.model)
        with preserve_rng_state():
            for probe in self.probes.values():
                probe.build(model)
        if self.probe_before_train and runner.iter == 0:
            self._run(runner, epoch=0, iteration=0, edge=True)
        elif self._unfinished.was_cut(runner):
            runner.logger.warning('The last probe was cut off: it is made now.')
            self._run(runner, runner.epoch, runner.iter, edge=runner.iter == runner.max_iters)

    def after_train_epoch(self, runner: Runner) -> None:
        """Probe every ``interval`` epochs and after the last."""
        last = self.is_last_train_epoch(runner)
        if self.by_epoch and (last or self.every_n_epochs(runner, self.interval)):
            self._probe(runner, epoch=runner.epoch + 1, iteration=runner.iter, edge=last)

    def after_train_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: dict | tuple | list | None = None,
        outputs: dict | Sequence | None = None,
    ) -> None:
        """Probe every ``interval`` iterations and after the last."""
        last = self.is_last_train_iter(runner)
        if not self.by_epoch and (last or self.every_n_train_iters(runner, self.interval)):
            self._probe(runner, epoch=runner.epoch, iteration=runner.iter + 1, edge=last)

    def _probe(self, runner: Runner, epoch: int, iteration: int, edge: bool) -> None:
        """Probe, so that what is cut off is made up for when the run goes on."""
        self._unfinished.begin(runner, iteration)
        self._run(runner, epoch, iteration, edge)
        self._unfinished.end(runner)

    def _run(self, runner: Runner, epoch: int, iteration: int, edge: bool) -> None:
        linear = edge if self.linear == 'last' else bool(self.linear)
        with preserve_rng_state():
            model, scalars = unwrapped(runner.model), dict[str, float]()
            for prefix, probe in self.probes.items():
                try:
                    with whole_weights(model, find_encoder(model, probe.target)):
                        found = probe.run(model, linear=linear)
                except Exception as error:
                    if runner.iter == 0:  # nothing is lost yet, and what is wrong can be mended
                        raise
                    runner.logger.error(
                        f'The probe after iteration {iteration} failed and is left out, the run goes on: '
                        f'{type(error).__name__}: {error}'
                    )
                    return
                scalars |= {f'probe/{prefix}{name}': value for name, value in found.items()}
        for name, value in scalars.items():
            runner.message_hub.update_scalar(name, value)
        text = '  '.join(f'{name}: {value:.2f}' for name, value in scalars.items())
        runner.logger.info(f'Probe of {self.probe.target} features [epoch {epoch}][iter {iteration}]  {text}')
        runner.visualizer.add_scalars(
            dict(scalars, epoch=epoch, iter=iteration), step=iteration, file_path=f'{runner.timestamp}.json'
        )
