"""The one reader of encoders: which ones a checkpoint file holds, and one of them taken out or loaded.

Wherever a model keeps an encoder, its tensors stand under a prefix that ends with ``backbone.``. The student's is
``backbone.`` alone, as in all of OpenMMLab; that of a teacher begins with the attribute of the model that holds it.
"""

import ast
import hashlib
import logging
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import torch
from mmengine.logging import print_log
from torch import Tensor, nn

from .fit import CheckpointMismatchError, check_state_dict, select_prefix, state_dict_prefixes
from .foreign import read_file, translate

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
        layout: Whose names the file uses: mmpretrain's, or those of another library, which were translated.
        left_aside: Keys of another library's file that have no place here, such as a classifier's.
        meta: What the file says of itself: ``epoch``, ``iter``, ``time``, versions.
    """

    path: str
    state_dict: dict[str, Tensor]
    raw_config: str | Mapping[str, Any] | None = None
    layout: str = 'mmpretrain'
    left_aside: tuple[str, ...] = ()
    meta: Mapping[str, Any] = field(default_factory=dict)

    @property
    def is_foreign(self) -> bool:
        """Whether another library wrote it; then the encoder stands under ``backbone.`` whatever the file calls it."""
        return self.layout != 'mmpretrain'

    def origin(self) -> str:
        """One line for the log: whose layout it is, what was mapped, and what was left aside."""
        aside = f'; left aside: {", ".join(self.left_aside[:6])}' if self.left_aside else ''
        more = f' and {len(self.left_aside) - 6} more' if len(self.left_aside) > 6 else ''
        parts = sorted({key.split('.')[0] for key in self.state_dict})
        return f'{self.path}: layout of {self.layout}; mapped: {len(self.state_dict)} tensors of {parts}{aside}{more}'

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
    """Read a checkpoint file: mmengine's, a bare state dict, or public weights of a plain ViT.

    Public weights are MAE's official files, those of timm and of Hugging Face (ViT, ViTMAE, DINOv2 without registers;
    the file or its folder), also as safetensors. They are told by the names that they use, and translated.

    Args:
        path: File, folder of Hugging Face, or URL.
        trust: Whether it may run code; None: only if the process was told so, see :mod:`mmpl.compat.torch_load`.

    Raises:
        FileNotFoundError: If there is no such file.
        CheckpointMismatchError: If it holds no state dict.
        mmpl.compat.UntrustedCheckpointError: If it may run no code and holds more than weights and plain values.
        mmpl.compat.UnreadableCheckpointError: If it is no checkpoint, or a damaged one.
    """
    content, file = read_file(os.fspath(path), trust)
    state = content.get('state_dict', content)
    if isinstance(content.get('model'), Mapping) and 'state_dict' not in content:
        state = content['model']  # MAE's official files
    tensors = isinstance(state, Mapping) and all(isinstance(value, Tensor) for value in state.values())
    if not tensors or not state:
        raise CheckpointMismatchError(f'{os.fspath(path)}: checkpoint holds no `state_dict` of tensors')
    state = _unwrapped(state)
    if foreign := translate(state, os.fspath(path), file):
        return Checkpoint(os.fspath(path), foreign.state_dict, foreign.config, foreign.layout, foreign.left_aside)
    meta = content.get('meta')
    meta = meta if isinstance(meta, Mapping) else {}
    return Checkpoint(os.fspath(path), state, meta.get('cfg'), meta=meta)


def import_weights(
    source: str | os.PathLike | Checkpoint, out: str | os.PathLike, trust: bool | None = None
) -> Checkpoint:
    """Write public weights as a checkpoint that any project of OpenMMLab loads.

    Args:
        source: File, or what was read of it.
        out: The file to write.
        trust: As of :func:`read_checkpoint`.

    Returns:
        What was read; see :func:`read_checkpoint`, also for the errors.

    Raises:
        CheckpointMismatchError: They have OpenMMLab's names already.
    """
    found = source if isinstance(source, Checkpoint) else read_checkpoint(source, trust)
    if not found.is_foreign:
        raise CheckpointMismatchError(f'{found.path}: needs no import, it is no file of MAE, timm or Hugging Face')
    meta = dict(cfg=''.join(f'{name} = {value!r}\n' for name, value in found.config.items()), source=found.origin())
    torch.save(dict(meta=meta, state_dict=found.state_dict), out)
    return found


def _unwrapped(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    while wrapper := next((name for name in _WRAPPERS if all(key.startswith(name) for key in state)), None):
        state = {key.removeprefix(wrapper): value for key, value in state.items()}
    return dict(state)


def fit_channels(weight: Tensor, channels: int, how: Literal['average', 'inflate'] | None) -> Tensor:
    """A patch embedding's weight, (D, C, p, p), for another number of channels.

    An image whose channels are all alike has the same features as before, whichever way. Mean and std of the images are
    left to whoever has other channels.

    Args:
        weight: Of the checkpoint.
        channels: Of the module.
        how: ``'average'``: each channel gets the mean of the checkpoint's, scaled; ``'inflate'``: the checkpoint's in
            turn, those that occur several times divided by how often.

    Raises:
        CheckpointMismatchError: If they differ and nothing is asked for, or fewer cannot be inflated to.
    """
    given = weight.shape[1]
    if given == channels:
        return weight
    if how is None:
        raise CheckpointMismatchError(
            f'{_SIGN_OF_A_VIT} is for {given} channels, the module for {channels}: '
            "`channels='average'` or `'inflate'` of mmpl.StrictPretrained turns one into the other"
        )
    if how == 'average':
        return weight.mean(1, keepdim=True).expand(-1, channels, -1, -1) * (given / channels)
    if channels < given:
        raise CheckpointMismatchError(
            f"`channels='inflate'` cannot turn {given} channels into {channels}: 'average' can"
        )
    index = torch.arange(channels) % given
    return weight[:, index] / torch.bincount(index)[index].view(1, -1, 1, 1)


def load_part(
    module: nn.Module,
    checkpoint: Checkpoint,
    prefix: str | None = None,
    resizable: Iterable[str] = (),
    ignore: Iterable[str] = (),
    channels: Literal['average', 'inflate'] | None = None,
) -> None:
    """Load a module from the part of a checkpoint under a prefix; see :func:`mmpl.checkpoints.fit.check_state_dict`.

    Args:
        module: What is to be loaded.
        checkpoint: What was read of a file.
        prefix: Where in the checkpoint the module's keys are.
        resizable: As there.
        ignore: As there.
        channels: What to make of a patch embedding for another number of channels; see :func:`fit_channels`.

    Raises:
        CheckpointMismatchError: If the keys do not all fit. The module is as it was.
    """
    ignore = tuple(ignore)
    try:
        state = dict(checkpoint.state_dict)
        key, own = f'{prefix or ""}{_SIGN_OF_A_VIT}', module.state_dict().get(_SIGN_OF_A_VIT)
        if own is not None and key in state and state[key].ndim == own.ndim:
            state[key] = fit_channels(state[key], own.shape[1], channels)
        tensors = check_state_dict(module, state, prefix, resizable, ignore)
        if prefix is None or prefix.rstrip('.').endswith('backbone') or not prefix:
            _check_architecture(module, checkpoint)
    except CheckpointMismatchError as error:
        raise CheckpointMismatchError(f'{checkpoint.path}: {error}') from None
    _check_grid(module, checkpoint, prefix)
    module.load_state_dict(tensors, strict=not ignore)


def _check_architecture(module: nn.Module, checkpoint: Checkpoint) -> None:
    """Compare what tensors do not show: heads and a norm's epsilon; a small difference of epsilon is said."""
    backbone = (checkpoint.config.get('model') or {}).get('backbone')
    layers = getattr(module, 'layers', None)
    own = getattr(getattr(layers[0], 'attn', None), 'num_heads', None) if isinstance(layers, nn.ModuleList) else None
    if own is None or not isinstance(backbone, Mapping):
        return
    heads = heads_of(backbone)
    if heads is not None and heads != own:
        raise CheckpointMismatchError(
            f'the encoder in the checkpoint has num_heads={heads}, the module num_heads={own}: every tensor fits, but '
            'the features would be others'
        )
    norm, norms = backbone.get('norm_cfg'), [part for part in module.modules() if isinstance(part, nn.LayerNorm)]
    eps = norm.get('eps') if isinstance(norm, Mapping) else None
    if eps is not None and norms and abs(norms[0].eps - eps) > 1e-5:
        raise CheckpointMismatchError(
            f'the norms of the encoder in the checkpoint have eps {eps:g}, those of the module {norms[0].eps:g}: set '
            f"`norm_cfg=dict(type='LN', eps={eps:g})` of the backbone, or its features are others"
        )
    if eps is not None and norms and norms[0].eps != eps:
        print_log(
            f'{checkpoint.path}: its norms have eps {eps:g}, those of the module {norms[0].eps:g}; set '
            f"`norm_cfg=dict(type='LN', eps={eps:g})` of the backbone for the very same features",
            logger='current',
            level=logging.WARNING,
        )


def heads_of(backbone: Mapping[str, Any]) -> int | None:
    """Attention heads of the config of a ViT, if it says them."""
    arch = backbone.get('arch')
    if isinstance(arch, str):
        from mmpretrain.models import VisionTransformer

        arch = VisionTransformer.arch_zoo.get(arch.lower(), {})
    return arch.get('num_heads') if isinstance(arch, Mapping) else None


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
