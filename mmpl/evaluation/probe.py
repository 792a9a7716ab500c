"""kNN and linear probing of a model, from dataloader configs to accuracies: shared by the hook and the tool."""

import logging
import warnings
from collections.abc import Sequence
from typing import Any

import torch
from mmengine.dist import broadcast_object_list, get_rank
from mmengine.logging import print_log
from mmengine.registry import DATASETS as MMENGINE_DATASETS
from mmengine.runner import Runner
from torch import nn
from torch.utils.data import DataLoader, Subset

from mmpl.checkpoints.encoders import STUDENT
from mmpl.datasets.agreement import check_data, sides_of
from mmpl.utils.dist import others_wait
from mmpl.utils.fields import Count, Positive, checked

from .features import FeatureSet, check_pool, extract_features, find_encoder, pools_of
from .knn import check_neighbours, knn_accuracy
from .linear_probe import ProperShare, check_regularisation, linear_probe


class FeatureProbe:
    """Measures how well frozen features tell classes apart, by kNN and by a linear classifier.

    Args:
        train_dataloader: Dataloader config of the labelled training images: the kNN bank and what the linear classifier
            learns from. ``sampler`` defaults to mmengine's ``DefaultSampler`` without shuffling or padding. The
            pipeline should be deterministic and end with ``PackInputs``.
        val_dataloader: The same for the images to score.
        pool: 'cls' (class token), 'avg' (mean of the patch tokens), or both; None: those that the encoder has.
        k: Number of neighbours, or several; the first one is the headline. Default 20, our choice.
        temperature: Temperature of the neighbours' weights; 0.07 as Wu et al., CVPR 2018.
        linear: Also train a linear probe, with ``C``, ``holdout``, ``max_iter`` and ``tol`` of
            :func:`mmpl.evaluation.linear_probe`.
        max_train_images: Use a random subset of that many training images, the same at every call; None: all of them.
        target: Whose features: 'student', or the attribute of a teacher of the model.
        seed: Seed of the subset and of the held-out split.
    """

    @checked()
    def __init__(
        self,
        train_dataloader: dict,
        val_dataloader: dict,
        pool: str | Sequence[str] | None = None,
        k: int | Sequence[int] = 20,
        temperature: Positive = 0.07,
        linear: bool = True,
        C: float | Sequence[float] = 1.0,  # noqa: N803
        holdout: ProperShare = 0.2,
        max_iter: Count = 1000,
        tol: Positive = 1e-4,
        max_train_images: Count | None = None,
        target: str = STUDENT,
        seed: int = 0,
    ) -> None:
        for name, loader in (('train_dataloader', train_dataloader), ('val_dataloader', val_dataloader)):
            if not isinstance(loader, dict):
                raise TypeError(f'`{name}` must be a dataloader config (a dict), but got {type(loader).__name__}')
            for field in ('dataset', 'batch_size'):
                if field not in loader:
                    raise ValueError(f'`{name}` must have the field `{field}`, but got only {sorted(loader)}')
        check_regularisation(C)
        self.ks = check_neighbours(k)
        self._check_bank(max_train_images, '`max_train_images`')
        self.pools = () if pool is None else check_pool(pool)  # () until the encoder is known
        self.temperature = temperature
        self.linear = linear
        self.linear_options: dict[str, Any] = dict(C=C, holdout=holdout, max_iter=max_iter, tol=tol, seed=seed)
        self.max_train_images = max_train_images
        self.target = target
        self.seed = seed
        self._configs = dict(train_dataloader=train_dataloader, val_dataloader=val_dataloader)
        self._loaders: dict[str, DataLoader] = {}

    def build(self, model: nn.Module) -> None:
        """Build the dataloaders and check what needs them and the model, without DDP wrapper. It happens once.

        Raises:
            ValueError: If a dataset is empty, classes or labels of both differ, ``k`` exceeds the bank or the model has
                no such ``target``.
        """
        if self._loaders:
            return
        encoder = find_encoder(model, self.target)
        loaders = {name: self._build_loader(name) for name in self._configs}
        train, val = (loader.dataset for loader in loaders.values())
        found = check_data(sides_of('train_dataloader.dataset', train) + sides_of('val_dataloader.dataset', val))
        for warning in found.warnings:
            print_log(f'{type(self).__name__}: {warning}', logger='current', level=logging.WARNING)
        if found.errors:
            raise ValueError(f'the probe cannot compare these images: {found.text()}')
        self._check_bank(len(train), 'the number of training images')  # type: ignore[arg-type]
        self.pools = self.pools or pools_of(encoder)
        self._loaders = loaders

    def _build_loader(self, name: str) -> DataLoader:
        config = dict(self._configs[name])
        dataset = config['dataset']
        if isinstance(dataset, dict):
            dataset = MMENGINE_DATASETS.build(dataset)
            if hasattr(dataset, 'full_init'):
                dataset.full_init()
        if len(dataset) == 0:
            raise ValueError(f'`{name}` must have at least one image, but its dataset is empty')
        limit = self.max_train_images
        if name == 'train_dataloader' and limit is not None and limit < len(dataset):
            generator = torch.Generator().manual_seed(self.seed)
            chosen = torch.randperm(len(dataset), generator=generator)[:limit].sort().values
            dataset = Subset(dataset, chosen.tolist())
        config['dataset'] = dataset
        config.setdefault('sampler', dict(type='DefaultSampler', shuffle=False, round_up=False))
        return Runner.build_dataloader(config, seed=self.seed)

    def run(self, model: nn.Module, linear: bool | None = None) -> dict[str, float]:
        """Extract the features of both datasets and score them: all ranks extract, rank 0 scores and tells the others.

        Args:
            model: The model, without DDP wrapper; left exactly as it was.
            linear: Whether to train the linear probe; None: as configured.

        Returns:
            Accuracies in percent, the same on every rank: ``knn_top1`` (first k, best pooling) and
            ``knn_top1_<pool>``, with several k also ``knn_top1_<pool>_k<k>`` for each; ``linear_top1`` (best pooling)
            and ``linear_top1_<pool>`` if there is a linear probe.

        Raises:
            RuntimeError: On the other ranks if rank 0 could not score the features.
            ValueError: As :func:`extract_features`, :func:`knn_accuracy` and :func:`linear_probe`, e.g. for features
                that are not finite.
        """
        self.build(model)
        train, val = (
            self._extract(model, loader)
            for loader in (self._loaders['train_dataloader'], self._loaders['val_dataloader'])
        )
        message: list[Any] = [None]
        error: Exception | None = None
        with others_wait():
            if get_rank() == 0:
                assert train is not None and val is not None
                device = next(model.parameters()).device
                try:
                    message = [self._score(train, val, self.linear if linear is None else linear, device)]
                except Exception as caught:  # told to the other ranks, which would wait forever, and raised below
                    error, message = caught, [f'{type(caught).__name__}: {caught}']
        broadcast_object_list(message, src=0)
        if error is not None:
            raise error
        if isinstance(message[0], str):
            raise RuntimeError(f'rank 0 could not score the features: {message[0]}')
        return message[0]

    def _check_bank(self, images: int | None, called: str) -> None:
        check_neighbours(self.ks, images, called)

    def _extract(self, model: nn.Module, loader: DataLoader) -> FeatureSet | None:
        return extract_features(model, loader, pool=self.pools, target=self.target, dst=0)

    def _score(self, train: FeatureSet, val: FeatureSet, linear: bool, device: torch.device) -> dict[str, float]:
        scores: dict[str, float] = {}
        for pool in self.pools:
            features = (train.features[pool], train.labels, val.features[pool], val.labels)
            accuracies = knn_accuracy(*features, k=self.ks, temperature=self.temperature, device=device)
            scores[f'knn_top1_{pool}'] = accuracies[self.ks[0]]
            if len(self.ks) > 1:
                scores.update({f'knn_top1_{pool}_k{k}': value for k, value in accuracies.items()})
            if linear:
                result = linear_probe(*features, **self.linear_options)
                if not result.converged:
                    warnings.warn(
                        f'the linear probe of the {pool!r} features did not reach tol={self.linear_options["tol"]} in '
                        f'max_iter={self.linear_options["max_iter"]} iterations (C={result.C}): '
                        'raise max_iter or lower C',
                        stacklevel=2,
                    )
                scores[f'linear_top1_{pool}'] = result.accuracy
        for kind in ('knn', 'linear') if linear else ('knn',):
            scores[f'{kind}_top1'] = max(scores[f'{kind}_top1_{pool}'] for pool in self.pools)
        return dict(sorted(scores.items(), key=lambda item: (item[0].split('_')[0] != 'knn', len(item[0]))))
