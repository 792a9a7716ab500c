"""Hand-over of encoders to other libraries."""

from .backbone import ExportResult, export_backbone, load_timm
from .spec import EncoderSpec, ExportError

__all__ = ['EncoderSpec', 'ExportError', 'ExportResult', 'export_backbone', 'load_timm']
