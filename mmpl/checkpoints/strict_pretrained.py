"""Initialisation from a checkpoint that must fit."""

from collections.abc import Mapping, Sequence
from typing import Literal

from mmengine.logging import print_log
from mmengine.model.weight_init import update_init_info
from torch import nn

from mmpl.registry import WEIGHT_INITIALIZERS
from mmpl.utils.fields import check_choice

from .encoders import load_part, read_checkpoint


@WEIGHT_INITIALIZERS.register_module()
class StrictPretrained:
    """Load a module from a checkpoint, or refuse: no key may be missing, left over or of another shape.

    mmengine's ``Pretrained`` loads what happens to fit, warns about the rest and leaves it at its random values. Use as
    ``init_cfg=dict(type='mmpl.StrictPretrained', checkpoint='...', prefix='backbone.')``.

    mmengine initialises children *after* every initializer but its own ``Pretrained``; mmpretrain's backbones redraw
    their position embedding unless their ``init_cfg`` says ``Pretrained``. Both would overwrite what was loaded, so the
    module's descendants are marked as initialised and its ``init_cfg`` is rewritten to say so.

    Args:
        checkpoint: Path or URL, of a checkpoint or of public weights.
        prefix: Where the module's keys are in the checkpoint; without a wrapper's, such as DDP's ``module.``. The
            encoder of public weights, whatever they call it, is under ``backbone.``; see
            :func:`mmpl.checkpoints.encoders.read_checkpoint`.
        resizable: Patterns of position embeddings that the module interpolates to its own length.
        ignore: Patterns of keys that may be missing on either side. Such a parameter of the module stays as its
            constructor made it.
        channels: What to make of weights for another number of image channels: ``'average'`` gives each channel the
            mean of the checkpoint's, ``'inflate'`` repeats these in turn; both so that an image whose channels are all
            alike has the same features. None refuses.
        trust: Whether this checkpoint may run code; None: only if the process was told so.

    Raises:
        CheckpointMismatchError: When called, as the other errors of :func:`mmpl.checkpoints.encoders.read_checkpoint`.
    """

    def __init__(
        self,
        checkpoint: str,
        prefix: str | None = None,
        resizable: Sequence[str] = ('pos_embed',),
        ignore: Sequence[str] = (),
        channels: Literal['average', 'inflate'] | None = None,
        trust: bool | None = None,
    ) -> None:
        if channels is not None:
            check_choice('init_cfg.channels', channels, ('average', 'inflate'))
        for field, value in (('resizable', resizable), ('ignore', ignore)):
            if isinstance(value, str):
                raise TypeError(f'`{field}` must be a sequence of patterns, but got the string {value!r}')
        self.checkpoint = checkpoint
        self.prefix = prefix
        self.resizable = tuple(resizable)
        self.ignore = tuple(ignore)
        self.channels = channels
        self.trust = trust

    def __call__(self, module: nn.Module) -> None:
        """Load ``module``, whose ``init_cfg`` names this initializer."""
        init_cfg = getattr(module, 'init_cfg', None)
        if isinstance(init_cfg, list | tuple) and 'StrictPretrained' not in str(init_cfg[-1].get('type')):
            raise ValueError('`mmpl.StrictPretrained` must be the last entry of an init_cfg list: later ones undo it')
        found = read_checkpoint(self.checkpoint, self.trust)
        if found.is_foreign:
            print_log(found.origin(), logger='current')
        prefix = self.prefix or ('backbone.' if found.is_foreign else None)
        load_part(module, found, prefix, self.resizable, self.ignore, self.channels)
        for child in module.modules():
            if child is not module and hasattr(child, 'init_weights'):
                child.is_init = True
        module.init_cfg = dict(type='Pretrained', checkpoint=self.checkpoint, prefix=self.prefix)
        if hasattr(module, '_params_init_info'):
            update_init_info(module, init_info=f'StrictPretrained: load from {self.checkpoint}')


def loads_weights(init_cfg: Mapping | Sequence[Mapping] | None) -> bool:
    """Whether an ``init_cfg`` says ``Pretrained`` or ``StrictPretrained``, so that nothing may be drawn afterwards."""
    cfgs = [init_cfg] if isinstance(init_cfg, Mapping) else init_cfg or []
    return any('Pretrained' in str(cfg.get('type')) for cfg in cfgs)
