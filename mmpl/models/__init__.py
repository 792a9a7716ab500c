"""Parts that methods and transfer share: importing this package registers all of them."""

from mmpl import compat  # noqa: F401  (first: it repairs what the imports below need)

from .assignment import Centering, PseudoLabels, Sinkhorn
from .backbones import DenseViT, MaskedSwin, MaskedViT
from .codebook import OnlineCodebook
from .heads import AlignHead, CodebookTarget, FeatureTarget, PixelTarget, PseudoLabelHead, TokenReconHead
from .jitter import PhotometricJitter
from .label_teacher import LabelTeacher
from .masking import BlockMasking, Masks, RandomMasking, gather_tokens
from .matching import match_places
from .necks import SimpleFPN, TokenDecoder
from .patch_tokenizer import OnlineTokenizer, PatchTokenizer, RandomTokenizer
from .preprocessor import BandPreprocessor
from .teacher import MomentumSchedule, Teacher
from .teacher_view import TeacherView
from .vqa import VQAClassifier, VQAPreprocessor

__all__ = [
    'AlignHead',
    'BandPreprocessor',
    'BlockMasking',
    'Centering',
    'CodebookTarget',
    'DenseViT',
    'FeatureTarget',
    'LabelTeacher',
    'MaskedSwin',
    'MaskedViT',
    'Masks',
    'MomentumSchedule',
    'OnlineCodebook',
    'OnlineTokenizer',
    'PatchTokenizer',
    'PhotometricJitter',
    'PixelTarget',
    'PseudoLabelHead',
    'PseudoLabels',
    'RandomMasking',
    'RandomTokenizer',
    'SimpleFPN',
    'Sinkhorn',
    'Teacher',
    'TeacherView',
    'TokenDecoder',
    'TokenReconHead',
    'VQAClassifier',
    'VQAPreprocessor',
    'gather_tokens',
    'match_places',
]
