"""Keeps ``mmpretrain.models`` importable next to a newer ``transformers``.

mmpretrain imports its vision-language models whenever pycocotools and transformers >= 4.28 are installed, and those
models use names that later releases of transformers moved and then removed: ``import mmpretrain.models`` dies with
``TypeError: NoneType takes no arguments``, and with it every model of mmpretrain. mmpl needs none of the
vision-language ones.
"""

import importlib
import importlib.util
import sys
from pathlib import Path
from typing import Any

from mmengine.utils import digit_version

_NAME = 'find_pruneable_heads_and_indices'


def _transformers_lacks_name() -> bool:
    """Whether the installed transformers lacks a name that mmpretrain takes from it; transformers is not imported."""
    spec = importlib.util.find_spec('transformers')
    if spec is None or not spec.submodule_search_locations:
        return False
    version = digit_version(importlib.import_module('mmpretrain.version').__version__)
    module = 'pytorch_utils.py' if version >= digit_version('1.3.0') else 'modeling_utils.py'
    source = Path(spec.submodule_search_locations[0], module)
    return not source.is_file() or _NAME not in source.read_text(encoding='utf-8')


def disable_broken_multimodal() -> bool:
    """Switch mmpretrain's vision-language models off where they cannot be imported; whether that was so.

    mmpretrain's own switch is used: each of those models becomes a placeholder that raises ImportError when it is
    built. Nothing happens when ``mmpretrain.models`` is loaded already.
    """
    if 'mmpretrain.models' in sys.modules or not _transformers_lacks_name():
        return False
    dependency: Any = importlib.import_module('mmpretrain.utils.dependency')
    dependency.WITH_MULTIMODAL = False
    return True
