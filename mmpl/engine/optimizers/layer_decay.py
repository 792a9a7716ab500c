"""Layer-wise learning-rate decay for a Vision Transformer inside any model of mmpretrain, mmseg or mmdet."""

import re
from typing import Annotated, Any

from torch import nn

from mmpl.registry import OPTIM_WRAPPER_CONSTRUCTORS
from mmpl.utils.fields import Interval, check_field

from .param_groups import CustomKeys, GroupingConstructor, merge_groups

_LAYER = re.compile(r'layers\.(\d+)\.')
_STEM = re.compile(r'(cls_token|pos_embed|mask_token|patch_embed\..+|pre_norm\..+)$')
_FINAL = re.compile(r'(ln1|ln2|norm)\..+')
_NO_DECAY = re.compile(r'(.*\.)?(cls_token|pos_embed|mask_token|rel_pos[^.]*)$')
_BACKBONE = 'backbone.'
_RATE = Annotated[float, Interval(0, 1, open_low=True)]


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
class LayerDecayOptimWrapperConstructor(GroupingConstructor):
    """Give each block of ``model.backbone`` its own learning rate: ``lr * rate ** (depth + 1 - layer)``.

    Layer 0 are the embeddings, layer i + 1 is block i, and layer ``depth + 1``, with the full rate, is the final norm
    and everything outside of the backbone (Clark et al., "ELECTRA", ICLR 2020; as MAE's appendix A.1 uses it). Works
    for mmpretrain's ``VisionTransformer`` and its subclasses, ``mmpl.DenseViT`` among them, in an ``ImageClassifier``,
    an ``EncoderDecoder`` or a detector. No weight decay for norms, biases and other vectors, and for class token,
    position embedding, mask token and relative positions. The groups are logged as a table.

    ``paramwise_cfg`` takes ``layer_decay_rate``, which is required, in (0, 1]; and ``custom_keys``,
    ``dict(lr_mult=..., decay_mult=...)`` by substring of the parameter's name, the longest one that matches.
    ``lr_mult`` comes on top of the layer's rate, and ``decay_mult`` replaces the rule above.
    """

    fields = dict(layer_decay_rate=_RATE, custom_keys=CustomKeys)

    def _validate_cfg(self) -> None:
        super()._validate_cfg()
        check_field('optim_wrapper.paramwise_cfg.layer_decay_rate', self.paramwise_cfg.get('layer_decay_rate'), _RATE)

    def add_params(self, params: list[dict], module: nn.Module, prefix: str = '', **kwargs: Any) -> None:
        """Sort the model's trainable parameters into groups of equal layer and equal settings.

        Args:
            params: Groups for the optimizer, filled in place.
            module: The whole model.
            prefix: Unused; mmengine's signature.
            **kwargs: Unused; mmengine's signature.

        Raises:
            ValueError: The backbone is no Vision Transformer, or has parameters that belong to no layer.
        """
        backbone: Any = getattr(module, 'backbone', None)
        if not isinstance(getattr(backbone, 'layers', None), nn.ModuleList):
            raise ValueError(
                f'the layer-wise learning-rate decay needs a Vision Transformer with `layers` as `backbone` of the '
                f'model, but that of {type(module).__name__} is a {type(backbone).__name__}'
            )
        depth = len(backbone.layers)
        custom_keys = self.paramwise_cfg.get('custom_keys', {})
        longest_first = sorted(sorted(custom_keys), key=len, reverse=True)
        unknown: list[str] = []
        single: list[tuple[tuple, dict]] = []
        for name, param in module.named_parameters():
            outside = not name.startswith(_BACKBONE)
            layer = depth + 1 if outside else layer_of(name.removeprefix(_BACKBONE), depth)
            if layer is None:
                unknown.append(name)
                continue
            if not param.requires_grad:
                continue
            custom: dict = next((custom_keys[key] for key in longest_first if key in name), {})
            scale = self.paramwise_cfg['layer_decay_rate'] ** (depth + 1 - layer) * custom.get('lr_mult', 1.0)
            decays = param.ndim > 1 and not _NO_DECAY.match(name)
            decay_mult = custom.get('decay_mult', 1.0 if decays else 0.0)
            place = 'embeddings' if layer == 0 else 'final norm' if layer == depth + 1 else f'block {layer - 1}'
            place = 'rest of the model' if outside else place
            group = dict(params=[param], lr=self.base_lr * scale, lr_scale=scale, layer_id=layer)
            if self.base_wd is not None:
                group['weight_decay'] = self.base_wd * decay_mult
            single.append(((layer, outside, place, scale, decay_mult), group))
        if unknown:
            raise ValueError(
                'these parameters of the backbone belong to no layer that the layer-wise learning-rate decay knows: '
                f'{unknown}'
            )
        merged = sorted(merge_groups(single).items(), key=lambda entry: entry[0])
        params.extend(group for _, group in merged)
        self.log_table('Layer-wise learning-rate decay:', [(key[2], group) for key, group in merged], module)
