"""BERT's tokenizer as text: it can be kept in files and checkpoints, and needs no download after it was made."""

import importlib
import json
from pathlib import Path
from typing import Any

PAD = 0
"""Number behind the end of a question: of word pieces as of words (``vocabulary.py``)."""
_FILES = ('tokenizer.json', 'tokenizer_config.json', 'vocab.txt')


def transformers() -> Any:
    """The package; an ImportError says how to install it."""
    return _package('transformers')


def tokenizers() -> Any:
    """The package, which comes with transformers; an ImportError says how to install it."""
    return _package('tokenizers')


def _package(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ImportError(f'BERT needs the package {name!r}: pip install transformers') from error


def expanded(path: str) -> str:
    """A folder's path without ``~``; a name on the Hub as it is."""
    folder = Path(path).expanduser()
    return str(folder) if folder.is_dir() else path


def read_tokenizer(path: str, field: str) -> str:
    """The tokenizer of a folder or of a name on the Hugging Face Hub, as JSON of the package ``tokenizers``.

    Args:
        path: Folder as ``save_pretrained`` writes it, or a name such as ``'bert-base-uncased'``.
        field: The config's, for messages.

    Raises:
        ImportError: transformers is not installed.
        ValueError: There is no tokenizer, or it does not mark what is behind the end of a text by 0, as BERT's do.
    """
    auto = transformers().AutoTokenizer
    try:
        found = auto.from_pretrained(expanded(path), use_fast=True)
    except (OSError, ValueError) as error:
        raise ValueError(f'`{field}` {path!r} has no tokenizer that can be read: {_first_line(error)}') from error
    if not found.is_fast:
        raise ValueError(f'`{field}` {path!r}: its tokenizer has no form for the package tokenizers')
    if found.pad_token_id != PAD:
        raise ValueError(
            f'`{field}` must have a tokenizer of BERT, whose padding is number {PAD}, but {path!r} has '
            f'{type(found).__name__} with padding {found.pad_token_id}'
        )
    backend = found.backend_tokenizer
    backend.no_truncation()
    backend.no_padding()
    return backend.to_str()


def files_as_of(path: str) -> list[list[int]]:
    """Size and time of a folder's files, so that changed ones are noticed; of a name on the Hub nothing."""
    folder = Path(path).expanduser()
    return [[f.stat().st_size, f.stat().st_mtime_ns] for f in map(folder.joinpath, _FILES) if f.is_file()]


def same_pieces(one: str, other: str) -> bool:
    """Whether two tokenizers, as JSON, cut a text into the same numbers; other parts may be written otherwise."""
    a, b = json.loads(one), json.loads(other)
    return all(a[part] == b[part] for part in ('model', 'normalizer', 'pre_tokenizer'))


def _first_line(error: Exception) -> str:
    return str(error).strip().split('\n')[0]
