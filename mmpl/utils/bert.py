"""BERT of the package transformers, and its tokenizer as text, which can be kept in files and checkpoints."""

import importlib
import json
from pathlib import Path
from typing import Any

PAD = 0
"""Number behind the end of a question: of word pieces as of words."""
_FILES = ('tokenizer.json', 'tokenizer_config.json', 'special_tokens_map.json', 'vocab.txt')


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


def first_line(error: Exception) -> str:
    """What an error of transformers says, without its advice."""
    return f'{type(error).__name__}: {str(error).strip()}'.split('\n')[0]


def read_tokenizer(path: str, field: str) -> str:
    """The tokenizer of a folder or of a name on the Hugging Face Hub, as JSON of the package ``tokenizers``.

    It is the same text for all that cut questions into the same numbers: what files say of padding, of what to cut off
    and of decoding is left out. A text gets a start and an end, also where the files do not say so.

    Args:
        path: Folder as ``save_pretrained`` writes it, or a name such as ``'google-bert/bert-base-uncased'``.
        field: The config's, for messages.

    Raises:
        ImportError: transformers is not installed.
        ValueError: There is no tokenizer, or none of BERT: it lacks a start or an end, or does not mark what is behind
            the end of a text by 0.
    """
    auto = transformers().AutoTokenizer
    try:
        found = auto.from_pretrained(expanded(path), use_fast=True)
    except Exception as error:  # of damaged files nearly anything
        raise ValueError(f'`{field}` {path!r} has no tokenizer that can be read: {first_line(error)}') from error
    if not found.is_fast:
        raise ValueError(f'`{field}` {path!r}: its tokenizer has no form for the package tokenizers')
    if found.pad_token_id != PAD or None in (found.cls_token_id, found.sep_token_id):
        raise ValueError(
            f'`{field}` must have a tokenizer of BERT, with a start, an end and padding of number {PAD}, but {path!r} '
            f'has {type(found).__name__} with {found.cls_token!r}, {found.sep_token!r} and padding {found.pad_token_id}'
        )
    backend = found.backend_tokenizer
    backend.no_truncation()
    backend.no_padding()
    backend.post_processor = tokenizers().processors.BertProcessing(
        (found.sep_token, found.sep_token_id), (found.cls_token, found.cls_token_id)
    )
    content = json.loads(backend.to_str())
    return json.dumps(content | dict(decoder=None), sort_keys=True)


def tokenizer_files(path: str) -> list[Path]:
    """The files that :func:`read_tokenizer` reads in a folder; none for a name on the Hub."""
    folder = Path(path).expanduser()
    return [file for file in map(folder.joinpath, _FILES) if file.is_file()]
