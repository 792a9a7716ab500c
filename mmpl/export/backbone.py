"""Hand over a pre-trained encoder to mmpretrain, timm or Hugging Face.

The encoder of the student or of a teacher is cut out of a checkpoint, renamed for the target library and, unless told
otherwise, compared with the original: on random tensors, where no feature may differ by more than :data:`TOLERANCE`,
and on a picture file that goes through the target library's own preprocessing and through that of the training config,
where none may by more than :data:`PICTURE_TOLERANCE`.

An encoder with layer scale becomes one without that gives the same: the scales are multiplied into the layers.

Libraries other than mmpretrain feed encoders with RGB: of one that was trained on BGR the first layer's channels are
swapped, and so are mean and std.

Only tensors and plain values are read from the checkpoint, unless the process was told to trust it (``--trust``), and
the config text it carries is parsed, never executed.
"""

import importlib
import inspect
import json
import logging
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import mmcv
import numpy as np
import torch
from mmengine.logging import print_log
from PIL import Image
from torch import Tensor, nn

from mmpl.checkpoints.encoders import (  # also makes mmpretrain importable beside transformers 5
    STUDENT,
    heads_of,
    read_checkpoint,
)
from mmpl.checkpoints.layouts import HUGGINGFACE, TIMM, fold_layer_scale, rename
from mmpl.checkpoints.named_code import refuse_code
from mmpl.utils.user_errors import UserError
from mmpl.version import __version__

from .spec import (
    EncoderSpec,
    ExportError,
    Preprocessing,
    Spec,
    SwinSpec,
    dataset_with_pipeline,
    loader_of,
    preprocessing,
    spec_of,
    swin_fields,
)

TOLERANCE = 1e-5
"""Largest absolute difference between features of the same tensors that counts as the same model."""
PICTURE_TOLERANCE = 1e-3
"""The same for features of a picture file: libraries round differently while they normalise it (our choice)."""


class MissingLibraryError(UserError, ImportError):
    """The library to export to is not installed."""


@dataclass(frozen=True)
class ExportResult:
    """What :func:`export_backbone` did."""

    files: tuple[Path, ...]
    spec: Spec
    max_difference: float | None  # largest absolute difference of any feature; None if it was not verified
    from_picture: bool = False  # whether it is that of a picture file through both preprocessings
    channels_swapped: bool = False  # whether the first layer was turned from BGR to RGB


@dataclass(frozen=True)
class _Encoder:
    """What is handed over: float32 tensors by mmpretrain's keys, and where they come from."""

    tensors: dict[str, Tensor]
    spec: Spec
    source: str
    fed: Preprocessing | None  # None: the config does not say
    loader: dict[str, Any] | None  # the transform that reads files; None: the config does not say


def _optional(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise MissingLibraryError(f'this export needs the package {name!r}: pip install {name}') from error


def mmpretrain_config(spec: Spec) -> dict[str, Any]:
    """Config of mmpretrain's backbone that holds the encoder and gives all its tokens, or the maps of its stages."""
    if isinstance(spec, SwinSpec):
        return dict(type='mmpretrain.SwinTransformer', **swin_fields(spec))
    return dict(
        type='mmpretrain.VisionTransformer',
        arch=dict(
            embed_dims=spec.embed_dims,
            num_layers=spec.num_layers,
            num_heads=spec.num_heads,
            feedforward_channels=spec.feedforward_channels,
        ),
        img_size=spec.img_size,
        patch_size=spec.patch_size,
        in_channels=spec.in_channels,
        qkv_bias=spec.qkv_bias,
        norm_cfg=dict(type='LN', eps=spec.norm_eps),
        out_type='raw',
    )


def _build_mmpretrain(spec: Spec, **options: Any) -> Any:
    import mmpretrain.models  # noqa: F401  (registers the backbone)
    from mmengine.registry import MODELS

    model = MODELS.build(dict(mmpretrain_config(spec), **options))
    model.eval()  # no chaining: mmpretrain's backbones return None
    return model


def build_reference(encoder: Mapping[str, Tensor], spec: Spec, config: Mapping[str, Any]) -> nn.Module:
    """The original encoder as the checkpoint's config describes it, with the checkpoint's own keys, all of them used.

    Without such a config it is mmpretrain's backbone of the architecture that the tensors tell.
    """
    import mmpretrain.models  # noqa: F401  (registers the backbones)
    from mmengine.registry import MODELS

    backbone = (config.get('model') or {}).get('backbone') or {}
    if backbone.get('type') is None:
        model, encoder = _build_mmpretrain(spec), fold_layer_scale(encoder)
    else:
        kind = _scoped(str(backbone['type']).removeprefix('mmpretrain.models.'))
        _refuse_code(dict(backbone, type=kind))
        options: dict[str, Any] = dict(out_type='raw') if kind.endswith('.VisionTransformer') else {}
        if (
            isinstance(spec, EncoderSpec) and isinstance(backbone.get('arch'), Mapping) and heads_of(backbone) is None
        ):  # public weights of a width of its own
            options['arch'] = dict(backbone['arch'], num_heads=spec.num_heads)
        model = MODELS.build(dict(backbone, type=kind, init_cfg=None) | options)
        model.eval()
    try:
        model.load_state_dict(dict(encoder), strict=True)
    except RuntimeError as error:
        raise ExportError(f'model.backbone of the config in the checkpoint does not fit its tensors: {error}') from None
    return model


def _write_mmpretrain(encoder: _Encoder, out: Path) -> tuple[Path, ...]:
    model: dict[str, Any] = dict(backbone=mmpretrain_config(encoder.spec))
    if encoder.fed is not None:
        model['data_preprocessor'] = encoder.fed.config
    cfg = f'model = {model!r}\n'
    if encoder.loader is not None:
        cfg += f'train_dataloader = dict(dataset=dict(pipeline=[{encoder.loader!r}]))\n'
    meta: dict[str, Any] = dict(
        source=encoder.source,
        mmpl_version=__version__,
        arch=json.dumps(asdict(encoder.spec)),
        cfg=cfg,
    )
    torch.save(dict(meta=meta, state_dict={f'backbone.{key}': v for key, v in encoder.tensors.items()}), out)
    return (out,)


def _load_mmpretrain(files: tuple[Path, ...], spec: Spec) -> nn.Module:
    model = _build_mmpretrain(spec, init_cfg=dict(type='Pretrained', checkpoint=str(files[0]), prefix='backbone.'))
    model.init_weights()
    return model


def _plain(spec: Spec, to: str) -> EncoderSpec:
    """Refuse what is no ViT."""
    if isinstance(spec, SwinSpec):
        raise ExportError(
            f'to={to!r}: a Swin transformer is exported to mmpretrain only; other libraries order the channels of its '
            'merging otherwise'
        )
    return spec


def _timm_args(spec: EncoderSpec) -> dict[str, Any]:
    """Arguments for ``timm.create_model`` (``model_name`` among them), all of them JSON."""

    def plain(pair: tuple[int, int]) -> int | list[int]:
        return pair[0] if pair[0] == pair[1] else list(pair)

    return dict(
        model_name='vit_base_patch16_224',
        pretrained=False,
        img_size=plain(spec.img_size),
        patch_size=plain(spec.patch_size),
        in_chans=spec.in_channels,
        embed_dim=spec.embed_dims,
        depth=spec.num_layers,
        num_heads=spec.num_heads,
        mlp_ratio=spec.feedforward_channels / spec.embed_dims,
        qkv_bias=spec.qkv_bias,
        num_classes=0,
    )


def _timm_transform(encoder: _Encoder) -> dict[str, Any] | None:
    """Arguments for ``timm.data.create_transform``; None if the config does not say how images were normalised."""
    if encoder.fed is None:
        return None
    return dict(
        input_size=[encoder.spec.in_channels, *encoder.spec.img_size],
        interpolation='bicubic',
        crop_pct=1.0,
        crop_mode='squash',
        **encoder.fed.in_rgb_order(),
    )


def _write_timm(encoder: _Encoder, out: Path) -> tuple[Path, ...]:
    args_file, spec = out.with_suffix('.json'), _plain(encoder.spec, 'timm')
    torch.save(rename(encoder.tensors, TIMM), out)
    content = dict(create_model=_timm_args(spec), norm_eps=spec.norm_eps, transform=_timm_transform(encoder))
    args_file.write_text(json.dumps(content, indent=2) + '\n', encoding='utf-8')
    return out, args_file


def load_timm(weights: str | Path) -> nn.Module:
    """Build the timm model of an exported file and load its weights, all of them.

    The arguments come from the JSON beside the file. In eval mode; ``forward_features`` gives (B, 1 + N, D).
    """
    timm, weights = _optional('timm'), Path(weights)
    content = json.loads(weights.with_suffix('.json').read_text(encoding='utf-8'))
    args = dict(content['create_model'], norm_layer=partial(nn.LayerNorm, eps=content['norm_eps']))
    model = timm.create_model(**args)
    model.load_state_dict(torch.load(weights, map_location='cpu', weights_only=True), strict=True)
    return model.eval()


def _write_huggingface(encoder: _Encoder, out: Path) -> tuple[Path, ...]:
    transformers = _optional('transformers')
    safetensors = _optional('safetensors.torch')
    spec = _plain(encoder.spec, 'huggingface')
    square = spec.img_size[0] == spec.img_size[1] and spec.patch_size[0] == spec.patch_size[1]
    out.mkdir(parents=True, exist_ok=True)
    transformers.ViTConfig(
        architectures=['ViTModel'],
        hidden_size=spec.embed_dims,
        num_hidden_layers=spec.num_layers,
        num_attention_heads=spec.num_heads,
        intermediate_size=spec.feedforward_channels,
        hidden_act='gelu',
        layer_norm_eps=spec.norm_eps,
        image_size=spec.img_size[0] if square else list(spec.img_size),
        patch_size=spec.patch_size[0] if square else list(spec.patch_size),
        num_channels=spec.in_channels,
        qkv_bias=spec.qkv_bias,
        encoder_stride=spec.patch_size[0],
    ).save_pretrained(out)
    files = [out / 'config.json', out / 'model.safetensors']
    safetensors.save_file(rename(encoder.tensors, HUGGINGFACE), files[1], metadata={'format': 'pt'})
    if encoder.fed is not None:
        norm = encoder.fed.in_rgb_order()
        processor = dict(
            image_processor_type='ViTImageProcessor',
            do_resize=True,
            resample=int(Image.Resampling.BICUBIC),
            size=dict(height=spec.img_size[0], width=spec.img_size[1]),
            do_rescale=True,
            rescale_factor=1 / 255,
            do_normalize=True,
            image_mean=norm['mean'],
            image_std=norm['std'],
        )
        files.append(out / 'preprocessor_config.json')
        files[-1].write_text(json.dumps(processor, indent=2) + '\n', encoding='utf-8')
    return tuple(files)


def _load_huggingface(files: tuple[Path, ...], spec: Spec) -> nn.Module:
    transformers = _optional('transformers')
    model, info = transformers.ViTModel.from_pretrained(
        files[0].parent, add_pooling_layer=False, output_loading_info=True
    )
    problems = {name: sorted(info[name]) for name in ('missing_keys', 'unexpected_keys') if info.get(name)}
    if problems:
        raise ExportError(f'transformers {transformers.__version__} does not accept the exported keys: {problems}')
    return model.eval()


def _read_with_mmpretrain(picture: Path, files: tuple[Path, ...]) -> Tensor:
    """As the exported file's own config feeds its encoder."""
    return _fed_as_configured(picture, read_checkpoint(files[0]).config['model']['data_preprocessor'])


def _fed_as_configured(picture: Path, preprocessor: Mapping[str, Any]) -> Tensor:
    """A picture as OpenMMLab loads it, through the data preprocessor of a config, (1, C, H, W)."""
    import mmpretrain.models  # noqa: F401  (registers the preprocessors)
    from mmengine.registry import MODELS

    from_file = torch.from_numpy(mmcv.imread(picture).transpose(2, 0, 1).copy())[None]
    _refuse_code(dict(preprocessor, type=_scoped(preprocessor['type'])))
    built = MODELS.build(dict(preprocessor, type=_scoped(preprocessor['type'])))
    return built(dict(inputs=from_file, data_samples=None), False)['inputs']


def _refuse_code(part: Mapping[str, Any]) -> None:
    try:
        refuse_code(dict(part))
    except KeyError as error:
        raise ExportError(f'{error.args[0]}: import the module that registers it first') from None


def _scoped(kind: str) -> str:
    return kind if '.' in kind else f'mmpretrain.{kind}'


def _read_with_timm(picture: Path, files: tuple[Path, ...]) -> Tensor:
    transform = json.loads(files[1].read_text(encoding='utf-8'))['transform']
    return _optional('timm').data.create_transform(**transform)(Image.open(picture))[None]


def _read_with_huggingface(picture: Path, files: tuple[Path, ...]) -> Tensor:
    processor = _optional('transformers').ViTImageProcessor.from_pretrained(files[0].parent)
    return processor(Image.open(picture), return_tensors='pt')['pixel_values']


@dataclass(frozen=True)
class _Library:
    """A library to export to.

    Attributes:
        write: Writes its files.
        load: Loads them.
        features: Of images, (B, 1 + N, D) or, of a Swin transformer, the last map (B, D, h, w).
        read: A picture file as its own preprocessing, which the exported files describe, feeds it to the model.
    """

    write: Callable[[_Encoder, Path], tuple[Path, ...]]
    load: Callable[[tuple[Path, ...], Spec], nn.Module]
    features: Callable[[Any, Tensor], Tensor]
    read: Callable[[Path, tuple[Path, ...]], Tensor]


LIBRARIES = {
    'mmpretrain': _Library(
        _write_mmpretrain, _load_mmpretrain, lambda model, images: model(images)[0], _read_with_mmpretrain
    ),
    'timm': _Library(
        _write_timm,
        lambda files, spec: load_timm(files[0]),
        lambda model, images: model.forward_features(images),
        _read_with_timm,
    ),
    'huggingface': _Library(
        _write_huggingface,
        _load_huggingface,
        lambda model, images: model(images).last_hidden_state,
        _read_with_huggingface,
    ),
}


def _differ(ours: Tensor, theirs: Tensor, to: str, tolerance: float, of: str, hint: str) -> float:
    """Largest absolute difference of features.

    Raises:
        ExportError: If the shapes differ, a feature is not finite, or the difference exceeds the tolerance.
    """
    if ours.shape != theirs.shape:
        raise ExportError(f'the {to} model gives features of shape {tuple(theirs.shape)}, not {tuple(ours.shape)}')
    difference = (ours - theirs).abs().max().item()
    if not difference <= tolerance:  # also catches NaN
        raise ExportError(
            f'the {to} model gives other features of {of}: largest difference {difference:.3g} > {tolerance:g}; {hint}'
        )
    return difference


@torch.no_grad()
def compare_features(reference: nn.Module, exported: nn.Module, spec: Spec, to: str, swapped: bool) -> float:
    """Largest absolute difference of any token feature, over 4 images drawn from a standard normal distribution.

    Args:
        reference: The original encoder.
        exported: The other library's.
        spec: Their architecture.
        to: The other library.
        swapped: Whether the other one takes the channels in reverse.

    Raises:
        ExportError: If features differ by more than :data:`TOLERANCE`.
    """
    images = torch.randn(4, spec.in_channels, *spec.img_size, generator=torch.Generator().manual_seed(0))
    ours = _tokens(reference, images)
    theirs = LIBRARIES[to].features(exported, images.flip(1) if swapped else images)
    hint = f'check num_heads={spec.num_heads} and norm_eps={spec.norm_eps:g}'
    return _differ(ours, theirs, to, TOLERANCE, 'the same tensors', hint)


@torch.no_grad()
def compare_on_picture(
    reference: nn.Module, fed: Preprocessing, exported: nn.Module, files: tuple[Path, ...], spec: Spec, to: str
) -> float:
    """Largest absolute difference of any token feature of a colour picture that each side reads from a file.

    Raises:
        ExportError: If features differ by more than :data:`PICTURE_TOLERANCE`.
    """
    coarse = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    with tempfile.TemporaryDirectory() as folder:
        picture = Path(folder, 'picture.png')
        Image.fromarray(coarse).resize(spec.img_size[::-1], Image.Resampling.BICUBIC).save(picture)
        ours = _tokens(reference, _fed_as_configured(picture, fed.config))
        theirs = LIBRARIES[to].features(exported, LIBRARIES[to].read(picture, files))
    return _differ(ours, theirs, to, PICTURE_TOLERANCE, 'a picture', 'check mean, std and the order of the channels')


def _tokens(encoder: nn.Module, images: Tensor) -> Tensor:
    """All tokens that an encoder gives, (B, 1 + N, D), or its last map, (B, D, h, w)."""
    unmasked = {'mask': None} if 'mask' in inspect.signature(encoder.forward).parameters else {}
    output = encoder(images, **unmasked)
    return output[-1] if isinstance(output, list | tuple) else output


def _reads_plainly(loader: Mapping[str, Any]) -> bool:
    """Whether pictures of 8 bits are as any library reads them; told without building what a checkpoint names."""
    library, _, kind = str(loader['type']).rpartition('.')
    if library.partition('.')[0] not in ('', 'mmcv', 'mmpl', 'mmpretrain', 'mmcls', 'mmseg', 'mmdet'):
        return False
    if kind == 'LoadImage':
        return not any(loader.get(field) for field in ('scaling', 'bands'))
    return kind == 'LoadImageFromFile'


def _refuse_fine_tuned(config: Mapping[str, Any]) -> None:
    """Refuse what a task has made of an encoder: its windows and maps, and its batches of images and questions."""
    model = config.get('model') or {}
    for part in ('backbone', 'data_preprocessor'):
        kind = str((model.get(part) or {}).get('type', ''))
        if kind.split('.')[-1] in ('DenseViT', 'VQAPreprocessor'):
            raise ExportError(
                f'model.{part} is {kind}, of a model that was fine-tuned for a task: export the checkpoint of '
                'pre-training that it started from'
            )


def export_backbone(
    checkpoint: str | Path,
    out: str | Path,
    source: str = STUDENT,
    to: str = 'mmpretrain',
    num_heads: int | None = None,
    verify: bool = True,
) -> ExportResult:
    """Export one encoder of a checkpoint to another library.

    Args:
        checkpoint: Checkpoint file of any method with a ViT, or with a Swin transformer (to mmpretrain only).
        out: The file to write (for ``'mmpretrain'`` and ``'timm'``, which adds a ``.json`` beside it), or the
            directory (for ``'huggingface'``).
        source: 'student', or the attribute of a teacher of the model that was saved.
        to: One of :data:`LIBRARIES`.
        num_heads: Attention heads, if the checkpoint carries no config that says it.
        verify: Load the result with the target library and compare all features; what fails is deleted again.

    Raises:
        ExportError: If keys are missing or cannot be mapped, the number of heads is unknown, or the features differ.
        CheckpointMismatchError: As the other errors of :func:`mmpl.checkpoints.encoders.read_checkpoint`.
        MissingLibraryError: If the target library is needed and not installed.
    """
    out = Path(out)
    if to not in LIBRARIES:
        raise ExportError(f'to={to!r} is unknown; choose one of {list(LIBRARIES)}')
    if to == 'timm' and out.suffix == '.json':
        raise ExportError(f'out={out.name!r}: the .json beside the weights is for the arguments; name a .pth file')
    found = read_checkpoint(checkpoint)
    _refuse_fine_tuned(found.config)
    tensors = {key: value.detach().float().contiguous() for key, value in found.encoder(source).items()}
    plain = fold_layer_scale(tensors)
    spec = spec_of(plain, found.config, num_heads)
    fed = preprocessing(found.config, spec.in_channels)
    swapped = fed is not None and fed.bgr and to != 'mmpretrain'  # whose own config says the order
    first = 'patch_embed.projection.weight'
    handed = dict(plain, **{first: plain[first].flip(1).contiguous()}) if swapped else plain
    out.parent.mkdir(parents=True, exist_ok=True)
    library = LIBRARIES[to]
    loader = loader_of(found.config) if dataset_with_pipeline(found.config.get('train_dataloader')) else None
    if fed is not None and loader is not None and to != 'mmpretrain' and not _reads_plainly(loader):
        fed = None
        print_log(
            f'{found.path}: in training files were read by {loader}, which {to} does not know: the export does not say '
            'how pictures are fed',
            logger='current',
            level=logging.WARNING,
        )
    files = library.write(_Encoder(handed, spec, source, fed, loader), out)
    difference, from_picture = None, fed is not None and spec.in_channels == 3
    if verify:
        try:
            reference, exported = build_reference(tensors, spec, found.config), library.load(files, spec)
            difference = compare_features(reference, exported, spec, to, swapped)
            if fed is not None and from_picture:
                difference = compare_on_picture(reference, fed, exported, files, spec, to)
        except BaseException:
            for file in files:
                file.unlink()  # a file that was not checked must not be used by mistake
            raise
    return ExportResult(files, spec, difference, verify and from_picture, swapped)
