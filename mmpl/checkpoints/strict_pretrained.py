"""Initialisation from a checkpoint that must fit."""

from collections.abc import Mapping, Sequence

from mmengine.model.weight_init import update_init_info
from mmengine.runner.checkpoint import load_state_dict
from torch import nn

from mmpl.checkpoints.fit import CheckpointMismatchError, check_state_dict
from mmpl.compat.torch_load import load_checkpoint
from mmpl.registry import WEIGHT_INITIALIZERS


@WEIGHT_INITIALIZERS.register_module()
class StrictPretrained:
    """Load a module from a checkpoint, or refuse: no key may be missing, left over or of another shape.

    mmengine's ``Pretrained`` loads what happens to fit, warns about the rest and leaves it at its random values. Use as
    ``init_cfg=dict(type='mmpl.StrictPretrained', checkpoint='...', prefix='backbone.')``.

    mmengine initialises children *after* every initializer but its own ``Pretrained``; mmpretrain's backbones redraw
    their position embedding unless their ``init_cfg`` says ``Pretrained``. Both would overwrite what was loaded, so the
    module's descendants are marked as initialised and its ``init_cfg`` is rewritten to say so. A checkpoint is loaded
    weights-only and runs no code, unless it is trusted.

    Args:
        checkpoint (str): Path or URL.
        prefix (str, optional): Where the module's keys are in the checkpoint, such as ``'backbone.'``. Defaults to
            None, the top.
        resizable (Sequence[str]): Patterns of position embeddings that the module interpolates to its own length.
            Defaults to ``('pos_embed',)``.
        ignore (Sequence[str]): Patterns of keys that may be missing on either side. Such a parameter of the module
            stays as its constructor made it. Defaults to ``()``.
        trust (bool, optional): Whether the checkpoint may run code, whatever holds for others. Defaults to None: only
            if the process was told so, by ``--trust`` or :func:`mmpl.compat.allow_unsafe_load`.

    Raises:
        CheckpointMismatchError: If the keys do not all fit.
        UntrustedCheckpointError: If the checkpoint may run no code and holds more than weights and plain values.
        FileNotFoundError: If the file does not exist.
    """

    def __init__(
        self,
        checkpoint: str,
        prefix: str | None = None,
        resizable: Sequence[str] = ('pos_embed',),
        ignore: Sequence[str] = (),
        trust: bool | None = None,
    ) -> None:
        for field, value in (('resizable', resizable), ('ignore', ignore)):
            if isinstance(value, str):
                raise TypeError(f'`{field}` must be a sequence of patterns, but got the string {value!r}')
        self.checkpoint = checkpoint
        self.prefix = prefix
        self.resizable = tuple(resizable)
        self.ignore = tuple(ignore)
        self.trust = trust

    def __call__(self, module: nn.Module) -> None:
        """Load ``module``; see the class.

        Args:
            module (nn.Module): Module whose ``init_cfg`` names this initializer.
        """
        init_cfg = getattr(module, 'init_cfg', None)
        if isinstance(init_cfg, list | tuple) and 'StrictPretrained' not in str(init_cfg[-1].get('type')):
            raise ValueError('`mmpl.StrictPretrained` must be the last entry of an init_cfg list: later ones undo it')
        loaded = load_checkpoint(self.checkpoint, trust=self.trust)
        try:
            tensors = check_state_dict(
                module, loaded.get('state_dict', loaded), self.prefix, self.resizable, self.ignore
            )
        except CheckpointMismatchError as error:
            raise CheckpointMismatchError(f'{self.checkpoint}: {error}') from None
        load_state_dict(module, tensors, strict=not self.ignore, logger='current')
        for child in module.modules():
            if child is not module and hasattr(child, 'init_weights'):
                child.is_init = True
        module.init_cfg = dict(type='Pretrained', checkpoint=self.checkpoint, prefix=self.prefix)
        if hasattr(module, '_params_init_info'):
            update_init_info(module, init_info=f'StrictPretrained: load from {self.checkpoint}')


def loads_weights(init_cfg: Mapping | Sequence[Mapping] | None) -> bool:
    """Whether an initialisation loads weights, so that nothing may be drawn behind it.

    Args:
        init_cfg (Mapping | Sequence[Mapping], optional): As of mmengine's ``BaseModule``: one initializer, a list of
            them, or none.

    Returns:
        bool: True if one of them is ``Pretrained`` or :class:`StrictPretrained`.
    """
    cfgs = [init_cfg] if isinstance(init_cfg, Mapping) else init_cfg or []
    return any('Pretrained' in str(cfg.get('type')) for cfg in cfgs)
