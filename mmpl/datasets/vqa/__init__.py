"""Visual question answering: the official files of VQAv2, their answers and words, and easy-vqa in their format."""

from .answers import as_written, leave_one_out, normalise_answer, soft_scores
from .dataset import VQADataset
from .easy import EasyVQADataset, build_easy_vqa, easy_vocabulary
from .vocabulary import Vocabulary, vqa_vocabulary

__all__ = [
    'EasyVQADataset',
    'VQADataset',
    'Vocabulary',
    'build_easy_vqa',
    'easy_vocabulary',
    'leave_one_out',
    'as_written',
    'normalise_answer',
    'soft_scores',
    'vqa_vocabulary',
]
