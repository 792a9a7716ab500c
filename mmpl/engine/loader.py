"""The config of a data loader whose epochs can be resumed anywhere, and whose bad files are replaced."""

import copy
from collections.abc import Mapping
from typing import Any

from mmengine.dist import get_world_size

from mmpl.utils.fields import Count, Natural, checked

REFUSED_SAMPLERS = dict(
    InfiniteSampler='which never ends',
    RepeatAugSampler='of whose repeated images each would have the same augmentation',
)


def resumable_loader(dataloader: Any, guard: Mapping[str, Any]) -> dict:
    """A data loader's config with its sampler and its dataset wrapped.

    Args:
        dataloader: ``train_dataloader`` of the run's config.
        guard: Fields of :class:`mmpl.datasets.GuardedDataset`.

    Raises:
        ValueError: It is of a kind that cannot be resumed, or a field has a value that is not allowed.
    """
    if not isinstance(dataloader, Mapping):
        raise ValueError(
            f'`train_dataloader` must be a config with mmpl.ExactEpochLoop, but got {type(dataloader).__name__}'
        )
    cfg = copy.deepcopy(dict(dataloader))
    if cfg.get('batch_sampler') is not None:
        raise ValueError(
            f'`train_dataloader.batch_sampler` must be left out with mmpl.ExactEpochLoop, which cannot resume '
            f'inside its order, but got {cfg["batch_sampler"]!r}'
        )
    for field, example in (('dataset', "dict(type='ImageNet', ...)"), ('sampler', "dict(type='DefaultSampler')")):
        if not isinstance(cfg.get(field), Mapping) or 'type' not in cfg[field]:
            raise ValueError(f'`train_dataloader.{field}` must be a config such as {example}, got {cfg.get(field)!r}')
    sampler = str(cfg['sampler']['type']).rsplit('.', maxsplit=1)[-1]
    if sampler in REFUSED_SAMPLERS:
        raise ValueError(
            f'`train_dataloader.sampler.type` must be a sampler of whole epochs such as DefaultSampler with '
            f'mmpl.ExactEpochLoop, but got {sampler}, {REFUSED_SAMPLERS[sampler]}'
        )
    if get_world_size() > 1 and cfg['sampler'].get('round_up') is False:
        raise ValueError(
            '`train_dataloader.sampler.round_up` must be True on several processes, which would wait for each other '
            'where one has an image more, but got False'
        )
    _check_fields(**{'batch_size': None, **cfg})
    collate = cfg.get('collate_fn', 'pseudo_collate')
    kind = collate.get('type') if isinstance(collate, Mapping) else collate
    if not isinstance(kind, str) and not callable(kind):
        raise ValueError(f'`train_dataloader.collate_fn` must be a config with a `type`, but got {collate!r}')
    if cfg.get('persistent_workers') and not cfg.get('num_workers'):
        raise ValueError('`train_dataloader.persistent_workers` must be False with `num_workers=0`, but got True')
    cfg['dataset'] = dict(type='mmpl.GuardedDataset', dataset=cfg['dataset'], **guard)
    cfg['sampler'] = dict(type='mmpl.ResumableSampler', sampler=cfg['sampler'])
    return cfg


@checked('train_dataloader')
def _check_fields(
    batch_size: Count,
    num_workers: Natural = 0,
    drop_last: bool = False,
    persistent_workers: bool = False,
    pin_memory: bool = False,
    **others: Any,
) -> None:
    """Check what is checked by its type alone; other fields are torch's to check."""
