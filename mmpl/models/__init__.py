"""Parts that methods and transfer share: importing this package registers all of them."""

from mmpl import compat  # noqa: F401  (first: it repairs what the imports below need)

from .assignment import Centering, PseudoLabels, Sinkhorn
from .backbones import DenseViT, MaskedViT
from .codebook import OnlineCodebook
from .heads import AlignHead, PseudoLabelHead, TokenReconHead
from .label_teacher import LabelTeacher
from .masking import Masks, RandomMasking, gather_tokens
from .matching import match_places
from .necks import SimpleFPN, TokenDecoder
from .teacher import EMATeacher, move_teachers
from .teacher_view import TEACHER_INPUTS, TeacherView

__all__ = [
    'TEACHER_INPUTS',
    'AlignHead',
    'Centering',
    'DenseViT',
    'EMATeacher',
    'LabelTeacher',
    'Masks',
    'MaskedViT',
    'OnlineCodebook',
    'PseudoLabelHead',
    'PseudoLabels',
    'RandomMasking',
    'SimpleFPN',
    'Sinkhorn',
    'TeacherView',
    'TokenDecoder',
    'TokenReconHead',
    'gather_tokens',
    'match_places',
    'move_teachers',
]
