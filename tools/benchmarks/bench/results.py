"""What a result follows from, and files that are whole or not there."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from mmengine.config import Config

from mmpl.checkpoints.files import write_text
from mmpl.evaluation.evaluate import load_state_dict


def write_json(path: Path, content: Any) -> None:
    """Write a file that is whole or not there, and its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps(content, indent=1, sort_keys=True) + '\n')


def fingerprint(contents: Any) -> str:
    """12 hexadecimal digits that change with whatever configs, as they are read, and other plain values say."""
    return hashlib.sha256(json.dumps(contents, sort_keys=True, default=str).encode()).hexdigest()[:12]


def encoder_digest(checkpoint: str | os.PathLike) -> str:
    """SHA-256 of the names and values of the ``backbone.`` tensors of a checkpoint, in hexadecimal digits.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If no key starts with ``backbone.``.
    """
    state = {key: value for key, value in load_state_dict(checkpoint).items() if key.startswith('backbone.')}
    if not state:
        raise ValueError(f'{checkpoint} has no key that starts with `backbone.`: is it a pre-training checkpoint?')
    digest = hashlib.sha256()
    for key in sorted(state):
        value = state[key].contiguous()
        digest.update(f'{key} {tuple(value.shape)} {value.dtype}'.encode())
        digest.update(value.flatten().numpy().tobytes())
    return digest.hexdigest()


def batch_size(cfg: Config) -> int:
    """Images of one iteration."""
    return cfg.train_dataloader.batch_size


def num_masks(cfg: Config) -> int:
    """Masked views that a step makes of one image."""
    return (cfg.model.get('masking') or {}).get('num_masks', 1)
