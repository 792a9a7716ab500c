"""Checkpoints: files that are whole, the encoders in them, and whether they fit."""

from mmpl import compat  # noqa: F401  (first: it makes what mmengine writes loadable)

from .encoders import Checkpoint, import_weights, load_encoder, read_checkpoint
from .strict_pretrained import StrictPretrained

__all__ = ['Checkpoint', 'StrictPretrained', 'import_weights', 'load_encoder', 'read_checkpoint']
