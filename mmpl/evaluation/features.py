"""Frozen features of a dataset, each sample exactly once, on one process or many."""

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from mmengine.dist import all_gather, get_rank, get_world_size
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from mmpl.utils.dist import unwrapped
from mmpl.utils.fields import check_choice
from mmpl.utils.seeds import preserve_rng_state

POOLS = ('cls', 'avg')
TARGETS = ('student', 'label_teacher', 'recon_teacher', 'align_teacher')

__all__ = [
    'POOLS',
    'TARGETS',
    'FeatureSet',
    'check_pool',
    'evaluation_mode',
    'extract_features',
    'pool_tokens',
    'target_module',
]


@dataclass(frozen=True)
class FeatureSet:
    """Features and labels of a dataset, in the dataset's order.

    Attributes:
        features: For each pooling an (N, D) float32 tensor on the CPU.
        labels: (N,) class indices on the CPU.
    """

    features: dict[str, Tensor]
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Put a model into eval mode without gradients; give every module its own training flag back afterwards."""
    modes = [(module, module.training) for module in model.modules()]
    try:
        model.eval()
        with torch.no_grad():
            yield
    finally:
        for module, training in modes:
            module.training = training


def check_pool(pool: str | Sequence[str]) -> tuple[str, ...]:
    """Check poolings and return them as a tuple.

    Args:
        pool: 'cls' (class token), 'avg' (mean of the patch tokens), or several.

    Returns:
        The poolings.

    Raises:
        ValueError: If a pooling is unknown, doubled or none is given.
    """
    pools = (pool,) if isinstance(pool, str) else tuple(pool)
    if not pools or len(set(pools)) != len(pools):
        raise ValueError(f'`pool` must name each of its poolings once, but got {pool!r}')
    for name in pools:
        check_choice('pool', name, POOLS)
    return pools


def target_module(model: nn.Module, target: str = 'student') -> tuple[nn.Module, str]:
    """Find the encoder whose features are wanted.

    Args:
        model: A self-supervised model, or a bare backbone.
        target: One of :data:`TARGETS`.

    Returns:
        The module that turns images into tokens, and the prefix of the encoder's keys in the model's state dict
        ('' for a bare backbone).

    Raises:
        ValueError: If ``target`` is unknown or the model has no such teacher.
    """
    check_choice('target', target, TARGETS)
    if target == 'student':
        if hasattr(model, 'extract_feat'):
            return model, 'backbone.'
        return model, ''
    teacher = getattr(model, target, None)
    if teacher is None:
        have = [name for name in TARGETS if name == 'student' or getattr(model, name, None) is not None]
        raise ValueError(f'`target` must be an encoder of {type(model).__name__} ({have}), but got {target!r}')
    return teacher.backbone, f'{target}.backbone.'


def _forward_tokens(module: Any, images: Tensor) -> Tensor:
    if hasattr(module, 'extract_feat'):
        output = module.extract_feat(images)
    else:
        # MAE-like backbones of mmpretrain mask unless they are told `mask=None`.
        takes_mask = 'mask' in inspect.signature(module.forward).parameters
        output = module(images, mask=None) if takes_mask else module(images)
    if isinstance(output, list | tuple):
        output = output[-1]
    if not isinstance(output, Tensor):
        raise TypeError(f'{type(module).__name__} must return a tensor or tensors, but got {type(output).__name__}')
    return output


def _num_extra_tokens(module: Any) -> int | None:
    backbone = module.backbone if hasattr(module, 'extract_feat') else module
    if hasattr(backbone, 'num_extra_tokens'):
        return int(backbone.num_extra_tokens)
    if hasattr(backbone, 'cls_token'):
        return 0 if backbone.cls_token is None else 1
    return None


def pool_tokens(tokens: Tensor, pool: str, num_extra_tokens: int | None = 1) -> Tensor:
    """Pool an encoder's output into one vector per image.

    Args:
        tokens: (B, E + N, D) raw tokens, class token first, or a (B, D, H, W) feature map.
        pool: 'cls': token 0; 'avg': mean of the N patch tokens, or of the map's H x W places.
        num_extra_tokens: E, the number of tokens before the patches; not needed for a map.

    Returns:
        (B, D) features.

    Raises:
        ValueError: If the output has another shape, or there is no class token to take.
    """
    if tokens.ndim == 4:
        if pool == 'cls':
            raise ValueError("`pool` must be 'avg' for a backbone that returns a feature map, but got 'cls'")
        return tokens.mean(dim=(2, 3))
    if tokens.ndim != 3:
        raise ValueError(
            'the backbone must return raw tokens (B, 1 + N, D) or a map (B, D, H, W), '
            f"but got the shape {tuple(tokens.shape)}; a VisionTransformer needs `out_type='raw'`"
        )
    if num_extra_tokens is None:
        raise ValueError('the backbone has neither `num_extra_tokens` nor `cls_token`: its tokens cannot be told apart')
    if pool == 'cls':
        if num_extra_tokens < 1:
            raise ValueError("`pool` must be 'avg' for a backbone without class token, but got 'cls'")
        return tokens[:, 0]
    return tokens[:, num_extra_tokens:].mean(dim=1)


class _WithIndex(Dataset):
    """A dataset that returns each sample together with its index."""

    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)  # type: ignore[arg-type]

    def __getitem__(self, index: int) -> tuple[int, Any]:
        return int(index), self.dataset[index]


def _collate_with_index(samples: list[tuple[int, Any]], collate_fn) -> tuple[list[int], Any]:
    return [index for index, _ in samples], collate_fn([sample for _, sample in samples])


def _indexed_loader(loader: DataLoader) -> DataLoader:
    """Rebuild a dataloader so that every batch tells which samples of the dataset it holds."""
    if loader.batch_sampler is None:
        raise ValueError('`dataloader` must have a batch size, but got batch_size=None')
    if not hasattr(loader.dataset, '__len__'):
        raise ValueError('`dataloader` must have a dataset of known length, but got an iterable dataset')
    return DataLoader(
        _WithIndex(loader.dataset),
        batch_sampler=loader.batch_sampler,
        num_workers=loader.num_workers,
        collate_fn=partial(_collate_with_index, collate_fn=loader.collate_fn),
        pin_memory=loader.pin_memory,
        timeout=loader.timeout,
        worker_init_fn=loader.worker_init_fn,
        multiprocessing_context=loader.multiprocessing_context,
        prefetch_factor=loader.prefetch_factor,
    )


def _unpack(batch: Any) -> tuple[Tensor, Tensor]:
    """Get the images (B, C, H, W) and labels (B,) of a collated batch."""
    if not isinstance(batch, dict) or 'inputs' not in batch or 'data_samples' not in batch:
        found = sorted(batch) if isinstance(batch, dict) else type(batch).__name__
        raise TypeError(f'a batch must be a dict with `inputs` and `data_samples` (PackInputs), but got {found}')
    inputs = batch['inputs']
    if isinstance(inputs, list | tuple):
        shapes = {tuple(item.shape) if isinstance(item, Tensor) else type(item).__name__ for item in inputs}
        if len(shapes) != 1 or not all(isinstance(item, Tensor) for item in inputs):
            raise ValueError(
                f'`inputs` must be one image of equal shape per sample, but got {sorted(map(str, shapes))}'
            )
        inputs = torch.stack(list(inputs))
    samples = batch['data_samples']
    if inputs.ndim != 4 or len(inputs) != len(samples):
        raise ValueError(
            f'`inputs` must be one (C, H, W) image per sample ({len(samples)} samples), but got {tuple(inputs.shape)}'
        )
    labels = []
    for sample in samples:
        label = getattr(sample, 'gt_label', None)
        if label is None or label.numel() != 1:
            name = getattr(sample, 'img_path', None)
            raise ValueError(f'`gt_label` must be one class index per image, but got {label} (image: {name})')
        labels.append(int(label))
    return inputs, torch.tensor(labels)


def _gather_rows(rows: Tensor, chunk: int = 4096, keep: bool = True) -> Tensor | None:
    """Concatenate the (n_r, ...) rows of all ranks in rank order; n_r may differ. The result is on the CPU.

    Works in chunks, so that a device never holds more than ``world_size * chunk`` gathered rows.
    """
    if get_world_size() == 1:
        return rows
    counts = [int(count) for count in all_gather(torch.tensor([len(rows)]))]
    parts: list[list[Tensor]] = [[] for _ in counts]
    for start in range(0, max(counts), chunk):
        block = rows[start : start + chunk]
        size = min(chunk, max(counts) - start)
        padded = torch.cat((block, block.new_zeros(size - len(block), *rows.shape[1:])))
        gathered = all_gather(padded)
        if keep:
            for part, piece, count in zip(parts, gathered, counts, strict=True):
                part.append(piece[: max(0, min(count - start, size))].cpu())
    return torch.cat([piece for part in parts for piece in part]) if keep else None


def extract_features(
    model: nn.Module,
    dataloader: DataLoader,
    device: torch.device | str | None = None,
    pool: str | Sequence[str] = POOLS,
    target: str = 'student',
    data_preprocessor: nn.Module | None = None,
    dst: int | None = None,
) -> FeatureSet | None:
    """Extract frozen features of every sample of a dataset.

    The model runs in eval mode, without gradients and in its own precision; the training flag of each of its modules
    and all random states are as before when this returns. Images pass through the model's own ``data_preprocessor``.

    Every rank handles what its sampler gives it. Samples are told apart by their index in ``dataloader.dataset``: those
    that a sampler repeats to fill up the last batch count once, and a sample that no rank saw is an error. The result
    is in the dataset's order, whatever the number of ranks or the shuffling.

    Args:
        model: A self-supervised model with ``extract_feat`` (PLMAE, mmpretrain's MAE, ...), a bare backbone, or either
            of them inside a DDP wrapper.
        dataloader: Batches of ``dict(inputs, data_samples)``, collated by mmengine's ``pseudo_collate`` or
            ``default_collate``; ``inputs`` are raw images, ``data_samples[i].gt_label`` the class index.
        device: Where to compute; default: where the model is. The model is not moved.
        pool: 'cls' (class token), 'avg' (mean of the patch tokens), or both.
        target: Whose features: one of :data:`TARGETS`.
        data_preprocessor: Used instead of the model's; a bare backbone needs one.
        dst: The rank that receives the features; None: all of them.

    Returns:
        The features, or None on a rank other than ``dst``.

    Raises:
        TypeError: If a batch is not a dict of inputs and data samples, or the model's output is no tensor.
        ValueError: If an option is unknown, labels are missing, images differ in shape, the sampler is endless or some
            samples are never visited (e.g. ``drop_last=True``).
    """
    pools = check_pool(pool)
    model = unwrapped(model)
    module, _ = target_module(model, target)
    preprocessor = data_preprocessor if data_preprocessor is not None else getattr(model, 'data_preprocessor', None)
    if preprocessor is None:
        raise ValueError(f'`data_preprocessor` must be given for {type(model).__name__}, which has none of its own')
    device = torch.device(device) if device is not None else next(model.parameters()).device
    num_extra_tokens = _num_extra_tokens(module)

    loader = _indexed_loader(dataloader)
    size = len(loader.dataset)  # type: ignore[arg-type]
    if size == 0:
        raise ValueError('`dataloader` must have at least one sample, but its dataset is empty')
    collected: dict[str, list[Tensor]] = {name: [] for name in pools}
    all_labels, all_indices, seen = [], [], 0
    with preserve_rng_state(), evaluation_mode(model), evaluation_mode(preprocessor):
        for indices, batch in loader:
            seen += len(indices)
            if seen > size:
                name = type(getattr(dataloader.batch_sampler, 'sampler', dataloader.batch_sampler)).__name__
                raise ValueError(f'`sampler` must visit a sample at most once, but {name} gave over {size} indices')
            images, labels = _unpack(batch)
            data = preprocessor(dict(inputs=images.to(device), data_samples=None), False)
            if not isinstance(data['inputs'], Tensor):
                raise TypeError(
                    f'`data_preprocessor` must return one tensor of images, but {type(preprocessor).__name__} returned '
                    f'a {type(data["inputs"]).__name__}'
                )
            tokens = _forward_tokens(module, data['inputs'].to(device))
            for name in pools:
                collected[name].append(pool_tokens(tokens, name, num_extra_tokens).float().cpu())
            all_labels.append(labels)
            all_indices.extend(indices)

    return _merge(collected, all_labels, all_indices, size, dst)


def _merge(
    collected: dict[str, list[Tensor]], labels: list[Tensor], indices: list[int], size: int, dst: int | None
) -> FeatureSet | None:
    """Put the ranks' samples together, each once and in the dataset's order."""
    keep = dst is None or get_rank() == dst
    local_width = collected[next(iter(collected))][0].shape[1] if labels else 0
    # A rank that got no sample at all (fewer samples than ranks) learns the width from the others.
    width = max(int(value) for value in all_gather(torch.tensor([local_width])))
    every_index = _gather_rows(torch.tensor(indices, dtype=torch.long))
    assert every_index is not None
    order = torch.argsort(every_index, stable=True)
    ordered = every_index[order]
    first = torch.ones_like(ordered, dtype=torch.bool)
    first[1:] = ordered[1:] != ordered[:-1]
    order = order[first]
    if len(order) != size:
        raise ValueError(
            f'`dataloader` must visit all {size} samples, but {size - len(order)} were never seen: '
            'check `drop_last`, `batch_sampler` and `num_batch_per_epoch`'
        )
    every_label = _gather_rows(torch.cat(labels) if labels else torch.zeros(0, dtype=torch.long), keep=keep)
    features = {}
    for name, parts in collected.items():
        rows = _gather_rows(torch.cat(parts) if parts else torch.zeros(0, width), keep=keep)
        if rows is not None:
            features[name] = rows[order]
    if every_label is None:
        return None
    return FeatureSet(features, every_label[order])
