"""One page about a pre-training run: gather what there is, then draw it."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from torch import Tensor, nn
from torch.utils.data import DataLoader, Subset

from mmpl.checkpoints.fit import check_state_dict
from mmpl.compat import load_checkpoint, safe_loading
from mmpl.evaluation import extract_features, knn_accuracy
from mmpl.evaluation.features import evaluation_mode, pool_tokens
from mmpl.utils.config_errors import read_config
from mmpl.utils.fields import check_device
from mmpl.utils.seeds import preserve_rng_state

from .data import ReportData, ResultRow, read_results
from .page import render_html
from .pictures import Neighbour, Picture, nearest_neighbours, pca_rgb
from .poster import render_poster
from .scalars import read_scalars


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

    queries: int = 8
    neighbours: int = 6
    maps: int = 12
    max_train_images: int = 5000
    max_val_images: int = 500
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse sizes below 1.

        Raises:
            ValueError: Names the field.
        """
        for name in ('queries', 'neighbours', 'maps', 'max_train_images', 'max_val_images'):
            value = getattr(self, name)
            if not isinstance(value, int) or value < 1:
                raise ValueError(f'{name}={value!r} must be an integer of at least 1')


def render_report(data: ReportData, out: str | Path) -> tuple[Path, Path]:
    """Write the page and, beside it, the same as one picture.

    Args:
        data: What to show.
        out: The HTML file; the picture has the same name and ends with ``.png``.

    Returns:
        The HTML file and the PNG file.

    Raises:
        ValueError: If ``out`` does not end with ``.html``.
    """
    out = Path(out)
    if out.suffix.lower() not in ('.html', '.htm'):
        raise ValueError(f'out={out.name!r} must end with .html')
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(render_html(data), encoding='utf-8')
    return out, render_poster(data, out.with_suffix('.png'))


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


def find_checkpoint(work_dir: str | Path) -> Path | None:
    """The checkpoint that ``last_checkpoint`` names, if it still exists in the work directory; else the newest."""
    work_dir = Path(work_dir)
    pointer = work_dir / 'last_checkpoint'
    if pointer.is_file():
        # by name only: the directory may have been moved since
        path = work_dir / Path(pointer.read_text(encoding='utf-8').strip()).name
        if path.is_file():
            return path
    return max(work_dir.glob('*.pth'), key=lambda path: (path.stat().st_mtime, path.name), default=None)


def find_dataloaders(cfg: Mapping[str, Any]) -> tuple[dict, dict] | None:
    """Training and validation loader of the config's FeatureProbeHook, or None if it has no such hook."""
    for hook in cfg.get('custom_hooks') or []:
        if str(hook.get('type', '')).split('.')[-1] == 'FeatureProbeHook':
            return copy.deepcopy(hook['train_dataloader']), copy.deepcopy(hook['val_dataloader'])
    return None


def _scoped(name: Any) -> str:
    return (name if isinstance(name, str) else getattr(name, '__name__', str(name))).split('.')[-1]


def build_model(cfg: Config) -> nn.Module:
    """Build the model of a config, without loading what its ``init_cfg`` points to."""
    import mmpretrain.models  # noqa: F401  (registers what a config without our models needs)
    from mmengine.registry import MODELS, init_default_scope

    init_default_scope(cfg.get('default_scope') or 'mmpretrain')
    return MODELS.build(cfg.model)


def _subset_loader(config: dict, dataset: Any, indices: Sequence[int]) -> DataLoader:
    from mmengine.dataset import pseudo_collate

    batch_size = int(config.get('batch_size', 64))
    return DataLoader(Subset(dataset, indices), batch_size=batch_size, shuffle=False, collate_fn=pseudo_collate)


def _draw(size: int, limit: int, seed: int) -> list[int]:
    generator = torch.Generator().manual_seed(seed)
    return sorted(torch.randperm(size, generator=generator)[:limit].tolist())


def spread_over_classes(labels: Tensor, count: int) -> list[int]:
    """Indices of up to ``count`` samples that take turns through the classes, in the order of the labels.

    Args:
        labels: (N,) class indices.
        count: How many.

    Returns:
        Indices into ``labels``: one of each class, then a second one of each, and so on.
    """
    seen: dict[int, int] = {}
    keyed = []
    for index, label in enumerate(labels.tolist()):
        keyed.append((seen.get(label, 0), label, index))
        seen[label] = seen.get(label, 0) + 1
    return [index for _, _, index in sorted(keyed)[:count]]


def _class_names(dataset: Any) -> tuple[str, ...] | None:
    names = (getattr(dataset, 'metainfo', None) or {}).get('classes')
    return tuple(map(str, names)) if names else None


def to_picture(item: Mapping[str, Any], names: Sequence[str] | None, swap_channels: bool) -> Picture:
    """What the model was given, as a picture.

    Args:
        item: A sample of the dataset: ``inputs`` (C, H, W), values 0 to 255, and ``data_samples``.
        names: Names of the classes.
        swap_channels: Whether the channels are in BGR order.
    """
    inputs = item['inputs'][0] if isinstance(item['inputs'], list | tuple) else item['inputs']
    if swap_channels and inputs.shape[0] == 3:
        inputs = inputs.flip(0)
    pixels = inputs.float().clamp(0, 255).round().byte().permute(1, 2, 0).numpy()
    if pixels.shape[2] == 1:
        pixels = pixels.repeat(3, axis=2)
    sample = item['data_samples']
    label = int(sample.gt_label)
    name = Path(str(getattr(sample, 'img_path', ''))).name
    return Picture(np.ascontiguousarray(pixels), name, names[label] if names else f'class {label}')


class _Gallery:
    """The images of a run seen through its model."""

    def __init__(self, cfg: Config, model: nn.Module, loaders: tuple[dict, dict], options: ReportOptions) -> None:
        from mmengine.registry import DATASETS

        self.model, self.options = model, options
        self.train, self.val = (DATASETS.build(loader['dataset']) for loader in loaders)
        self.train_indices = _draw(len(self.train), options.max_train_images, options.seed)
        self.val_indices = _draw(len(self.val), options.max_val_images, options.seed)
        self.train_loader = _subset_loader(loaders[0], self.train, self.train_indices)
        self.val_loader = _subset_loader(loaders[1], self.val, self.val_indices)
        preprocessor = cfg.model.get('data_preprocessor') or cfg.get('data_preprocessor') or {}
        # mmcv reads BGR unless a transform asks for something else
        self.swap_channels = not preprocessor.get('rgb_to_bgr', False)
        self.names = _class_names(self.val) or _class_names(self.train)

    def picture(self, dataset: Any, index: int) -> Picture:
        return to_picture(dataset[index], self.names, self.swap_channels)

    def neighbours(self) -> tuple[list[tuple[Picture, list[Neighbour]]], str, list[int]]:
        """Rows of neighbours, the pooling that they were found by, and the validation images for the maps."""
        bank = extract_features(self.model, self.train_loader)
        queries = extract_features(self.model, self.val_loader)
        assert bank is not None and queries is not None  # without `dst` every rank gets them
        k = min(20, len(bank))
        scores = {
            pool: knn_accuracy(bank.features[pool], bank.labels, queries.features[pool], queries.labels, k=k)[k]
            for pool in bank.features
        }
        pool = max(scores, key=lambda name: scores[name])
        shown = spread_over_classes(queries.labels, max(self.options.queries, self.options.maps))
        chosen = shown[: self.options.queries]
        count = min(self.options.neighbours, len(bank))
        values, indices = nearest_neighbours(queries.features[pool][chosen], bank.features[pool], count)
        rows = []
        for row, query in enumerate(chosen):
            found = [
                Neighbour(
                    self.picture(self.train, self.train_indices[index]),
                    float(value),
                    bool(bank.labels[index] == queries.labels[query]),
                )
                for value, index in zip(values[row].tolist(), indices[row].tolist(), strict=True)
            ]
            rows.append((self.picture(self.val, self.val_indices[query]), found))
        return rows, pool, [self.val_indices[index] for index in shown[: self.options.maps]]

    def images(self, indices: Sequence[int]) -> Tensor:
        """Normalised images (B, 3, H, W), as the model gets them."""
        inputs = [self.val[index]['inputs'] for index in indices]
        stacked = torch.stack([item[0] if isinstance(item, list | tuple) else item for item in inputs])
        device = next(self.model.parameters()).device
        data = self.model.data_preprocessor(dict(inputs=stacked.to(device), data_samples=None), False)
        return data['inputs'].to(device)


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
    height, width = images.shape[-2:]
    side = (height * width / tokens.shape[1]) ** 0.5
    rows, columns = round(height / side), round(width / side)
    if rows * columns != tokens.shape[1]:
        raise ValueError(f'{tokens.shape[1]} patch tokens do not form a grid over images of {height} x {width}')
    return tokens.unflatten(1, (rows, columns))


def pca_maps(model: nn.Module, images: Tensor) -> np.ndarray:
    """Colours (B, h, w, 3) in [0, 1] of the patches, see :func:`pca_rgb`."""
    with evaluation_mode(model):
        grid = patch_grid(model, images).float().cpu()
    return pca_rgb(grid.flatten(1, 2)).unflatten(1, grid.shape[1:3]).numpy()


def predict_label_maps(model: nn.Module, images: Tensor) -> np.ndarray | str:
    """Prototype indices (B, h, w) of the data tokens, or the reason why there are none."""
    name = type(model).__name__
    if not hasattr(model, 'predict_labels'):
        return f'Label maps: {name} learns no labels.'
    if getattr(model, 'label_teacher', True) is None:
        return 'Label maps: the labels of this run weigh nothing.'
    with evaluation_mode(model):
        labels = model.predict_labels(images)
    return labels['data'].cpu().numpy() if 'data' in labels else 'Label maps: this run labels no data tokens.'


def _fill_pictures(data: ReportData, cfg: Config, checkpoint: Path, options: ReportOptions, device: str) -> None:
    loaders = find_dataloaders(cfg)
    if loaders is None:
        data.notes.append('Pictures: the config has no FeatureProbeHook, which names the labelled images.')
        return
    with preserve_rng_state():
        torch.manual_seed(options.seed)
        untrained = build_model(cfg)
        untrained.init_weights()
        untrained.to(device)
        model = build_model(cfg)
    loaded = load_checkpoint(checkpoint)
    model.load_state_dict(check_state_dict(model, loaded.get('state_dict', loaded)), strict=True)
    model.to(device)
    gallery = _Gallery(cfg, model, loaders, options)
    data.summary += [
        ('parameters of the encoder', f'{sum(p.numel() for p in model.backbone.parameters()) / 1e6:.2f} M'),
        ('training images searched', f'{len(gallery.train_indices):,} of {len(gallery.train):,}'),
    ]
    data.neighbours, pool, shown = gallery.neighbours()
    data.summary.append(('features compared', {'cls': 'class token', 'avg': 'mean of patch tokens'}.get(pool, pool)))
    pictures = [gallery.picture(gallery.val, index) for index in shown]
    images = gallery.images(shown)
    labels = predict_label_maps(model, images)
    if isinstance(labels, str):
        data.notes.append(labels)
    else:
        data.label_maps = list(zip(pictures, labels, strict=True))
    trained, initial = pca_maps(model, images), pca_maps(untrained, images)
    data.pca = [
        (picture, {'trained': ours, 'random init': theirs})
        for picture, ours, theirs in zip(pictures, trained, initial, strict=True)
    ]


def _results(work_dir: Path, data: ReportData) -> list[ResultRow]:
    file = work_dir / 'results.json'
    if file.is_file():
        return read_results(file)
    rows = []
    for name, index in (('this run', -1), ('before training', 0)):
        scores: dict[str, tuple[float, ...]] = {}
        for metric in ('knn', 'linear'):
            points = data.scalars.series.get(f'probe/{metric}_top1', [])
            if points and (index == -1 or points[0][0] == 0):
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
) -> ReportData:
    """Gather everything that a work directory has to show.

    Args:
        work_dir: Directory of a pre-training run.
        config: Its config; by default the one mmengine left there.
        checkpoint: By default the last one there. Without any, curves only.
        options: How much to show.
        device: Where to compute features.

    Returns:
        The report's content; ``notes`` says what is missing and why.

    Raises:
        FileNotFoundError: If the work directory, the config or the given checkpoint does not exist.
        ValueError: If a log, the config or ``results.json`` is wrong, or this machine has no such device.
        CheckpointMismatchError: If the checkpoint is not one of the config's model.
    """
    check_device('device', device)
    work_dir = Path(work_dir)
    if not work_dir.is_dir():
        raise FileNotFoundError(f'work_dir {str(work_dir)!r} does not exist')
    config_file = Path(config) if config is not None else find_config(work_dir)
    cfg = read_config(config_file)
    scalars = read_scalars(work_dir)
    method = _scoped(cfg.model.type)
    data = ReportData(title=f'{method} pre-training: {config_file.stem}', scalars=scalars)
    data.summary = [('config', config_file.name), ('method', method)]
    total = (cfg.get('train_cfg') or {}).get('max_epochs')
    if scalars.max_epoch:
        data.summary.append(('epochs', f'{scalars.max_epoch} of {total}' if total else str(scalars.max_epoch)))
    img_size, patch_size = (cfg.model.get('backbone') or {}).get('img_size'), cfg.model.backbone.get('patch_size')
    if img_size and patch_size:
        data.summary.append(('image / patch', f'{img_size} / {patch_size} px'))
    if not scalars.series:
        data.notes.append('Curves: there is no log (*/vis_data/*.json) in the work directory.')
    file = Path(checkpoint) if checkpoint is not None else find_checkpoint(work_dir)
    if file is not None and not file.is_file():
        raise FileNotFoundError(f'checkpoint {str(file)!r} does not exist')
    if file is None:
        data.notes.append('Pictures: there is no checkpoint (*.pth) in the work directory.')
    else:
        data.summary.append(('checkpoint', file.name))
        _fill_pictures(data, cfg, file, options or ReportOptions(), device)
    data.results = _results(work_dir, data)
    return data


@safe_loading()
def build_report(
    work_dir: str | Path,
    config: str | Path | None = None,
    checkpoint: str | Path | None = None,
    out: str | Path | None = None,
    options: ReportOptions | None = None,
    device: str = 'cpu',
) -> tuple[Path, Path]:
    """Gather and draw: :func:`collect_report`, then :func:`render_report`.

    ``out`` is ``report.html`` in the work directory by default.
    """
    data = collect_report(work_dir, config, checkpoint, options, device)
    return render_report(data, out if out is not None else Path(work_dir) / 'report.html')
