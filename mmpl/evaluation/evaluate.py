"""Probe a finished checkpoint, or a random initialisation."""

import copy
import logging
import os
from collections.abc import Sequence
from typing import Any

import torch
from mmengine.config import Config, ConfigDict
from mmengine.device import get_device
from mmengine.logging import MMLogger
from mmengine.registry import MODELS as MMENGINE_MODELS
from mmengine.registry import init_default_scope
from mmengine.runner import set_random_seed
from torch import nn

from mmpl.compat.torch_load import load_checkpoint, safe_loading
from mmpl.utils.config_errors import read_config

from .features import target_module
from .probe import FeatureProbe

_SHOWN = 8
_HOOK = 'FeatureProbeHook'
_HOOK_ONLY_OPTIONS = ('type', 'interval', 'by_epoch', 'before_train', 'priority', 'linear')

__all__ = ['build_model', 'evaluate_features', 'find_probe', 'load_backbone', 'load_state_dict']


def load_state_dict(checkpoint: str | os.PathLike) -> dict[str, torch.Tensor]:
    """Read the weights of a checkpoint without running any code that it may hold.

    Args:
        checkpoint: File written by mmengine (``dict(state_dict=...)``), or a bare state dict.

    Returns:
        The state dict on the CPU, without a DDP wrapper's ``module.`` prefix.

    Raises:
        FileNotFoundError: If there is no such file.
        mmpl.compat.torch_load.UntrustedCheckpointError: If the file holds more than weights and plain values.
        ValueError: If the file holds no state dict.
    """
    content = load_checkpoint(checkpoint)
    state = content.get('state_dict', content)
    if not isinstance(state, dict) or not state or not all(isinstance(v, torch.Tensor) for v in state.values()):
        raise ValueError(f'`checkpoint` must hold a `state_dict` of tensors, but {str(checkpoint)!r} does not')
    if all(key.startswith('module.') for key in state):
        state = {key[len('module.') :]: value for key, value in state.items()}
    return dict(state)


def load_backbone(model: nn.Module, checkpoint: str | os.PathLike, target: str = 'student') -> None:
    """Load the weights of one encoder from a checkpoint; every key must fit.

    Args:
        model: A self-supervised model.
        checkpoint: Checkpoint file.
        target: Which encoder: 'student' (``backbone.``) or a teacher, such as 'label_teacher'
            (``label_teacher.backbone.``); one of :data:`mmpl.evaluation.features.TARGETS`.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If a key of the encoder is missing, unexpected or of another shape; the error lists them.
    """
    _, prefix = target_module(model, target)
    encoder = model.get_submodule(prefix[:-1]) if prefix else model
    state = load_state_dict(checkpoint)
    given = {key[len(prefix) :]: value for key, value in state.items() if key.startswith(prefix)}
    if not given:
        raise ValueError(
            f'`checkpoint` must have keys that start with {prefix!r}, but {str(checkpoint)!r} has only '
            f'{sorted({key.split(".")[0] + "." for key in state})}'
        )
    wanted = encoder.state_dict()
    faults = [f'missing: {prefix}{key}' for key in wanted if key not in given]
    faults += [f'unexpected: {prefix}{key}' for key in given if key not in wanted]
    faults += [
        f'shape: {prefix}{key} is {tuple(given[key].shape)}, the model wants {tuple(value.shape)}'
        for key, value in wanted.items()
        if key in given and given[key].shape != value.shape
    ]
    if faults:
        lines = '\n  '.join(faults[:_SHOWN] + [f'... and {len(faults) - _SHOWN} more'] * (len(faults) > _SHOWN))
        raise ValueError(f'`checkpoint` {str(checkpoint)!r} does not fit the encoder ({len(faults)} keys):\n  {lines}')
    encoder.load_state_dict(given, strict=True)


def find_probe(cfg: Config) -> dict[str, Any]:
    """Find the one FeatureProbeHook among a config's ``custom_hooks``.

    Args:
        cfg: A config.

    Returns:
        Its options, as :class:`FeatureProbe` takes them.

    Raises:
        ValueError: If there is none, or more than one.
    """
    hooks = cfg.get('custom_hooks') or []
    found = [hook for hook in hooks if _type_name(hook) == _HOOK]
    if len(found) != 1:
        raise ValueError(
            f'`custom_hooks` must hold exactly one mmpl.{_HOOK}, whose dataloaders say which images to probe, '
            f'but it holds {len(found)}; a config that has one can be given as `probe_config`'
        )
    options = found[0].to_dict() if isinstance(found[0], ConfigDict) else dict(found[0])
    return {name: copy.deepcopy(value) for name, value in options.items() if name not in _HOOK_ONLY_OPTIONS}


def _type_name(hook: Any) -> str:
    kind = hook.get('type', '') if isinstance(hook, dict) else type(hook)
    return str(kind if isinstance(kind, str) else kind.__name__).split('.')[-1]


def _names_pretrained(cfg: Any) -> bool:
    if isinstance(cfg, dict):
        return cfg.get('type') == 'Pretrained' or any(_names_pretrained(value) for value in cfg.values())
    return isinstance(cfg, list | tuple) and any(_names_pretrained(value) for value in cfg)


def _init_weights(model: nn.Module) -> None:
    """Initialise without mmengine's two lines a parameter, which belong to the log of a training run."""
    logger = MMLogger.get_current_instance()
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        model.init_weights()
    finally:
        logger.setLevel(level)


def build_model(cfg: Config, checkpoint: str | None = None, target: str = 'student', seed: int = 0) -> nn.Module:
    """Build a config's model with a checkpoint's encoder, or randomly initialised.

    Args:
        cfg: A pre-training config.
        checkpoint: Checkpoint file; None: random initialisation.
        target: Which encoder to load.
        seed: Seed of the random initialisation.

    Returns:
        The model in eval mode, on the default device.

    Raises:
        ValueError: If the encoder's keys do not fit, or a random initialisation is asked for and the config loads
            pre-trained weights.
    """
    if checkpoint is None and _names_pretrained(cfg.model):
        raise ValueError("`model` must not have an `init_cfg` of type 'Pretrained' for a random initialisation")
    init_default_scope(cfg.get('default_scope', 'mmpretrain'))
    set_random_seed(seed)
    model = MMENGINE_MODELS.build(copy.deepcopy(cfg.model))
    if checkpoint is None:
        _init_weights(model)
        if target != 'student':  # a teacher starts as a copy of its student
            module, prefix = target_module(model, target)
            module.load_state_dict(model.get_submodule('backbone').state_dict())
    else:
        load_backbone(model, checkpoint, target)
    return model.to(get_device()).eval()


@safe_loading()
def evaluate_features(
    config: str | os.PathLike | Config,
    checkpoint: str | None = None,
    *,
    probe_config: str | os.PathLike | Config | None = None,
    seed: int = 0,
    pool: str | Sequence[str] | None = None,
    k: int | Sequence[int] | None = None,
    temperature: float | None = None,
    linear: bool = False,
    C: float | Sequence[float] | None = None,  # noqa: N803
    target: str | None = None,
    max_train_images: int | None = None,
    cfg_options: dict | None = None,
) -> dict[str, Any]:
    """Probe the frozen features of a checkpoint, or of a random initialisation.

    The images and the defaults of all options come from the ``mmpl.FeatureProbeHook`` among the config's
    ``custom_hooks``. In a distributed process group the features are extracted by all ranks.

    Args:
        config: Pre-training config, PLMAE's or that of any of mmpretrain's self-supervised models.
        checkpoint: Checkpoint file; None: random initialisation.
        probe_config: Config whose ``custom_hooks`` hold the FeatureProbeHook; default: ``config``.
        seed: Seed of the random initialisation.
        pool: Overrides the hook's.
        k: Overrides the hook's.
        temperature: Overrides the hook's.
        linear: Also train a linear probe.
        C: Overrides the hook's.
        target: Overrides the hook's.
        max_train_images: Overrides the hook's.
        cfg_options: Fields of ``config`` to replace, as ``dict(a.b=value)``.

    Returns:
        ``checkpoint``, ``seed`` (None with a checkpoint), the options used and ``results``, accuracies in percent as
        :meth:`FeatureProbe.run` names them.

    Raises:
        FileNotFoundError: If a file is missing.
        ValueError: If there is no FeatureProbeHook, an option is outside its range, or the checkpoint does not fit.
    """
    cfg = _read(config)
    if cfg_options:
        cfg.merge_from_dict(cfg_options)
    options = find_probe(cfg if probe_config is None else _read(probe_config))
    overrides = dict(pool=pool, k=k, temperature=temperature, C=C, target=target, max_train_images=max_train_images)
    options.update({name: value for name, value in overrides.items() if value is not None})
    init_default_scope(cfg.get('default_scope', 'mmpretrain'))
    probe = FeatureProbe(**options, linear=linear)
    model = build_model(cfg, checkpoint, probe.target, seed)
    results = probe.run(model)
    return dict(
        checkpoint=checkpoint,
        seed=seed if checkpoint is None else None,
        target=probe.target,
        pool=list(probe.pools),
        k=probe.ks,
        temperature=probe.temperature,
        linear=probe.linear_options if linear else None,
        max_train_images=probe.max_train_images,
        results=results,
    )


def _read(config: str | os.PathLike | Config) -> Config:
    return copy.deepcopy(config) if isinstance(config, Config) else read_config(config)
