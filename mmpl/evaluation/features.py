"""Frozen features of a dataset, each sample exactly once, on one process or many."""

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from mmengine.dist import all_gather, all_gather_object, get_rank, get_world_size
from mmpretrain.models.utils import TwoNormDataPreprocessor
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from mmpl.checkpoints.encoders import STUDENT
from mmpl.utils.dist import all_or_none, unwrapped
from mmpl.utils.fields import check_choice
from mmpl.utils.seeds import preserve_rng_state

POOLS = ('cls', 'avg')
"""The class token, and the mean of the patch tokens."""


@dataclass(frozen=True)
class FeatureSet:
    """Features and labels of a dataset, in the dataset's order, on the CPU."""

    features: dict[str, Tensor]  # (N, D) float32 for each pooling; of patches (N, D, h, w)
    labels: Tensor  # (N,) class indices, or (N, H, W) label maps

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
    """One or several of :data:`POOLS` as a tuple; a ValueError if one is unknown, doubled or none is given."""
    pools = (pool,) if isinstance(pool, str) else tuple(pool)
    if not pools or len(set(pools)) != len(pools):
        raise ValueError(f'`pool` must name each of its poolings once, but got {pool!r}')
    for name in pools:
        check_choice('pool', name, POOLS)
    return pools


def find_encoder(model: nn.Module, target: str = STUDENT) -> nn.Module:
    """The encoder whose features are wanted.

    Args:
        model: A self-supervised model, or a bare backbone.
        target: 'student', the model's ``backbone``, or the attribute of a teacher: any other child with a ``backbone``.

    Raises:
        ValueError: If the model has no such encoder; those that it has are listed.
    """
    found = {STUDENT: model.get_submodule('backbone') if hasattr(model, 'extract_feat') else model}
    for name, child in model.named_children():
        if name != 'backbone' and isinstance(getattr(child, 'backbone', None), nn.Module):
            found[name] = child.get_submodule('backbone')
    if target not in found:
        raise ValueError(f'`target` must be an encoder of {type(model).__name__} ({list(found)}), but got {target!r}')
    return found[target]


def _tokens(model: Any, target: str, images: Tensor) -> Tensor:
    if target == STUDENT and hasattr(model, 'extract_feat'):
        output = model.extract_feat(images)
    else:
        encoder = find_encoder(model, target)
        # MAE-like backbones of mmpretrain mask unless they are told `mask=None`.
        takes_mask = 'mask' in inspect.signature(encoder.forward).parameters
        output = encoder(images, mask=None) if takes_mask else encoder(images)
    if isinstance(output, list | tuple):
        output = output[-1]
    if not isinstance(output, Tensor):
        raise TypeError(
            f'the {target!r} encoder of {type(model).__name__} must return a tensor or tensors, '
            f'but got {type(output).__name__}'
        )
    return output


def _num_extra_tokens(encoder: Any) -> int | None:
    if hasattr(encoder, 'num_extra_tokens'):
        return int(encoder.num_extra_tokens)
    if hasattr(encoder, 'cls_token'):
        return 0 if encoder.cls_token is None else 1
    return None


def pools_of(encoder: Any) -> tuple[str, ...]:
    """Those of :data:`POOLS` that an encoder has: one without a class token, such as a Swin, has the mean alone."""
    return POOLS if _num_extra_tokens(encoder) else POOLS[1:]


def pool_tokens(tokens: Tensor, pool: str, num_extra_tokens: int | None = 1) -> Tensor:
    """Pool an encoder's output into one vector per image, (B, D).

    Args:
        tokens: (B, E + N, D) raw tokens, class token first, or a (B, D, H, W) feature map.
        pool: 'cls': token 0; 'avg': mean of the N patch tokens, or of the map's H x W places.
        num_extra_tokens: E, the number of tokens before the patches; not needed for a map.

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


def _unpack(batch: Any, of_map: bool) -> tuple[Tensor, Tensor]:
    """Get the images (B, C, H, W) of a collated batch, and their class indices (B,) or label maps (B, H, W)."""
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
    read = _label_map if of_map else _class_index
    return inputs, torch.stack([read(sample, inputs.shape[-2:]) for sample in samples])


def _class_index(sample: Any, size: torch.Size) -> Tensor:
    label = getattr(sample, 'gt_label', None)
    if label is None or label.numel() != 1:
        name = getattr(sample, 'img_path', None)
        raise ValueError(
            f'`gt_label` must be one class index per image, but got {label} (image: {name}); features of images '
            'without labels come from mmpl.FeatureExtractor(checkpoint)(images)'
        )
    return label.view(()).long()


def _label_map(sample: Any, size: torch.Size) -> Tensor:
    label = getattr(sample, 'gt_sem_seg', None)
    found = None if label is None else tuple(label.data.shape[-2:])
    if label is None or found != tuple(size):
        name = getattr(sample, 'img_path', None)
        raise ValueError(
            f'`gt_sem_seg` must be a label map of the size of its image, {tuple(size)}, but got {found} '
            f'(image: {name}); a pipeline of mmseg ends with `LoadAnnotations` and `PackSegInputs`'
        )
    return label.data.view(found).to(torch.int32)  # 255 is a label, -1 none; 16 bits cannot be gathered


def _gather_rows(rows: Tensor, chunk: int = 4096, keep: bool = True) -> Tensor:
    """Concatenate the (n_r, ...) rows of all ranks in rank order; n_r may differ. On the CPU, and empty unless kept.

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
    return torch.cat([piece for part in parts for piece in part]) if keep else rows[:0]


def extract_features(
    model: nn.Module,
    dataloader: DataLoader,
    pool: str | Sequence[str] | None = None,
    target: str = STUDENT,
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
            of them inside a DDP wrapper. It computes where it is.
        dataloader: Batches of ``dict(inputs, data_samples)``, collated by mmengine's ``pseudo_collate`` or
            ``default_collate``; ``inputs`` are raw images, ``data_samples[i].gt_label`` the class index.
        pool: One or several of :data:`POOLS`; None: those that the encoder has.
        target: Whose features: 'student', or the attribute of a teacher.
        data_preprocessor: Used instead of the model's; a bare backbone needs one.
        dst: The rank that receives the features, the others get None; None: all of them.

    Raises:
        ValueError: If labels are missing, images differ in shape, the sampler is endless or some samples are never
            visited (e.g. ``drop_last=True``).
    """
    encoder = find_encoder(unwrapped(model), target)
    pools = pools_of(encoder) if pool is None else check_pool(pool)
    num_extra_tokens = _num_extra_tokens(encoder)

    def pooled(tokens: Tensor, images: Tensor) -> dict[str, Tensor]:
        return {name: pool_tokens(tokens, name, num_extra_tokens) for name in pools}

    return _extract(model, dataloader, pooled, False, target, data_preprocessor, dst)


def extract_patches(
    model: nn.Module,
    dataloader: DataLoader,
    target: str = STUDENT,
    data_preprocessor: nn.Module | None = None,
    dst: int | None = None,
) -> FeatureSet | None:
    """Extract the frozen features of every patch, with the images' label maps; all as :func:`extract_features`.

    Args:
        model: As there; its encoder takes images of any size that is a multiple of its patches.
        dataloader: As there, but ``data_samples[i].gt_sem_seg`` is a label map as large as the image. All images of the
            data set must have one size.
        target: As there.
        data_preprocessor: As there.
        dst: As there.

    Returns:
        ``features['patches']``, (N, D, h, w), and ``labels``, (N, H, W).

    Raises:
        ValueError: If label maps are missing or of another size; further as :func:`extract_features`.
    """
    encoder = find_encoder(unwrapped(model), target)

    def as_map(tokens: Tensor, images: Tensor) -> dict[str, Tensor]:
        if tokens.ndim == 3:
            patches = tokens[:, _num_extra_tokens(encoder) :]
            height, width = images.shape[-2:]
            rows = round((patches.shape[1] * height / width) ** 0.5)  # patches are square
            tokens = patches.transpose(1, 2).unflatten(2, (rows, -1))
        return dict(patches=tokens)

    return _extract(model, dataloader, as_map, True, target, data_preprocessor, dst)


def _normalised(preprocessor: nn.Module, images: Tensor) -> Tensor:
    """Images as the encoder sees them; mmpretrain's BEiT and CAE normalise a second one, for a tokenizer."""
    of_two = isinstance(preprocessor, TwoNormDataPreprocessor)
    found = preprocessor(dict(inputs=[images, images] if of_two else images, data_samples=None), False)['inputs']
    found = found[0] if of_two else found
    if not isinstance(found, Tensor):
        raise TypeError(
            f'`data_preprocessor` must return one tensor of images, but {type(preprocessor).__name__} returned '
            f'a {type(found).__name__}'
        )
    return found


def _extract(
    model: nn.Module,
    dataloader: DataLoader,
    reduce: Callable[[Tensor, Tensor], dict[str, Tensor]],
    of_map: bool,
    target: str,
    data_preprocessor: nn.Module | None,
    dst: int | None,
) -> FeatureSet | None:
    """Show every image to the encoder, keep what ``reduce`` makes of its tokens and the image, and merge the ranks'."""
    model = unwrapped(model)
    preprocessor = data_preprocessor if data_preprocessor is not None else getattr(model, 'data_preprocessor', None)
    if preprocessor is None:
        raise ValueError(f'`data_preprocessor` must be given for {type(model).__name__}, which has none of its own')
    device = next(model.parameters()).device

    loader = _indexed_loader(dataloader)
    size = len(loader.dataset)  # type: ignore[arg-type]
    if size == 0:
        raise ValueError('`dataloader` must have at least one sample, but its dataset is empty')
    collected: dict[str, list[Tensor]] = {}
    all_labels: list[Tensor] = []
    all_indices: list[int] = []
    with preserve_rng_state(), evaluation_mode(model), evaluation_mode(preprocessor), all_or_none():
        for indices, batch in loader:
            all_indices.extend(indices)
            if len(all_indices) > size:
                name = type(getattr(dataloader.batch_sampler, 'sampler', dataloader.batch_sampler)).__name__
                raise ValueError(f'`sampler` must visit a sample at most once, but {name} gave over {size} indices')
            images, labels = _unpack(batch, of_map)
            normalised = _normalised(preprocessor, images.to(device))
            tokens = _tokens(model, target, normalised.to(device))
            for name, part in reduce(tokens, normalised).items():
                collected.setdefault(name, []).append(part.float().cpu())
            all_labels.append(labels.cpu())
    return _merge(collected, all_labels, all_indices, size, dst)


def _merge(
    collected: dict[str, list[Tensor]], labels: list[Tensor], indices: list[int], size: int, dst: int | None
) -> FeatureSet | None:
    """Put the ranks' samples together, each once and in the dataset's order."""
    every_index = _gather_rows(torch.tensor(indices, dtype=torch.long))
    _, first = np.unique(every_index, return_index=True)
    if len(first) != size:
        raise ValueError(
            f'`dataloader` must visit all {size} samples, but {size - len(first)} were never seen: '
            'check `drop_last`, `batch_sampler` and `num_batch_per_epoch`'
        )
    rows = {name: _joined(parts) for name, parts in dict(collected, labels=labels).items()}
    if get_world_size() > 1:
        # A rank that got no sample at all (fewer samples than ranks) learns from the others what there is.
        empty = {name: part[:0] for name, part in rows.items()}
        rows = next(found for found in all_gather_object(empty) if len(found) > 1) | (rows if indices else {})
    keep = dst is None or get_rank() == dst
    merged = {name: _gather_rows(part, keep=keep) for name, part in rows.items()}
    if not keep:
        return None
    merged = {name: part[first] for name, part in merged.items()}
    return FeatureSet(labels=merged.pop('labels'), features=merged)


def _joined(parts: list[Tensor]) -> Tensor:
    """Rows of all batches; images of several sizes have none in common."""
    shapes = {tuple(part.shape[1:]) for part in parts}
    if len(shapes) > 1:
        raise ValueError(f'the images of a data set must have one size to compare patches, but got {sorted(shapes)}')
    return torch.cat(parts) if parts else torch.zeros(0)
