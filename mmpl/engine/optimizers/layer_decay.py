"""Layer-wise learning-rate decay for a Vision Transformer inside any model of mmpretrain, mmseg or mmdet."""

import re
from typing import Any

from mmengine.logging import MMLogger
from mmengine.optim import DefaultOptimWrapperConstructor
from torch import nn

from mmpl.registry import OPTIM_WRAPPER_CONSTRUCTORS

from .param_groups import group_table, merge_groups
from .strict_constructor import check_custom_keys

_LAYER = re.compile(r'layers\.(\d+)\.')
_STEM = re.compile(r'(cls_token|pos_embed|mask_token|patch_embed\..+|pre_norm\..+)$')
_FINAL = re.compile(r'(ln1|ln2|norm)\..+')
_NO_DECAY = re.compile(r'(.*\.)?(cls_token|pos_embed|mask_token|rel_pos[^.]*)$')
_FIELDS = {'layer_decay_rate', 'backbone', 'custom_keys', 'decay_norm_bias'}


def layer_of(name: str, depth: int) -> int | None:
    """Layer of a backbone's parameter, as in MAE's and BEiT's fine-tuning.

    Args:
        name: Name inside of the backbone.
        depth: Number of blocks of the backbone.

    Returns:
        0 for the embeddings, i + 1 for block i, ``depth + 1`` for the final norm; None for an unknown name.
    """
    if _STEM.match(name):
        return 0
    if match := _LAYER.match(name):
        return int(match[1]) + 1
    return depth + 1 if _FINAL.match(name) else None


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class LayerDecayOptimWrapperConstructor(DefaultOptimWrapperConstructor):
    """Give each block of ``model.backbone`` its own learning rate: ``lr * rate ** (depth + 1 - layer)``.

    Layer 0 are the embeddings, layer i + 1 is block i, and layer ``depth + 1``, with the full rate, is the final norm
    and everything outside of the backbone (Clark et al., "ELECTRA", ICLR 2020; as MAE's appendix A.1 uses it). Works
    for mmpretrain's ``VisionTransformer`` and its subclasses, ``mmpl.DenseViT`` among them, in an ``ImageClassifier``,
    an ``EncoderDecoder`` or a detector. No weight decay for norms, biases and other vectors, and for class token,
    position embedding, mask token and relative positions.

    ``paramwise_cfg`` takes:

    - ``layer_decay_rate`` (float): In (0, 1]; required.
    - ``custom_keys`` (dict): ``dict(lr_mult=..., decay_mult=...)`` by substring of the parameter's name, the longest
      one that matches; ``lr_mult`` comes on top of the layer's rate, and ``decay_mult`` replaces the rule above.
    - ``decay_norm_bias`` (bool): Whether norms, biases and other vectors decay as well. Defaults to False.
    - ``backbone`` (str): The backbone's name in the model. Defaults to ``'backbone'``.

    The groups are logged as a table when the optimizer is built.

    Raises:
        ValueError: A field of ``paramwise_cfg`` is unknown or out of range, the model has no such backbone, a
            parameter of the backbone belongs to no layer, or a key of ``custom_keys`` matches no parameter.
    """

    def _validate_cfg(self) -> None:
        super()._validate_cfg()
        unknown = set(self.paramwise_cfg) - _FIELDS
        if unknown:
            raise ValueError(f'paramwise_cfg has unknown fields {sorted(unknown)}; allowed: {sorted(_FIELDS)}')
        rate = self.paramwise_cfg.get('layer_decay_rate')
        if not isinstance(rate, int | float) or not 0 < rate <= 1:
            raise ValueError(f'paramwise_cfg.layer_decay_rate must be in (0, 1], got {rate!r}')
        if self.base_lr is None:
            raise ValueError('optimizer.lr must be set: the layers are scaled from it')
        for key, value in self.paramwise_cfg.get('custom_keys', {}).items():
            if set(value) - {'lr_mult', 'decay_mult'}:
                raise ValueError(
                    f'paramwise_cfg.custom_keys[{key!r}]={value!r}: only lr_mult and decay_mult are allowed'
                )

    def _backbone(self, model: nn.Module) -> tuple[str, nn.Module, int]:
        """Prefix, module and depth of the backbone."""
        name = self.paramwise_cfg.get('backbone', 'backbone')
        try:
            backbone = model.get_submodule(name)
        except AttributeError:
            children = [child for child, _ in model.named_children()]
            raise ValueError(
                f'paramwise_cfg.backbone={name!r} is not a part of {type(model).__name__}; its parts: {children}'
            ) from None
        layers = getattr(backbone, 'layers', None)
        if not isinstance(layers, nn.ModuleList):
            raise ValueError(f'{name!r} is a {type(backbone).__name__}, not a Vision Transformer with `layers`')
        return f'{name}.', backbone, len(layers)

    def add_params(self, params: list[dict], module: nn.Module, prefix: str = '', **kwargs: Any) -> None:
        """Sort the model's trainable parameters into groups of equal layer and equal settings.

        Args:
            params: Groups for the optimizer, filled in place.
            module: The whole model.
            prefix: Unused; mmengine's signature.
            **kwargs: Unused; mmengine's signature.
        """
        custom_keys = self.paramwise_cfg.get('custom_keys', {})
        names = [name for name, _ in module.named_parameters()]
        check_custom_keys(custom_keys, names)
        sorted_keys = sorted(sorted(custom_keys), key=len, reverse=True)
        rate, decay_all = self.paramwise_cfg['layer_decay_rate'], self.paramwise_cfg.get('decay_norm_bias', False)
        start, _, depth = self._backbone(module)

        homeless, frozen = [], []
        single: list[tuple[tuple, dict]] = []
        for name, param in module.named_parameters():
            inside = name.startswith(start)
            layer = layer_of(name[len(start) :], depth) if inside else depth + 1
            if layer is None:
                homeless.append(name)
                continue
            if not param.requires_grad:
                frozen.append((name, param))
                continue
            scale = rate ** (depth + 1 - layer)
            decay_mult = 0.0 if _NO_DECAY.match(name) or (param.ndim <= 1 and not decay_all) else 1.0
            custom: dict = next((custom_keys[key] for key in sorted_keys if key in name), {})
            scale *= custom.get('lr_mult', 1.0)
            decay_mult = custom.get('decay_mult', decay_mult)
            place = 'rest of the model' if not inside else 'embeddings' if layer == 0 else f'block {layer - 1}'
            place = 'final norm' if inside and layer == depth + 1 else place
            key = (layer, not inside, place, scale, decay_mult)
            group = {'params': [param], 'lr': self.base_lr * scale, 'lr_scale': scale, 'layer_id': layer}
            if self.base_wd is not None:
                group['weight_decay'] = self.base_wd * decay_mult
            single.append((key, group))
        if homeless:
            raise ValueError(
                f'these parameters of {start[:-1]!r} belong to no layer that the layer-wise learning-rate decay knows: '
                f'{homeless}'
            )
        groups = merge_groups(single)
        ordered = sorted(groups)
        params.extend(groups[key] for key in ordered)
        rows = [(key[2], groups[key]) for key in ordered]
        title = 'Layer-wise learning-rate decay:'
        MMLogger.get_current_instance().info(group_table(title, rows, self.base_lr, self.base_wd, frozen))
