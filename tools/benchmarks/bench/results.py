"""What a result follows from, and files that are whole or not there."""

import hashlib
import json
import platform
from pathlib import Path
from typing import Any

from mmengine.config import Config

from mmpl.checkpoints.files import write_text


def write_json(path: Path, content: Any) -> None:
    """Write a file that is whole or not there, and its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps(content, indent=1, sort_keys=True) + '\n')


def fingerprint(contents: Any) -> str:
    """12 hexadecimal digits that change with whatever configs, as they are read, and other plain values say."""
    return hashlib.sha256(json.dumps(contents, sort_keys=True, default=str).encode()).hexdigest()[:12]


def processor() -> str:
    """What the processor calls itself, or, where the system does not say, the name of the machine."""
    lines = Path('/proc/cpuinfo').read_text().splitlines() if Path('/proc/cpuinfo').is_file() else []
    told = (line.split(':', 1)[1].strip() for line in lines if line.startswith('model name'))
    return next(told, '') or f'{platform.machine()} of {platform.node()}'


def batch_size(cfg: Config) -> int:
    """Images of one iteration."""
    return cfg.train_dataloader.batch_size


def num_masks(cfg: Config) -> int:
    """Masked views that a step makes of one image."""
    return (cfg.model.get('masking') or {}).get('num_masks', 1)
