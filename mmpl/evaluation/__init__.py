"""Evaluation of frozen features: extraction, kNN and linear probing."""

from .evaluate import build_model, evaluate_features
from .extractor import FeatureExtractor, Features
from .features import FeatureSet, extract_features
from .knn import knn_accuracy, knn_predict
from .linear_probe import LinearProbeResult, linear_probe
from .probe import FeatureProbe
from .vqa_metric import VQAMetric

__all__ = [
    'FeatureExtractor',
    'FeatureProbe',
    'FeatureSet',
    'Features',
    'LinearProbeResult',
    'VQAMetric',
    'build_model',
    'evaluate_features',
    'extract_features',
    'knn_accuracy',
    'knn_predict',
    'linear_probe',
]
