"""Probe a finished checkpoint, or a random initialisation."""

import copy
import logging
import os
from collections.abc import Mapping
from typing import Any

import torch
from mmengine.config import Config, ConfigDict
from mmengine.device import get_device
from mmengine.logging import MMLogger
from mmengine.registry import MODELS as MMENGINE_MODELS
from mmengine.registry import init_default_scope
from mmengine.runner import set_random_seed
from torch import nn

from mmpl.checkpoints.encoders import STUDENT, Checkpoint, load_encoder
from mmpl.checkpoints.strict_pretrained import loads_weights
from mmpl.compat.torch_load import safe_loading
from mmpl.utils.cfg_options import merge_options
from mmpl.utils.config_errors import read_config

from .dense import DenseProbe
from .features import find_encoder
from .probe import FeatureProbe

_HOOK = 'FeatureProbeHook'
_HOOK_ONLY_OPTIONS = ('type', 'interval', 'by_epoch', 'before_train', 'priority', 'linear')


def find_probe(cfg: Config) -> dict[str, Any]:
    """Options of the one FeatureProbeHook among a config's ``custom_hooks``, as :class:`FeatureProbe` takes them.

    Raises:
        ValueError: If there is none, or more than one.
    """
    hooks = cfg.get('custom_hooks') or []
    found = [hook for hook in hooks if _type_name(hook) == _HOOK]
    if len(found) != 1:
        raise ValueError(
            f'`custom_hooks` must hold exactly one mmpl.{_HOOK}, whose dataloaders say which images to probe, '
            f'but it holds {len(found)}; a config that has one can be given as `probe_config` (--probe-config)'
        )
    options = found[0].to_dict() if isinstance(found[0], ConfigDict) else dict(found[0])
    return {name: copy.deepcopy(value) for name, value in options.items() if name not in _HOOK_ONLY_OPTIONS}


def _type_name(hook: Any) -> str:
    kind = hook.get('type', '') if isinstance(hook, dict) else type(hook)
    return str(kind if isinstance(kind, str) else kind.__name__).split('.')[-1]


def any_loads_weights(cfg: Any) -> bool:
    """Whether a model's config, or any part of it, loads pre-trained weights."""
    if isinstance(cfg, Mapping):
        return loads_weights(cfg.get('init_cfg')) or any(map(any_loads_weights, cfg.values()))
    return isinstance(cfg, list | tuple) and any(map(any_loads_weights, cfg))


def _init_weights(model: nn.Module) -> None:
    """Initialise without mmengine's two lines a parameter, which belong to the log of a training run."""
    logger = MMLogger.get_current_instance()
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        model.init_weights()
    finally:
        logger.setLevel(level)


def build_model(
    cfg: Config,
    checkpoint: str | os.PathLike | Checkpoint | None = None,
    target: str = STUDENT,
    seed: int = 0,
    device: str | torch.device | None = None,
) -> nn.Module:
    """Build a config's model with a checkpoint's encoder, or randomly initialised.

    Args:
        cfg: A pre-training config, or one whose ``model`` is nothing but a ``backbone``, as exports carry it.
        checkpoint: Checkpoint file, or what was read of it; None: random initialisation.
        target: Which encoder to load: 'student', or the attribute of a teacher.
        seed: Seed of the random initialisation.
        device: Where the model goes; None: the default device.

    Returns:
        The model, or the bare backbone, in eval mode.

    Raises:
        CheckpointMismatchError: If the checkpoint holds no such encoder, or its keys do not all fit.
        ValueError: If the model has no such encoder, or a random initialisation is asked for and the config loads
            pre-trained weights.
    """
    if checkpoint is None and any_loads_weights(cfg.model):
        raise ValueError(
            "`model` must not have an `init_cfg` of type 'Pretrained' or 'mmpl.StrictPretrained' "
            'for a random initialisation'
        )
    init_default_scope(cfg.get('default_scope', 'mmpretrain'))
    set_random_seed(seed)
    built = copy.deepcopy(cfg.model)
    if 'type' not in built and 'backbone' in built:
        built = built.backbone
    elif cfg.get('data_preprocessor') is not None:
        built.setdefault('data_preprocessor', copy.deepcopy(cfg.data_preprocessor))  # as mmengine's Runner does
    model = MMENGINE_MODELS.build(built)
    if checkpoint is None:
        _init_weights(model)
    encoder = find_encoder(model, target)
    if checkpoint is not None:
        load_encoder(encoder, checkpoint, target)
    elif target != STUDENT:  # a teacher starts as a copy of its student
        encoder.load_state_dict(find_encoder(model).state_dict())
    model.eval()  # no chaining: mmpretrain's backbones return None
    return model.to(device or get_device())


@safe_loading()
def evaluate_features(
    config: str | os.PathLike | Config,
    checkpoint: str | None = None,
    *,
    probe_config: str | os.PathLike | Config | None = None,
    seed: int = 0,
    linear: bool = False,
    cfg_options: dict | None = None,
    **options: Any,
) -> dict[str, Any]:
    """Probe the frozen features of a checkpoint, or of a random initialisation.

    The images and the defaults of all options come from the ``mmpl.FeatureProbeHook`` among the config's
    ``custom_hooks``. In a distributed process group the features are extracted by all ranks.

    Args:
        config: Pre-training config, mmpl's or that of any of mmpretrain's self-supervised models.
        checkpoint: Checkpoint file; None: random initialisation.
        probe_config: Config that has the FeatureProbeHook; None: ``config``.
        seed: Seed of the random initialisation.
        linear: Also train a linear probe.
        cfg_options: Fields of ``config`` to replace, as ``{'a.b': value}``.
        **options: Options of :class:`FeatureProbe` that override the hook's, unless they are None.

    Returns:
        ``checkpoint``, ``seed`` (None with a checkpoint), the options used and ``results``, accuracies in percent as
        :meth:`FeatureProbe.run` names them; where the hook has ``dense``, also what :class:`DenseProbe` scores, with
        ``patch_`` before the names.

    Raises:
        ValueError: If there is no FeatureProbeHook; further errors as of :class:`FeatureProbe` and :func:`build_model`.
    """
    cfg = _read(config)
    if cfg_options:
        merge_options(cfg, cfg_options)
    given = {name: value for name, value in options.items() if value is not None}
    init_default_scope(cfg.get('default_scope', 'mmpretrain'))
    found = find_probe(cfg if probe_config is None else _read(probe_config))
    dense = found.pop('dense', None)
    probe = FeatureProbe(**found | given, linear=linear)
    model = build_model(cfg, checkpoint, probe.target, seed)
    results = probe.run(model)
    if dense is not None:
        patches = DenseProbe(**dict(target=probe.target) | dense | dict(linear=linear)).run(model)
        results |= {f'patch_{name}': value for name, value in patches.items()}
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
