"""Hand over a pre-trained encoder to mmpretrain, timm or Hugging Face.

The encoder of the student or of one of the teachers is cut out of a PL-MAE or
MSA checkpoint, renamed for the target library and, unless told otherwise,
run side by side with the original on random images: the hand-over fails if
any feature differs by more than :data:`TOLERANCE`.

Only tensors and plain values are read from the checkpoint, unless the process
was told to trust it (``--trust``), and the config text it carries is parsed,
never executed.
"""

import ast
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mmpl.compat import load_checkpoint  # also makes mmpretrain importable beside transformers 5
from mmpl.utils.user_errors import UserError
from mmpl.version import __version__

SOURCES = {
    'student': 'backbone.',
    'label_teacher': 'label_teacher.backbone.',
    'recon_teacher': 'recon_teacher.backbone.',
    'align_teacher': 'align_teacher.backbone.',
}
"""Which encoder of a checkpoint -> the prefix of its keys."""

TARGETS = ('mmpretrain', 'timm', 'huggingface')
TOLERANCE = 1e-5
"""Largest absolute difference between features that counts as the same model."""

_TOP_KEYS = {
    'cls_token': 'cls_token',
    'pos_embed': 'pos_embed',
    'patch_embed.projection.weight': 'patch_embed.proj.weight',
    'patch_embed.projection.bias': 'patch_embed.proj.bias',
    'ln1.weight': 'norm.weight',
    'ln1.bias': 'norm.bias',
}
_LAYER_KEYS = {
    'ln1.weight': 'norm1.weight',
    'ln1.bias': 'norm1.bias',
    'attn.qkv.weight': 'attn.qkv.weight',
    'attn.qkv.bias': 'attn.qkv.bias',
    'attn.proj.weight': 'attn.proj.weight',
    'attn.proj.bias': 'attn.proj.bias',
    'ln2.weight': 'norm2.weight',
    'ln2.bias': 'norm2.bias',
    'ffn.layers.0.0.weight': 'mlp.fc1.weight',
    'ffn.layers.0.0.bias': 'mlp.fc1.bias',
    'ffn.layers.1.weight': 'mlp.fc2.weight',
    'ffn.layers.1.bias': 'mlp.fc2.bias',
}
_HF_TOP_KEYS = {
    'cls_token': 'embeddings.cls_token',
    'pos_embed': 'embeddings.position_embeddings',
    'patch_embed.projection.weight': 'embeddings.patch_embeddings.projection.weight',
    'patch_embed.projection.bias': 'embeddings.patch_embeddings.projection.bias',
    'ln1.weight': 'layernorm.weight',
    'ln1.bias': 'layernorm.bias',
}
_HF_LAYER_KEYS = {
    'ln1': 'layernorm_before',
    'attn.proj': 'attention.output.dense',
    'ln2': 'layernorm_after',
    'ffn.layers.0.0': 'intermediate.dense',
    'ffn.layers.1': 'output.dense',
}


class MissingLibraryError(UserError, ImportError):
    """The library to export to is not installed."""


class ExportError(ValueError):
    """A checkpoint cannot be handed over; the message says which field, value and remedy."""


@dataclass(frozen=True)
class EncoderSpec:
    """Architecture of a plain ViT encoder.

    Attributes:
        embed_dims: Width D.
        num_layers: Number of blocks.
        num_heads: Attention heads per block.
        feedforward_channels: Hidden width of the MLP.
        img_size: (height, width) in pixels that the position embedding is for.
        patch_size: (height, width) of a patch in pixels.
        in_channels: Image channels.
        qkv_bias: Whether q, k and v have a bias.
        norm_eps: Epsilon of every LayerNorm.
    """

    embed_dims: int
    num_layers: int
    num_heads: int
    feedforward_channels: int
    img_size: tuple[int, int]
    patch_size: tuple[int, int]
    in_channels: int
    qkv_bias: bool
    norm_eps: float


@dataclass(frozen=True)
class ExportResult:
    """What :func:`export_backbone` did.

    Attributes:
        files: Files written.
        spec: Architecture of the exported encoder.
        max_difference: Largest absolute difference of any feature, or None if it was not verified.
    """

    files: tuple[Path, ...]
    spec: EncoderSpec
    max_difference: float | None


def _literal(node: ast.expr) -> Any:
    """Value of a literal expression, where ``dict(a=1)`` counts as a literal.

    Anything else (a name, an arithmetic expression) becomes None: it is only a
    problem if the exporter needs that very field.
    """
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == 'dict' and not node.args:
        return {keyword.arg: _literal(keyword.value) for keyword in node.keywords if keyword.arg is not None}
    if isinstance(node, ast.Dict):
        return {_literal(k): _literal(v) for k, v in zip(node.keys, node.values, strict=True) if k is not None}
    if isinstance(node, ast.List | ast.Tuple):
        return [_literal(item) for item in node.elts]
    try:
        return ast.literal_eval(node)
    except (ValueError, TypeError, SyntaxError):
        return None


def parse_config_text(text: str) -> dict[str, Any]:
    """Read the top-level literals of a config's text without executing it.

    Args:
        text: What ``mmengine.Config.pretty_text`` gives and checkpoints hold in ``meta['cfg']``.

    Returns:
        Field name -> value, for every top-level ``name = literal`` of the text.

    Raises:
        ExportError: If the text is not Python syntax.
    """
    try:
        tree = ast.parse(text)
    except SyntaxError as error:
        raise ExportError(f"meta['cfg'] of the checkpoint is not a Python config: {error}") from error
    return {
        node.targets[0].id: _literal(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign) and len(node.targets) == 1 and isinstance(node.targets[0], ast.Name)
    }


def _checkpoint_config(checkpoint: Mapping[str, Any]) -> dict[str, Any]:
    meta = checkpoint.get('meta') or {}
    config = meta.get('cfg') if isinstance(meta, Mapping) else None
    if config is None:
        return {}
    if isinstance(config, str):
        return parse_config_text(config)
    return dict(config)


def _backbone_config(config: Mapping[str, Any]) -> dict[str, Any]:
    model = config.get('model')
    backbone = model.get('backbone') if isinstance(model, Mapping) else None
    return dict(backbone) if isinstance(backbone, Mapping) else {}


def encoder_prefixes(state_dict: Mapping[str, Any]) -> list[str]:
    """Prefixes under which the state dict holds a ViT encoder (what stands before ``patch_embed``)."""
    end = 'patch_embed.projection.weight'
    return sorted({key[: -len(end)] for key in state_dict if key.endswith(end)})


def encoder_state_dict(state_dict: Mapping[str, Tensor], source: str = 'student') -> dict[str, Tensor]:
    """Cut one encoder out of a checkpoint's state dict.

    Args:
        state_dict: The checkpoint's ``state_dict``.
        source: One of :data:`SOURCES`.

    Returns:
        Encoder keys without prefix -> float32 tensors on the CPU.

    Raises:
        ExportError: If the source is unknown, or its prefix does not exist in the checkpoint.
    """
    if source not in SOURCES:
        raise ExportError(f'source={source!r} is unknown; choose one of {sorted(SOURCES)}')
    prefix = SOURCES[source]
    encoder = {
        key[len(prefix) :]: value.detach().to('cpu', torch.float32).contiguous()
        for key, value in state_dict.items()
        if key.startswith(prefix)
    }
    if not encoder:
        found = encoder_prefixes(state_dict)
        usable = [name for name, text in SOURCES.items() if text in found]
        raise ExportError(
            f'source={source!r}: the checkpoint has no key under {prefix!r}. '
            f'Prefixes with an encoder: {found or "none"}; usable sources: {usable or "none"}'
        )
    return encoder


def _num_layers(encoder: Mapping[str, Tensor]) -> int:
    indices = {int(key.split('.')[1]) for key in encoder if key.startswith('layers.') and key.split('.')[1].isdigit()}
    return max(indices, default=-1) + 1


def _unsupported(key: str) -> str:
    reasons = {
        'gamma': 'layer scale (layer_scale_init_value > 0)',
        'ffn.w12': 'SwiGLU feed-forward (ffn_type="swiglu_fused")',
        'ffn.w3': 'SwiGLU feed-forward (ffn_type="swiglu_fused")',
        'pre_norm': 'pre_norm=True',
    }
    for part, reason in reasons.items():
        if part in key:
            return reason
    if key.startswith('ln2.'):
        return 'out_type="avg_featmap" (a norm after pooling)'
    return 'not a key of the plain ViT'


def check_encoder_keys(encoder: Mapping[str, Tensor]) -> None:
    """Require exactly the keys of a plain ViT: none missing, none that a target could not hold.

    Raises:
        ExportError: Naming the keys that are missing or that cannot be mapped.
    """
    layers = _num_layers(encoder)
    if layers == 0:
        raise ExportError('the encoder has no key "layers.*": it is not a ViT of mmpretrain')
    known = set(_TOP_KEYS) | {f'layers.{i}.{key}' for i in range(layers) for key in _LAYER_KEYS}
    unmapped = sorted(set(encoder) - known)
    if unmapped:
        reasons = sorted({_unsupported(key) for key in unmapped})
        shown = unmapped[:6]
        raise ExportError(
            f'{len(unmapped)} encoder keys cannot be mapped to a plain ViT: {shown}{" ..." if unmapped[6:] else ""}; '
            f'reason: {"; ".join(reasons)}. Only a plain ViT (GELU MLP, no layer scale) can be exported'
        )
    qkv_biases = {f'layers.{i}.attn.qkv.bias' for i in range(layers)}
    optional = set() if qkv_biases & set(encoder) else qkv_biases
    missing = sorted(known - set(encoder) - optional)
    if missing:
        shown = missing[:6]
        raise ExportError(
            f'{len(missing)} encoder keys are missing: {shown}{" ..." if missing[6:] else ""}; '
            f'the checkpoint is incomplete or was trained without a class token or final norm'
        )


def _pair(value: Any, field: str) -> tuple[int, int]:
    pair = (value, value) if isinstance(value, int) else tuple(value)
    if len(pair) != 2 or not all(isinstance(item, int) and item > 0 for item in pair):
        raise ExportError(f'{field}={value!r} must be a positive integer or two of them')
    return pair[0], pair[1]


def _infer_heads(backbone: Mapping[str, Any], embed_dims: int, num_heads: int | None) -> int:
    if num_heads is None:
        arch = backbone.get('arch')
        if isinstance(arch, str):
            from mmpretrain.models import VisionTransformer

            arch = VisionTransformer.arch_zoo.get(arch.lower(), {})
        num_heads = arch.get('num_heads') if isinstance(arch, Mapping) else None
    if num_heads is None:
        raise ExportError(
            'num_heads cannot be told from the weights, and the config in the checkpoint (meta["cfg"]) names no '
            'model.backbone.arch to read it from: give --num-heads'
        )
    if num_heads < 1 or embed_dims % num_heads:
        raise ExportError(f'num_heads={num_heads} must divide embed_dims={embed_dims}')
    return int(num_heads)


def _infer_img_size(backbone: Mapping[str, Any], patches: int, patch_size: tuple[int, int]) -> tuple[int, int]:
    side = math.isqrt(patches)
    if side * side == patches:
        return side * patch_size[0], side * patch_size[1]
    if backbone.get('img_size') is not None:
        height, width = _pair(backbone['img_size'], 'model.backbone.img_size')
        if (height // patch_size[0]) * (width // patch_size[1]) == patches:
            return height, width
    raise ExportError(
        f'pos_embed has {patches} patch positions, which is not a square grid, and the img_size in the config '
        f'({backbone.get("img_size")!r}) does not explain it'
    )


def infer_spec(
    encoder: Mapping[str, Tensor], config: Mapping[str, Any] | None = None, num_heads: int | None = None
) -> EncoderSpec:
    """Tell the architecture from the shapes; only the number of heads and the norm's epsilon need the config.

    Args:
        encoder: Encoder keys without prefix, as :func:`encoder_state_dict` gives them.
        config: The training config, as :func:`parse_config_text` gives it.
        num_heads: Attention heads; by default read from ``model.backbone.arch`` of the config.

    Raises:
        ExportError: If keys are missing or cannot be mapped, or if ``num_heads`` is known from nowhere.
    """
    check_encoder_keys(encoder)
    backbone = _backbone_config(config or {})
    for layer_cfg in _as_list(backbone.get('layer_cfgs')):
        activation = (layer_cfg.get('act_cfg') or {}).get('type', 'GELU')
        if activation != 'GELU':
            raise ExportError(f'model.backbone.layer_cfgs act_cfg type={activation!r}: only GELU can be exported')
    weight = encoder['patch_embed.projection.weight']
    embed_dims = weight.shape[0]
    patch_size = (weight.shape[2], weight.shape[3])
    norm_cfg = backbone.get('norm_cfg')
    return EncoderSpec(
        embed_dims=embed_dims,
        num_layers=_num_layers(encoder),
        num_heads=_infer_heads(backbone, embed_dims, num_heads),
        feedforward_channels=encoder['layers.0.ffn.layers.0.0.weight'].shape[0],
        img_size=_infer_img_size(backbone, encoder['pos_embed'].shape[1] - 1, patch_size),
        patch_size=patch_size,
        in_channels=weight.shape[1],
        qkv_bias='layers.0.attn.qkv.bias' in encoder,
        # nn.LayerNorm's own default if a norm_cfg without eps was given; mmpretrain's ViT default otherwise
        norm_eps=float(norm_cfg.get('eps', 1e-5)) if isinstance(norm_cfg, Mapping) else 1e-6,
    )


def _as_list(layer_cfgs: Any) -> list[Mapping[str, Any]]:
    items = [layer_cfgs] if isinstance(layer_cfgs, Mapping) else (layer_cfgs or [])
    return [item for item in items if isinstance(item, Mapping)]


def to_timm(encoder: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename an encoder's keys for ``timm.models.vision_transformer.VisionTransformer``."""
    renamed = {}
    for key, value in encoder.items():
        if key in _TOP_KEYS:
            renamed[_TOP_KEYS[key]] = value
        else:
            _, index, rest = key.split('.', 2)
            renamed[f'blocks.{index}.{_LAYER_KEYS[rest]}'] = value
    return renamed


def to_huggingface(encoder: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename an encoder's keys for ``transformers.ViTModel``, as it stores them on disk.

    The stored names are the same for transformers 4 and 5 (5 renames them while loading).
    """
    renamed = {}
    for key, value in encoder.items():
        if key in _HF_TOP_KEYS:
            renamed[_HF_TOP_KEYS[key]] = value
            continue
        _, index, rest = key.split('.', 2)
        module, kind = rest.rsplit('.', 1)
        if module == 'attn.qkv':
            for name, part in zip(('query', 'key', 'value'), value.chunk(3, dim=0), strict=True):
                renamed[f'encoder.layer.{index}.attention.attention.{name}.{kind}'] = part.contiguous()
        else:
            renamed[f'encoder.layer.{index}.{_HF_LAYER_KEYS[module]}.{kind}'] = value
    return renamed


def mmpretrain_config(spec: EncoderSpec) -> dict[str, Any]:
    """Config of the ``mmpretrain.VisionTransformer`` that holds the encoder and gives all its tokens."""
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


def timm_args(spec: EncoderSpec) -> dict[str, Any]:
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


def _optional(name: str) -> Any:
    import importlib

    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise MissingLibraryError(f'this export needs the package {name!r}: pip install {name}') from error


def build_reference(encoder: Mapping[str, Tensor], spec: EncoderSpec) -> nn.Module:
    """The original encoder: mmpretrain's ``VisionTransformer`` with the checkpoint's own keys, all of them used."""
    import mmpretrain.models  # noqa: F401  (registers the backbone)
    from mmengine.registry import MODELS

    model = MODELS.build(mmpretrain_config(spec))
    model.load_state_dict(dict(encoder), strict=True)
    model.eval()  # no chaining: mmpretrain's backbones return None
    return model


def _load_mmpretrain(path: Path, spec: EncoderSpec) -> nn.Module:
    import mmpretrain.models  # noqa: F401  (registers the backbone)
    from mmengine.registry import MODELS

    init_cfg = dict(type='Pretrained', checkpoint=str(path), prefix='backbone.')
    model = MODELS.build(dict(mmpretrain_config(spec), init_cfg=init_cfg))
    model.init_weights()
    model.eval()  # no chaining: mmpretrain's backbones return None
    return model


def load_timm(weights: str | Path, args_file: str | Path | None = None) -> nn.Module:
    """Build the timm model of an export and load its weights, all of them.

    Args:
        weights: The file that :func:`export_backbone` wrote.
        args_file: Its JSON; by default the file of the same name that ends with ``.json``.

    Returns:
        A ``timm`` VisionTransformer in eval mode whose ``forward_features`` gives (B, 1 + N, D).
    """
    from functools import partial

    timm = _optional('timm')
    weights = Path(weights)
    content = json.loads(Path(args_file or weights.with_suffix('.json')).read_text(encoding='utf-8'))
    args = dict(content['create_model'], norm_layer=partial(nn.LayerNorm, eps=content['norm_eps']))
    model = timm.create_model(**args)
    model.load_state_dict(torch.load(weights, map_location='cpu', weights_only=True), strict=True)
    model.eval()  # no chaining: mmpretrain's backbones return None
    return model


def _features(model: Any, images: Tensor, target: str) -> Tensor:
    if target == 'timm':
        return model.forward_features(images)
    output = model(images)
    return output.last_hidden_state if target == 'huggingface' else output[0]


@torch.no_grad()
def compare_features(reference: nn.Module, exported: nn.Module, spec: EncoderSpec, target: str, seed: int = 0) -> float:
    """Largest absolute difference of any token feature, over 4 random images.

    Args:
        reference: What :func:`build_reference` gives.
        exported: The model of the target library.
        spec: Architecture, which says the images' shape.
        target: One of :data:`TARGETS`.
        seed: Seed of the images, drawn from a standard normal distribution.

    Raises:
        ExportError: If the shapes differ, a feature is not finite, or the difference exceeds :data:`TOLERANCE`.
    """
    images = torch.randn(4, spec.in_channels, *spec.img_size, generator=torch.Generator().manual_seed(seed))
    ours = _features(reference, images, 'mmpretrain')
    theirs = _features(exported, images, target)
    if ours.shape != theirs.shape:
        raise ExportError(f'the {target} model gives features of shape {tuple(theirs.shape)}, not {tuple(ours.shape)}')
    difference = (ours - theirs).abs().max().item()
    if not difference <= TOLERANCE:  # also catches NaN
        raise ExportError(
            f'the {target} model gives other features: largest difference {difference:.3g} > {TOLERANCE:g}; '
            f'check num_heads={spec.num_heads} and norm_eps={spec.norm_eps:g}'
        )
    return difference


def _normalisation(config: Mapping[str, Any]) -> dict[str, list[float]] | None:
    """Mean and std of the training images in units of [0, 1], RGB order, if the config says them."""
    model = config.get('model')
    candidates = [model.get('data_preprocessor') if isinstance(model, Mapping) else None]
    for preprocessor in [*candidates, config.get('data_preprocessor')]:
        if isinstance(preprocessor, Mapping) and preprocessor.get('mean') and preprocessor.get('std'):
            return {name: [float(v) / 255 for v in preprocessor[name]] for name in ('mean', 'std')}
    return None


def _write_mmpretrain(
    encoder: Mapping[str, Tensor], spec: EncoderSpec, out: Path, config: Mapping[str, Any], meta: dict[str, Any]
) -> tuple[Path, ...]:
    state_dict = {f'backbone.{key}': value for key, value in encoder.items()}
    torch.save(dict(meta=meta, state_dict=state_dict), out)
    return (out,)


def _write_timm(
    encoder: Mapping[str, Tensor], spec: EncoderSpec, out: Path, config: Mapping[str, Any], meta: dict[str, Any]
) -> tuple[Path, ...]:
    args_file = out.with_suffix('.json')
    torch.save(to_timm(encoder), out)
    content = dict(create_model=timm_args(spec), norm_eps=spec.norm_eps, normalisation=_normalisation(config))
    args_file.write_text(json.dumps(content, indent=2) + '\n', encoding='utf-8')
    return out, args_file


def _write_huggingface(
    encoder: Mapping[str, Tensor], spec: EncoderSpec, out: Path, config: Mapping[str, Any], meta: dict[str, Any]
) -> tuple[Path, ...]:
    transformers = _optional('transformers')
    safetensors = _optional('safetensors.torch')
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
    weights = out / 'model.safetensors'
    safetensors.save_file(to_huggingface(encoder), weights, metadata={'format': 'pt'})
    files = [out / 'config.json', weights]
    norm = _normalisation(config)
    if norm is not None:
        processor = dict(
            image_processor_type='ViTImageProcessor',
            do_resize=True,
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


_WRITERS = {'mmpretrain': _write_mmpretrain, 'timm': _write_timm, 'huggingface': _write_huggingface}


def _load_exported(files: tuple[Path, ...], spec: EncoderSpec, target: str) -> nn.Module:
    if target == 'mmpretrain':
        return _load_mmpretrain(files[0], spec)
    if target == 'timm':
        return load_timm(files[0], files[1])
    transformers = _optional('transformers')
    model, info = transformers.ViTModel.from_pretrained(
        files[0].parent, add_pooling_layer=False, output_loading_info=True
    )
    problems = {name: sorted(info[name]) for name in ('missing_keys', 'unexpected_keys') if info.get(name)}
    if problems:
        raise ExportError(f'transformers {transformers.__version__} does not accept the exported keys: {problems}')
    model.eval()  # no chaining: mmpretrain's backbones return None
    return model


def export_backbone(
    checkpoint: str | Path,
    out: str | Path,
    source: str = 'student',
    to: str = 'mmpretrain',
    num_heads: int | None = None,
    verify: bool = True,
) -> ExportResult:
    """Export one encoder of a checkpoint to another library.

    Args:
        checkpoint: An mmengine checkpoint file of PL-MAE or MSA (or of any mmpretrain method with a ViT, as MAE).
        out: The file to write (for ``'mmpretrain'`` and ``'timm'``, which adds a ``.json`` beside it), or the
            directory (for ``'huggingface'``).
        source: One of :data:`SOURCES`: ``'student'``, PL-MAE's ``'label_teacher'`` and ``'recon_teacher'``, or MSA's
            ``'align_teacher'``.
        to: One of :data:`TARGETS`.
        num_heads: Attention heads, if the checkpoint carries no config that says it.
        verify: Load the result with the target library and compare all features to :data:`TOLERANCE`; what
            fails is deleted again.

    Returns:
        The files, the architecture and the largest difference found.

    Raises:
        ExportError: If the source or target is unknown or absent, keys are missing or cannot be mapped, the number
            of heads is unknown, or the features differ.
        ImportError: If the target library is needed and not installed.
        FileNotFoundError: If the checkpoint does not exist.
    """
    checkpoint, out = Path(checkpoint), Path(out)
    if to not in TARGETS:
        raise ExportError(f'to={to!r} is unknown; choose one of {list(TARGETS)}')
    if not checkpoint.is_file():
        raise FileNotFoundError(f'checkpoint {str(checkpoint)!r} does not exist')
    if to == 'timm' and out.suffix == '.json':
        raise ExportError(f'out={out.name!r}: the .json beside the weights is for the arguments; name a .pth file')
    content = load_checkpoint(str(checkpoint))
    state_dict = content.get('state_dict') if isinstance(content, Mapping) else None
    if not isinstance(state_dict, Mapping):
        raise ExportError(f'checkpoint {checkpoint.name!r} holds no "state_dict": it is not a checkpoint of mmengine')
    config = _checkpoint_config(content)
    encoder = encoder_state_dict(state_dict, source)
    spec = infer_spec(encoder, config, num_heads)
    out.parent.mkdir(parents=True, exist_ok=True)
    meta: dict[str, Any] = dict(source=source, mmpl_version=__version__, arch=json.dumps(asdict(spec)))
    meta['cfg'] = f'model = dict(backbone={mmpretrain_config(spec)!r})\n'
    files = _WRITERS[to](encoder, spec, out, config, meta)
    difference = None
    if verify:
        try:
            difference = compare_features(build_reference(encoder, spec), _load_exported(files, spec, to), spec, to)
        except ExportError:
            for file in files:
                file.unlink()  # a file that failed its check must not be used by mistake
            raise
    return ExportResult(files, spec, difference)
