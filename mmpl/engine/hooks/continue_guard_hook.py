"""Says when training on makes features worse than those that a run started with."""

from collections.abc import Mapping
from typing import Any

import torch
from mmengine.hooks import Hook
from mmengine.registry import TRANSFORMS
from mmengine.runner import Runner
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from mmpl.engine.shards import whole_weights
from mmpl.evaluation.consistency import effective_rank, patch_consistency
from mmpl.evaluation.features import evaluation_mode
from mmpl.export.spec import loader_of
from mmpl.registry import HOOKS
from mmpl.utils.dist import unwrapped
from mmpl.utils.fields import Count, Share, checked
from mmpl.utils.seeds import preserve_rng_state

_KNN = 'probe/knn_top1'  # of mmpl.FeatureProbeHook
_BASELINE = 'continue_guard_baseline'
_WORDS = {
    'rank': 'effective rank of the image features',
    'consistency': 'patches known again one place further on, in percent',
    _KNN: 'kNN accuracy in percent',
}


@HOOKS.register_module()
class ContinueGuardHook(Hook):
    """Compares the features of a run that continues from other weights with those of its start.

    Without labels two figures tell: the effective rank of the images' mean tokens, and the share of patches that are
    known again when the image moves by one patch; both need only some training images. If a
    :class:`mmpl.engine.FeatureProbeHook` is in the run, its kNN accuracy is compared too. Where one has lost more than
    ``tolerated`` of its value, a warning says so. The figures are logged as ``continue/rank`` and
    ``continue/consistency``. The start's are kept in the checkpoints.

    Args:
        epochs: After how many of the first epochs features are compared; and once more after the last.
        num_images: Training images that are looked at, evenly spaced.
        tolerated: Share of a figure that may be lost (our choice).
        batch_size: Images computed at once.
    """

    priority = 'LOWEST'  # after the probe

    @checked()
    def __init__(self, epochs: Count = 5, num_images: Count = 256, tolerated: Share = 0.3, batch_size: Count = 32):
        self.epochs = epochs
        self.num_images = num_images
        self.tolerated = tolerated
        self.batch_size = batch_size
        self._images: list[Tensor] = []

    def before_train(self, runner: Runner) -> None:
        """Take the figures of the start."""
        backbone = unwrapped(runner.model).backbone
        if not hasattr(backbone, 'encode'):
            raise ValueError(
                f'`model.backbone` must be a mmpl.MaskedViT with ContinueGuardHook, but is {type(backbone).__name__}'
            )
        with preserve_rng_state():
            self._images = self._load(runner)
        if not runner.message_hub.runtime_info.get(_BASELINE):
            figures = self._figures(runner)
            runner.message_hub.update_info(_BASELINE, figures)
            runner.logger.info(f'Features at the start: {_as_text(figures)}')

    def after_train_epoch(self, runner: Runner) -> None:
        """Compare."""
        if not (runner.epoch < self.epochs or self.is_last_train_epoch(runner)):
            return
        start, now = runner.message_hub.get_info(_BASELINE), self._figures(runner)
        for name in ('rank', 'consistency'):
            runner.message_hub.update_scalar(f'continue/{name}', now[name])
        runner.visualizer.add_scalars(
            {f'continue/{name}': now[name] for name in ('rank', 'consistency')}, step=runner.iter
        )
        lost = {name for name, value in now.items() if name in start and value < (1 - self.tolerated) * start[name]}
        runner.logger.info(f'Features after epoch {runner.epoch + 1}: {_as_text(now)}')
        if lost:
            listed = '; '.join(f'{_WORDS[name]}: {start[name]:.1f} -> {now[name]:.1f}' for name in sorted(lost))
            runner.logger.warning(
                f'Continuing harms the features that this run started with ({listed}): a lower '
                '`optim_wrapper.optimizer.lr`, or a lower `loss_weights` of the labels, may keep them. The start is '
                f'in `load_from` {runner.cfg.get("load_from")}'
            )

    def _figures(self, runner: Runner) -> dict[str, float]:
        """In all processes: blocks of which each holds a shard expect that all have called them."""
        model: Any = unwrapped(runner.model)
        with whole_weights(model, model.backbone), preserve_rng_state(), evaluation_mode(model):
            means, found = [], []
            for images in self._images:
                inputs = model.data_preprocessor(dict(inputs=images, data_samples=None), False)['inputs']
                views = inputs[0] if isinstance(inputs, list | tuple) else inputs
                patch = model.backbone.patch_size
                found.append((patch_consistency(model.backbone, views), len(images)))
                means.append(model.backbone.encode(views[..., patch:, patch:])[0][:, 1:].mean(1).float())
            rank = effective_rank(F.normalize(torch.cat(means), dim=-1).cpu())
        total = sum(count for _, count in found)
        figures = dict(rank=rank, consistency=sum(value * count for value, count in found) / total)
        scalars: Mapping[str, Any] = runner.message_hub.log_scalars
        if _KNN in scalars and scalars[_KNN]._log_history.size:
            figures[_KNN] = float(scalars[_KNN].current())
        return figures

    def _load(self, runner: Runner) -> list[Tensor]:
        """Images (C, H + p, W + p) as the run's loader reads them, in batches."""
        model: Any = unwrapped(runner.model)
        dataset = runner.train_dataloader.dataset
        load = TRANSFORMS.build(loader_of(runner.cfg.to_dict()))
        height, width = model.backbone.img_size
        patch = model.backbone.patch_size
        count = min(self.num_images, len(dataset))
        images = []
        for index in sorted({round(i * (len(dataset) - 1) / max(1, count - 1)) for i in range(count)}):
            info = dataset.get_data_info(index)
            try:
                pixels = load(dict(info))['img']
            except (ValueError, OSError):  # a bad file, which the run reports
                continue
            pixels = torch.from_numpy(pixels.copy())
            pixels = pixels[..., None] if pixels.ndim == 2 else pixels
            small = F.interpolate(
                pixels.permute(2, 0, 1)[None].float(), (height + patch, width + patch), mode='bicubic', antialias=True
            )
            images.append(small[0].round().clamp(0, 255).to(torch.uint8))
        if not images:
            raise ValueError('ContinueGuardHook: none of the training images that it looked at can be read')
        return [torch.stack(images[i : i + self.batch_size]) for i in range(0, len(images), self.batch_size)]


def _as_text(figures: Mapping[str, float]) -> str:
    return ', '.join(f'{_WORDS[name]} {value:.1f}' for name, value in figures.items())
