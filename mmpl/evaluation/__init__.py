"""Evaluation of frozen features: extraction, kNN and linear probing."""

from .dense import DenseProbe
from .evaluate import build_model, evaluate_features
from .extractor import FeatureExtractor, Features
from .features import FeatureSet, extract_features, extract_patches
from .knn import knn_accuracy, knn_predict
from .linear_probe import LinearProbeResult, linear_probe
from .probe import FeatureProbe
from .vqa_metric import VQAMetric

__all__ = [
    'DenseProbe',
    'FeatureExtractor',
    'FeatureProbe',
    'FeatureSet',
    'Features',
    'LinearProbeResult',
    'VQAMetric',
    'build_model',
    'evaluate_features',
    'extract_features',
    'extract_patches',
    'knn_accuracy',
    'knn_predict',
    'linear_probe',
]
