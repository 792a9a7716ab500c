"""Gather what a pre-training run has to show, then draw it."""

import copy
import math
import typing
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.registry import DATASETS, MODELS, init_default_scope
from mmpretrain.models.utils import MultiheadAttention
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Subset

from mmpl.checkpoints.files import checkpoint_folder, find_whole_checkpoint
from mmpl.checkpoints.fit import check_state_dict
from mmpl.checkpoints.strict_pretrained import loads_weights
from mmpl.compat import load_checkpoint, safe_loading
from mmpl.datasets.guarded import GuardedDataset
from mmpl.evaluation import extract_features, knn_accuracy
from mmpl.evaluation.evaluate import any_loads_weights, find_probe
from mmpl.evaluation.features import FeatureSet, evaluation_mode, pool_tokens
from mmpl.export.spec import dataset_with_pipeline, loader_of
from mmpl.utils.config_errors import read_config
from mmpl.utils.fields import Count, check_device, check_field
from mmpl.utils.seeds import preserve_rng_state
from mmpl.utils.user_errors import UserError

from .data import ReportData, ResultRow, read_results
from .page import check_page, render_report
from .pictures import Neighbour, Picture, nearest_neighbours, pca_rgb, printable
from .scalars import Scalars, read_scalars

# Images that cannot be read (mmcv asserts), weights of NaN, and the like: the curves are worth a page.
NO_PICTURES = (ValueError, OSError, UserError, AssertionError)
NO_CLASS = -1  # label of the images of a run without labels
POOL_NAMES = dict(cls='class token', avg='mean of patch tokens')


@dataclass(frozen=True)
class ReportOptions:
    """How much to show.

    Attributes:
        queries: Validation images whose neighbours are shown.
        neighbours: Neighbours of each.
        maps: Validation images whose label and component maps are shown.
        max_train_images: Training images to search, at most (drawn with ``seed``).
        max_val_images: Validation images that choose the better pooling, at most.
        seed: Of all that is drawn.
    """

    queries: Count = 8
    neighbours: Count = 6
    maps: Count = 12
    max_train_images: Count = 5000
    max_val_images: Count = 500
    seed: int = 0

    def __post_init__(self) -> None:
        for name, hint in typing.get_type_hints(ReportOptions, include_extras=True).items():
            check_field(name, getattr(self, name), hint)


def find_config(work_dir: str | Path) -> Path:
    """The config that mmengine left in a work directory.

    Raises:
        FileNotFoundError: If there is none.
        ValueError: If there are several.
    """
    found = sorted(Path(work_dir).glob('*.py'))
    if not found:
        raise FileNotFoundError(f'no config (*.py) in {str(work_dir)!r}: give --config')
    if len(found) > 1:
        raise ValueError(f'several configs in {str(work_dir)!r} ({[path.name for path in found]}): give --config')
    return found[0]


def _build_model(cfg: Config, seed: int, initialised: bool = False) -> nn.Module:
    """The config's model, with what its ``init_cfg`` points to only if it is to be initialised."""
    init_default_scope(cfg.get('default_scope') or 'mmpretrain')
    with preserve_rng_state():
        torch.manual_seed(seed)
        model = MODELS.build(copy.deepcopy(cfg.model))
        if initialised:
            model.init_weights()
    return model


def _load_all(model: nn.Module, checkpoint: Path) -> None:
    """Load a whole model, with its teachers and heads; every key must fit."""
    content = load_checkpoint(checkpoint)
    model.load_state_dict(check_state_dict(model, content.get('state_dict', content)), strict=True)


# ------------------------------------------------------------------ images


def spread_over_classes(labels: Tensor, count: int) -> list[int]:
    """Indices into labels (N,), at most ``count``: one of each class, then a second one of each, and so on."""
    seen: Counter[int] = Counter()
    turns = []
    for index, label in enumerate(labels.tolist()):
        turns.append((seen[label], label, index))
        seen[label] += 1
    return [index for _, _, index in sorted(turns)[:count]]


def to_picture(item: Mapping[str, Any], names: Sequence[str], swap_channels: bool) -> Picture:
    """What the model was given, as a picture.

    Args:
        item: A sample of the dataset: ``inputs`` (C, H, W), values 0 to 255, and ``data_samples``.
        names: Of the classes; may be empty.
        swap_channels: Whether the channels are in BGR order.
    """
    inputs = _inputs(item)
    if swap_channels and inputs.shape[0] == 3:
        inputs = inputs.flip(0)
    pixels = inputs.float().clamp(0, 255).round().byte().permute(1, 2, 0).numpy()
    if pixels.shape[2] != 3:  # of many channels the first, in grey
        pixels = pixels[..., :1].repeat(3, axis=2)
    sample = item['data_samples']
    label = int(sample.gt_label)
    name = printable(Path(str(getattr(sample, 'img_path', ''))).name)
    class_name = '' if label == NO_CLASS else names[label] if names else f'class {label}'
    return Picture(np.ascontiguousarray(pixels), name, class_name)


def _inputs(item: Mapping[str, Any]) -> Tensor:
    """The image (C, H, W) of a sample, the first of several views."""
    return item['inputs'][0] if isinstance(item['inputs'], list | tuple) else item['inputs']


class _WithoutClasses(Dataset):
    """A data set of images without labels."""

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> dict:
        item = self.dataset[index]
        item['data_samples'].set_gt_label(NO_CLASS)
        return item


def _training_images(cfg: Config, model: nn.Module) -> _WithoutClasses:
    """The images of a training set without labels, whole, at the size that the encoder takes; each of them once."""
    size = cfg.model.backbone.get('img_size') or getattr(model.backbone, 'img_size', None)
    if size is None:
        raise ValueError(f'`model.backbone`, {type(model.backbone).__name__}, does not say its `img_size`')
    sides = (size, size) if isinstance(size, int) else tuple(size)[::-1]  # (width, height)
    resize = dict(type='Resize', scale=sides, interpolation='bicubic')
    if cfg.model.backbone.get('in_channels', 3) in (1, 3):
        resize['backend'] = 'pillow'  # as FeatureExtractor; Pillow has no images of other channels
    steps = [loader_of(cfg.to_dict()), resize, dict(type='PackInputs')]
    dataset = cfg.train_dataloader.dataset
    while getattr(dataset.type, '__name__', dataset.type).endswith('RepeatDataset'):
        dataset = dataset.dataset
    if dataset_with_pipeline(dataset) is None:
        raise ValueError(
            f'the images of `train_dataloader.dataset`, {dataset.type}, cannot be shown whole: it has no `pipeline`'
        )
    return _WithoutClasses(GuardedDataset(_with_pipeline(dataset, steps)))  # bad files are replaced, as in training


def _images_of_folder(cfg: Config, folder: str | Path) -> _WithoutClasses:
    """The images of any folder, at their own size."""
    steps = [loader_of(cfg.to_dict()), dict(type='PackInputs')]
    return _WithoutClasses(GuardedDataset(dict(type='mmpl.UnlabelledFolder', data_root=str(folder), pipeline=steps)))


def _with_pipeline(node: Any, steps: list[dict]) -> Any:
    """Config of a data set, however deep it is wrapped, with these transforms."""
    if isinstance(node, Mapping):
        return {name: steps if name == 'pipeline' else _with_pipeline(value, steps) for name, value in node.items()}
    return [_with_pipeline(child, steps) for child in node] if isinstance(node, list | tuple) else node


class _Split:
    """Images of one split: from the place ``start`` on in a random order, at most ``limit``."""

    def __init__(self, dataset: Any, batch_size: int, limit: int, cfg: Config, seed: int, start: int = 0) -> None:
        self.dataset = dataset
        generator = torch.Generator().manual_seed(seed)
        drawn = torch.randperm(len(self.dataset), generator=generator)[start : start + limit]
        self.indices = sorted(drawn.tolist())
        self.loader = DataLoader(Subset(self.dataset, self.indices), batch_size, collate_fn=pseudo_collate)
        self.names = tuple(map(str, (getattr(self.dataset, 'metainfo', None) or {}).get('classes') or ()))
        preprocessor = cfg.model.get('data_preprocessor') or cfg.get('data_preprocessor') or {}
        # mmcv reads BGR unless a transform asks for something else
        self.swap_channels = not preprocessor.get('rgb_to_bgr', False)

    def features(self, model: nn.Module) -> FeatureSet:
        found = extract_features(model, self.loader)
        assert found is not None  # without `dst` every rank gets them
        return found

    def picture(self, index: int) -> Picture:
        """The image at a place among those that were drawn."""
        return to_picture(self.dataset[self.indices[index]], self.names, self.swap_channels)

    def images(self, indices: Sequence[int], model: nn.Module) -> Tensor:
        """Normalised images (B, 3, H, W), as the model gets them."""
        inputs = [_inputs(self.dataset[self.indices[index]]) for index in indices]
        sizes = sorted({tuple(image.shape[-2:]) for image in inputs})
        if len(sizes) > 1:
            raise ValueError(f'the images whose maps are shown must have one size, but have {sizes} (height, width)')
        stacked = torch.stack(inputs)
        device = next(model.parameters()).device
        return model.data_preprocessor(dict(inputs=stacked.to(device), data_samples=None), False)['inputs'].to(device)


# ------------------------------------------------------------------ what a model sees in them


def patch_grid(model: nn.Module, images: Tensor) -> Tensor:
    """Patch features (B, h, w, D) of a ViT or of a backbone that returns a map (B, D, h, w).

    Raises:
        ValueError: If the patches do not form the grid that the images' shape asks for.
    """
    output = model.extract_feat(images)
    tokens = output[-1] if isinstance(output, list | tuple) else output
    if tokens.ndim == 4:
        return tokens.permute(0, 2, 3, 1)
    pool_tokens(tokens, 'avg', 1)  # refuses any other shape than (B, L, D)
    tokens = tokens[:, int(getattr(model.backbone, 'num_extra_tokens', 1)) :]
    return tokens.unflatten(1, _rows_and_columns(tokens.shape[1], images))


def _rows_and_columns(count: int, images: Tensor) -> tuple[int, int]:
    """The grid of so many patches over images (B, C, H, W)."""
    height, width = images.shape[-2:]
    for patch in range(math.ceil((height * width / count) ** 0.5), max(height, width) + 1):  # the last ones are padded
        rows, columns = math.ceil(height / patch), math.ceil(width / patch)
        if rows * columns == count:
            return rows, columns
    raise ValueError(f'{count} patch tokens do not form a grid over images of {height} x {width}')


def pca_maps(model: nn.Module, images: Tensor) -> np.ndarray:
    """Colours (B, h, w, 3) in [0, 1] of the patches, see :func:`pca_rgb`."""
    with evaluation_mode(model):
        grid = patch_grid(model, images).float().cpu()
    return pca_rgb(grid.flatten(1, 2)).unflatten(1, grid.shape[1:3]).numpy()


def class_attention(model: nn.Module, images: Tensor) -> np.ndarray | str:
    """How much the class token attends to each patch in the last block, (B, h, w), or the reason why there is no such.

    Mean over the heads of softmax(q k^T / sqrt(d)); what the class token attends to itself is missing from a sum of 1.
    """
    layers = getattr(model.backbone, 'layers', None)
    attention: Any = getattr(layers[-1], 'attn', None) if isinstance(layers, nn.ModuleList) and len(layers) else None
    if getattr(model.backbone, 'cls_token', None) is None:
        return 'Attention maps: the encoder has no class token.'
    if type(attention) is not MultiheadAttention:  # others have biases, windows ...
        return f'Attention maps: not known how to read those of {type(attention).__name__}.'
    seen: list[Tensor] = []
    hook = attention.qkv.register_forward_hook(lambda _, __, output: seen.append(output.float()))
    try:
        with evaluation_mode(model):
            model.extract_feat(images)
    finally:
        hook.remove()
    query, key, _ = seen[-1].unflatten(2, (3, attention.num_heads, attention.head_dims)).unbind(2)  # (B, N, heads, d)
    scores = torch.einsum('bhd,bnhd->bhn', query[:, 0], key) * attention.head_dims**-0.5
    extra = int(getattr(model.backbone, 'num_extra_tokens', 1))
    shares = scores.softmax(-1).mean(1)[:, extra:]
    return shares.unflatten(1, _rows_and_columns(shares.shape[1], images)).cpu().numpy()


def predict_label_maps(model: nn.Module, images: Tensor) -> np.ndarray | str:
    """Prototype indices (B, h, w) of the data tokens, or the reason why there are none."""
    if not hasattr(model, 'predict_labels'):
        return f'Label maps: {type(model).__name__} learns no labels.'
    try:
        with evaluation_mode(model):
            labels = model.predict_labels(images)
    except RuntimeError as error:  # a model that could learn labels, but whose loss weighs them 0
        return f'Label maps: {error}'
    except ValueError:
        if len(images) > 1:
            raise
        return 'Label maps: labels of this run compare images with each other, and there is only one.'
    return labels['data'].cpu().numpy() if 'data' in labels else 'Label maps: this run labels no data tokens.'


def _find_neighbours(
    model: nn.Module, train: _Split, val: _Split, options: ReportOptions
) -> tuple[list[tuple[Picture, list[Neighbour]]], str, list[int]]:
    """Rows of neighbours, the pooling that they were found by, and the validation images for the maps."""
    bank, queries = train.features(model), val.features(model)
    pool = 'avg'
    if queries.labels[0] != NO_CLASS:
        k = min(20, len(bank))
        scores = {
            name: knn_accuracy(bank.features[name], bank.labels, queries.features[name], queries.labels, k=k)[k]
            for name in bank.features
        }
        pool = max(scores, key=lambda name: scores[name])
    shown = spread_over_classes(queries.labels, max(options.queries, options.maps))
    chosen = shown[: options.queries]
    count = min(options.neighbours, len(bank))
    values, indices = nearest_neighbours(queries.features[pool][chosen], bank.features[pool], count)
    rows = []
    for query, similarities, found in zip(chosen, values.tolist(), indices.tolist(), strict=True):
        neighbours = [
            Neighbour(
                train.picture(index),
                value,
                None if queries.labels[query] == NO_CLASS else bool(bank.labels[index] == queries.labels[query]),
            )
            for value, index in zip(similarities, found, strict=True)
        ]
        rows.append((val.picture(query), neighbours))
    return rows, pool, shown[: options.maps]


def _splits(cfg: Config, options: ReportOptions, model: nn.Module) -> tuple[_Split, _Split]:
    """Images to search and to ask for: of the run's probe, or, of a run without labels, of its training set."""
    hooks = [str(hook.get('type', '')) for hook in cfg.get('custom_hooks') or [] if isinstance(hook, Mapping)]
    if not any('FeatureProbeHook' in kind for kind in hooks) and 'train_dataloader' in cfg:
        dataset = _training_images(cfg, model)
        asked = min(max(options.queries, options.maps), len(dataset) // 2)
        val = _Split(dataset, 64, asked, cfg, options.seed)
        return _Split(dataset, 64, options.max_train_images, cfg, options.seed, start=asked), val
    probe = find_probe(cfg)
    train, val = (
        _Split(DATASETS.build(loader['dataset']), int(loader.get('batch_size', 64)), limit, cfg, options.seed)
        for loader, limit in (
            (probe['train_dataloader'], options.max_train_images),
            (probe['val_dataloader'], options.max_val_images),
        )
    )
    train.names = val.names = val.names or train.names
    return train, val


def _add_pictures(
    data: ReportData,
    cfg: Config,
    model: nn.Module,
    splits: tuple[_Split, _Split],
    options: ReportOptions,
    device: str,
    maps_of: str | Path | None,
) -> None:
    """Neighbours, label maps, components and attention of a trained model."""
    train, val = splits
    data.neighbours, pool, shown = _find_neighbours(model, train, val, options)
    data.summary += [
        ('parameters of the encoder', f'{sum(p.numel() for p in model.backbone.parameters()) / 1e6:.2f} M'),
        ('training images searched', f'{len(train.indices):,} of {len(train.dataset):,}'),
        ('features compared', POOL_NAMES.get(pool, pool)),
    ]
    pictures = [val.picture(index) for index in shown]
    images = val.images(shown, model)
    labels = predict_label_maps(model, images)
    if isinstance(labels, str):
        data.notes.append(labels)
    else:
        data.label_maps = list(zip(pictures, labels, strict=True))
    if maps_of is not None:
        scenes = _Split(_images_of_folder(cfg, maps_of), 64, options.maps, cfg, options.seed)
        shown = list(range(len(scenes.indices)))
        pictures, images = [scenes.picture(index) for index in shown], scenes.images(shown, model)
    untrained = _build_model(cfg, options.seed, initialised=True).to(device)
    maps = zip(pca_maps(model, images), pca_maps(untrained, images), strict=True)
    given = any_loads_weights(cfg.model.get('backbone')) or loads_weights(cfg.model.get('init_cfg'))
    start = 'given weights' if given else 'random init'
    coloured = [{'trained': trained, start: initial} for trained, initial in maps]
    data.pca = list(zip(pictures, coloured, strict=True))
    attended = class_attention(model, images)
    if isinstance(attended, str):
        data.notes.append(attended)
    else:
        shares = zip(attended, class_attention(untrained, images), strict=True)
        data.attention = [(picture, {'trained': a, start: b}) for picture, (a, b) in zip(pictures, shares, strict=True)]


# ------------------------------------------------------------------ the whole


def _find_checkpoint(work_dir: Path, given: str | Path | None, cfg: Config, notes: list[str]) -> Path | None:
    if given is not None:
        if not Path(given).is_file():
            raise FileNotFoundError(f'checkpoint {str(given)!r} does not exist')
        return Path(given)
    saved = (cfg.get('default_hooks') or {}).get('checkpoint') or {}
    found, passed_over = find_whole_checkpoint(checkpoint_folder(work_dir, saved.get('out_dir')))
    notes += [f'Checkpoint {text.removeprefix(f"{work_dir}/")}' for text in passed_over]
    if found is None:
        notes.append('Pictures: there is no whole checkpoint (epoch_*.pth, iter_*.pth) in the work directory.')
        return None
    return Path(found)


def _results(work_dir: Path, scalars: Scalars) -> list[ResultRow]:
    file = work_dir / 'results.json'
    if file.is_file():
        return read_results(file)
    rows = []
    for name, index in (('this run', -1), ('before training', 0)):
        scores: dict[str, tuple[float, ...]] = {}
        for metric in ('knn', 'linear'):
            points = scalars.series.get(f'probe/{metric}_top1', [])
            if points and (points[index][0] == 0) == (index == 0):  # one from before training is no result of it
                scores[metric] = (points[index][1],)
        if scores:
            rows.append(ResultRow(name, scores))
    return rows


def collect_report(
    work_dir: str | Path,
    config: str | Path | None = None,
    checkpoint: str | Path | None = None,
    options: ReportOptions | None = None,
    device: str = 'cpu',
    maps_of: str | Path | None = None,
) -> ReportData:
    """Gather everything that a work directory has to show.

    Args:
        work_dir: Directory of a pre-training run.
        config: Its config; by default the one mmengine left there.
        checkpoint: By default the last whole one there. Without any, curves only.
        options: How much to show.
        device: Where to compute features.
        maps_of: Folder of the images whose components and attention are shown, all of one size, which may be larger
            than the encoder's; by default images of the probe's validation set, or of a training set without labels.
            Labels are shown of the latter in any case: standardised place by place, they mean nothing at other sizes.

    Returns:
        The report's content; ``notes`` says what is missing and why.

    Raises:
        FileNotFoundError: If the work directory, the config, the given checkpoint or ``maps_of`` does not exist.
        ValueError: If a log, the config or ``results.json`` is wrong, or this machine has no such device.
        CheckpointMismatchError: If the checkpoint is not one of the config's model.
    """
    options = options or ReportOptions()
    check_device('device', device)
    work_dir = Path(work_dir)
    if not work_dir.is_dir():
        raise FileNotFoundError(f'work_dir {str(work_dir)!r} does not exist')
    if maps_of is not None and not Path(maps_of).is_dir():
        raise FileNotFoundError(f'maps_of {str(maps_of)!r} is not a folder')
    config_file = Path(config) if config is not None else find_config(work_dir)
    cfg = read_config(config_file)
    loop = cfg.get('train_cfg') or {}
    scalars = read_scalars(work_dir, by_epoch=not loop.get('max_iters'))
    method = str(getattr(cfg.model.type, '__name__', cfg.model.type)).split('.')[-1]
    data = ReportData(f'{method} pre-training: {config_file.stem}', scalars=scalars)
    data.results = _results(work_dir, scalars)
    data.summary = [('config', config_file.name), ('method', method)]
    for unit, done, total in (
        ('epochs', scalars.epochs, loop.get('max_epochs')),
        ('iterations', scalars.iterations, loop.get('max_iters')),
    ):
        if done and (total or unit == 'epochs'):
            data.summary.append((unit, f'{done:,} of {total:,}' if total else f'{done:,}'))
    encoder = cfg.model.get('backbone') or {}
    if encoder.get('img_size') and encoder.get('patch_size'):
        data.summary.append(('image / patch', f'{encoder["img_size"]} / {encoder["patch_size"]} px'))
    if not scalars.series:
        data.notes.append('Curves: there is no log (*/vis_data/*.json) in the work directory.')

    file = _find_checkpoint(work_dir, checkpoint, cfg, data.notes)
    if file is not None:
        data.summary.append(('checkpoint', file.name))
    try:
        model = _build_model(cfg, options.seed)
    except Exception as error:  # whatever the config's own code does
        reason = str(error).strip().partition('\n')[0]
        data.notes.append(
            f'Pictures, and charts of schedules and of health: the model cannot be built: '
            f'{type(error).__name__}: {reason}'
        )
        return data
    data.figures, data.losses = getattr(model, 'figures', {}), getattr(model, 'LOSSES', {})
    if file is None:
        return data
    try:
        splits = _splits(cfg, options, model)
    except NO_PICTURES as error:
        data.notes.append(f'Pictures: {error}')
        return data
    _load_all(model, file)
    try:
        _add_pictures(data, cfg, model.to(device), splits, options, device, maps_of)
    except NO_PICTURES as error:
        data.notes.append(f'Pictures end here: {error}')
    return data


@safe_loading()
def build_report(
    work_dir: str | Path,
    config: str | Path | None = None,
    checkpoint: str | Path | None = None,
    out: str | Path | None = None,
    options: ReportOptions | None = None,
    device: str = 'cpu',
    maps_of: str | Path | None = None,
) -> tuple[Path, Path]:
    """Gather and draw: :func:`collect_report`, then :func:`render_report`.

    ``out`` is ``report.html`` in the work directory by default.
    """
    out = check_page(out if out is not None else Path(work_dir) / 'report.html')  # before minutes of work
    return render_report(collect_report(work_dir, config, checkpoint, options, device, maps_of), out)
