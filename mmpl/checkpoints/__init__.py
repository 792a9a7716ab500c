"""Checkpoints: files that are whole, the encoders in them, and whether they fit."""

from mmpl import compat  # noqa: F401  (first: it makes what mmengine writes loadable)

from .encoders import Checkpoint, load_encoder, read_checkpoint
from .strict_pretrained import StrictPretrained

__all__ = ['Checkpoint', 'StrictPretrained', 'load_encoder', 'read_checkpoint']
