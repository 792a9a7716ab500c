"""Visual question answering: an encoder and a question, and the answer."""

from .classifier import VQAClassifier, VQAPreprocessor

__all__ = ['VQAClassifier', 'VQAPreprocessor']
