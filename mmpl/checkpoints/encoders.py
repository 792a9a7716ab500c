"""The one reader of encoders: which ones a checkpoint file holds, and one of them taken out or loaded.

Wherever a model keeps an encoder, its tensors stand under a prefix that ends with ``backbone.``. The student's is
``backbone.`` alone, as in all of OpenMMLab; that of a teacher begins with the attribute of the model that holds it.
"""

import ast
import hashlib
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from mmpl.compat.torch_load import load_checkpoint

from .fit import CheckpointMismatchError, check_state_dict, select_prefix, state_dict_prefixes

STUDENT = 'student'
_WRAPPERS = ('module.', '_orig_mod.')  # of DDP and of torch.compile
_ENCODER = re.compile(r'((.+?)\.)??backbone\.')
_SIGN_OF_A_VIT = 'patch_embed.projection.weight'  # and of a Swin: mmpretrain names them alike


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """What a checkpoint file holds.

    Attributes:
        path: The file, or a URL.
        state_dict: Tensors on the CPU, by key without the prefix of a wrapper such as DDP's ``module.``.
        raw_config: ``meta['cfg']`` as it was saved.
    """

    path: str
    state_dict: dict[str, Tensor]
    raw_config: str | Mapping[str, Any] | None = None

    @cached_property
    def config(self) -> dict[str, Any]:
        """Literals of the training config, which is parsed and never run; empty if the file has none.

        Raises:
            CheckpointMismatchError: If the text is no Python.
        """
        if not isinstance(self.raw_config, str):
            return dict(self.raw_config or {})
        try:
            return parse_config_text(self.raw_config)
        except SyntaxError as error:
            raise CheckpointMismatchError(f"{self.path}: meta['cfg'] is not a Python config: {error}") from error

    @cached_property
    def sources(self) -> dict[str, str]:
        """Encoders in the order of the file: 'student' or the teacher's attribute, to the prefix of the keys.

        A ViT whose keys have no prefix is the student, under ``''``.
        """
        matches = filter(None, map(_ENCODER.match, self.state_dict))
        found = {match[2] or STUDENT: match[0] for match in matches}
        return found or ({STUDENT: ''} if _SIGN_OF_A_VIT in self.state_dict else {})

    def prefix(self, source: str = STUDENT) -> str:
        """Prefix of an encoder's keys.

        Raises:
            CheckpointMismatchError: If the file holds no such encoder; those that it holds are listed.
        """
        if source not in self.sources:
            names = list(self.sources) or state_dict_prefixes(self.state_dict)
            raise CheckpointMismatchError(
                f'{self.path}: checkpoint has no encoder {source!r}. '
                f'Its {"encoders" if self.sources else "prefixes"} are: {", ".join(map(repr, names))}'
            )
        return self.sources[source]

    def encoder(self, source: str = STUDENT) -> dict[str, Tensor]:
        """Tensors of an encoder by key without prefix; errors as of :meth:`prefix`."""
        return select_prefix(self.state_dict, self.prefix(source))

    def grid(self, prefix: str | None) -> tuple[int, int] | None:
        """Rows and columns of patches that a position embedding is of, if the training config tells."""
        prefix = f'{prefix.rstrip(".")}.' if prefix else ''
        positions, patch = (self.state_dict.get(prefix + key) for key in ('pos_embed', _SIGN_OF_A_VIT))
        try:
            size = self.config['model']['backbone']['img_size']
        except (KeyError, TypeError, CheckpointMismatchError):
            return None
        sides = [size, size] if isinstance(size, int) else list(size or ())
        if positions is None or patch is None or positions.ndim != 3 or len(sides) != 2:
            return None
        rows, columns = (-(-side // length) for side, length in zip(sides, patch.shape[-2:], strict=True))
        return (rows, columns) if positions.shape[1] - rows * columns in (0, 1) else None

    def digest(self, source: str = STUDENT) -> str:
        """SHA-256 of an encoder's names, shapes, types and values: the same wherever a file keeps the encoder."""
        digest = hashlib.sha256()
        for key, value in sorted(self.encoder(source).items()):
            value = value.detach().cpu().contiguous()
            digest.update(f'backbone.{key} {tuple(value.shape)} {value.dtype}'.encode())
            digest.update(value.flatten().view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()


def read_checkpoint(path: str | os.PathLike, trust: bool | None = None) -> Checkpoint:
    """Read a checkpoint file: mmengine's, or a bare state dict.

    Args:
        path: File or URL.
        trust: Whether it may run code; None: only if the process was told so, see :mod:`mmpl.compat.torch_load`.

    Raises:
        FileNotFoundError: If there is no such file.
        CheckpointMismatchError: If it holds no state dict.
        mmpl.compat.UntrustedCheckpointError: If it may run no code and holds more than weights and plain values.
        mmpl.compat.UnreadableCheckpointError: If it is no checkpoint, or a damaged one.
    """
    content = load_checkpoint(path, trust=trust)
    state = content.get('state_dict', content)
    tensors = isinstance(state, Mapping) and all(isinstance(value, Tensor) for value in state.values())
    if not tensors or not state:
        raise CheckpointMismatchError(f'{os.fspath(path)}: checkpoint holds no `state_dict` of tensors')
    meta = content.get('meta')
    return Checkpoint(os.fspath(path), _unwrapped(state), meta.get('cfg') if isinstance(meta, Mapping) else None)


def _unwrapped(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    while wrapper := next((name for name in _WRAPPERS if all(key.startswith(name) for key in state)), None):
        state = {key.removeprefix(wrapper): value for key, value in state.items()}
    return dict(state)


def load_part(
    module: nn.Module,
    checkpoint: Checkpoint,
    prefix: str | None = None,
    resizable: Iterable[str] = (),
    ignore: Iterable[str] = (),
) -> None:
    """Load a module from the part of a checkpoint under a prefix; see :func:`mmpl.checkpoints.fit.check_state_dict`.

    Raises:
        CheckpointMismatchError: If the keys do not all fit. The module is as it was.
    """
    ignore = tuple(ignore)
    try:
        tensors = check_state_dict(module, checkpoint.state_dict, prefix, resizable, ignore)
    except CheckpointMismatchError as error:
        raise CheckpointMismatchError(f'{checkpoint.path}: {error}') from None
    _check_grid(module, checkpoint, prefix)
    module.load_state_dict(tensors, strict=not ignore)


def _check_grid(module: nn.Module, checkpoint: Checkpoint, prefix: str | None) -> None:
    """Refuse positions of another grid that would be taken by their number, or as a square that they are not."""
    here, there = getattr(module, 'patch_resolution', None), checkpoint.grid(prefix)
    if here is None or there is None or tuple(here) == there:
        return
    if here[0] * here[1] == there[0] * there[1] or there[0] != there[1]:
        raise CheckpointMismatchError(
            f'{checkpoint.path}: pos_embed is of {there[0]} x {there[1]} patches, those of images of `img_size` '
            f'{checkpoint.config["model"]["backbone"]["img_size"]}, but the module has {here[0]} x {here[1]}: set its '
            '`img_size` to that of the checkpoint. Only squares are interpolated, to another number of patches'
        )


def load_encoder(
    module: nn.Module,
    checkpoint: str | os.PathLike | Checkpoint,
    source: str = STUDENT,
    resizable: Iterable[str] = (),
    ignore: Iterable[str] = (),
) -> None:
    """Load an encoder from a checkpoint; every key must fit.

    Args:
        module: The encoder.
        checkpoint: File, or what was read of it.
        source: Which encoder of the checkpoint: 'student', or the attribute of a teacher.
        resizable: Patterns of position embeddings that the module interpolates to its own length.
        ignore: Patterns of keys that may be missing on either side.

    Raises:
        CheckpointMismatchError: If there is no such encoder, or its keys do not all fit.
        FileNotFoundError: As the other errors of :func:`read_checkpoint`, if a file is given.
    """
    if not isinstance(checkpoint, Checkpoint):
        checkpoint = read_checkpoint(checkpoint)
    load_part(module, checkpoint, checkpoint.prefix(source), resizable, ignore)


def parse_config_text(text: str) -> dict[str, Any]:
    """Values of all top-level ``name = literal`` of a config's text, which is not run.

    What is no literal (a name, a sum) becomes None: that matters only to who needs the very field.

    Args:
        text: What ``mmengine.Config.pretty_text`` gives, and checkpoints hold in ``meta['cfg']``.

    Raises:
        SyntaxError: If the text is no Python.
    """
    return {
        node.targets[0].id: _literal(node.value)
        for node in ast.parse(text).body
        if isinstance(node, ast.Assign) and len(node.targets) == 1 and isinstance(node.targets[0], ast.Name)
    }


def _literal(node: ast.expr) -> Any:
    """Value of a literal; ``dict(a=1)`` counts as one."""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == 'dict' and not node.args:
        return {keyword.arg: _literal(keyword.value) for keyword in node.keywords if keyword.arg is not None}
    if isinstance(node, ast.Dict):
        return {_literal(k): _literal(v) for k, v in zip(node.keys, node.values, strict=True) if k is not None}
    if isinstance(node, ast.List | ast.Tuple):
        return [_literal(item) for item in node.elts]
    try:
        return ast.literal_eval(node)
    except (ValueError, TypeError, SyntaxError):
        return None
