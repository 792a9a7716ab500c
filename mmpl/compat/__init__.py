"""What differs between stacks and machines, made equal.

Importing this package makes checkpoints that mmengine writes loadable by ``torch.load(weights_only=True)`` and keeps
``mmpretrain.models`` importable next to transformers 5. ``mmpl.models`` and ``mmpl.engine`` import it before anything
of mmpretrain, so it is in force wherever an mmpl type is built, whichever project's ``train.py`` runs.
"""

from .launch import init_distributed, shutdown_distributed
from .multimodal import disable_broken_multimodal
from .torch_load import (
    UnreadableCheckpointError,
    UntrustedCheckpointError,
    add_trust_argument,
    allow_mmengine_classes,
    allow_unsafe_load,
    check_checkpoint_path,
    load_checkpoint,
    restored_load_policy,
    safe_loading,
    set_load_policy,
    unsafe_load_allowed,
)

allow_mmengine_classes()
disable_broken_multimodal()

__all__ = [
    'UnreadableCheckpointError',
    'UntrustedCheckpointError',
    'add_trust_argument',
    'allow_mmengine_classes',
    'allow_unsafe_load',
    'check_checkpoint_path',
    'disable_broken_multimodal',
    'init_distributed',
    'load_checkpoint',
    'restored_load_policy',
    'safe_loading',
    'set_load_policy',
    'shutdown_distributed',
    'unsafe_load_allowed',
]
