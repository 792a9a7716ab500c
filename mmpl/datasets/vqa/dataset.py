"""Questions about images: VQAv2 from its official files."""

import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.dataset import BaseDataset
from mmengine.logging import print_log

from mmpl.registry import DATASETS
from mmpl.utils.fields import Count, FieldTypeError, checked

from .answers import ANSWERS_PER_QUESTION, as_written, normalise_answer, soft_scores
from .files import check_images, check_pairs, find_images, read_annotations, read_questions
from .vocabulary import Vocabulary


@DATASETS.register_module()
class VQADataset(BaseDataset):
    """One question about one image each, in the order of the question file.

    Each sample has, besides ``img_path``: ``question``, ``question_id``, ``image_id``; ``question_ids``, the question's
    numbers (max_length,) int32; ``vocabulary``, the number that tells the vocabulary from others; with annotations
    ``answers``, the ten of them as they are written, ``answer_type`` (``'yes/no'``, ``'number'`` or ``'other'``), and
    of the answers in the vocabulary ``answer_ids`` (10,) int32 and ``answer_scores`` (10,) float32, filled up with
    answers 0 of score 0. A question none of whose answers is in the vocabulary stays: its targets are all 0.

    Args:
        data_root: The other paths are relative to it.
        question_file: ``v2_OpenEnded_mscoco_<split>_questions.json``.
        ann_file: ``v2_mscoco_<split>_annotations.json``; empty for questions without answers, as of the test splits.
        data_prefix: ``dict(img_path=...)``, folder of images whose names end in the twelve digits of their number.
        vocabulary: Of words and answers, ``dict(type='mmpl.VQAVocabulary', ...)``; the model needs the same.
        max_length: Numbers of a question, the start included; longer ones are cut off.
        **kwargs: Of mmengine's ``BaseDataset``, such as ``pipeline`` and ``indices``.

    Raises:
        FileNotFoundError: A file, the folder, or an image that a question names is missing.
        ValueError: A file is none of VQAv2, or the two do not belong together; the message names file and id.
    """

    @checked()
    def __init__(
        self,
        data_root: str = '',
        question_file: str = '',
        ann_file: str = '',
        data_prefix: dict = dict(img_path=''),  # noqa: B006
        vocabulary: Mapping | Vocabulary | None = None,
        max_length: Count = 50,
        **kwargs: Any,
    ) -> None:
        if not question_file:
            raise ValueError(f'`question_file` must be a JSON file of VQAv2, but got {question_file!r}')
        self.question_file = str(Path(data_root).expanduser() / question_file)
        self.max_length = max_length
        self.vocabulary = build_vocabulary(vocabulary)
        super().__init__(
            ann_file=ann_file, data_root=str(Path(data_root).expanduser()), data_prefix=data_prefix, **kwargs
        )

    def load_data_list(self) -> list[dict]:
        """Read, pair and check the files; one dict a question."""
        question_file, folder = Path(self.question_file), Path(self.data_prefix['img_path'])
        questions = read_questions(question_file)
        annotations = {}
        if self.ann_file:
            annotations = read_annotations(Path(self.ann_file))
            check_pairs(questions, annotations, question_file, Path(self.ann_file))
            self._warn_of_texts(annotations.values())
        images = find_images(folder)
        check_images(questions, images, folder, question_file)
        samples = []
        for key, question in questions.items():
            sample = dict(
                img_path=images[question['image_id']],
                image_id=question['image_id'],
                question_id=key,
                question=question['question'],
                question_ids=self.vocabulary.encode(question['question'], self.max_length),
                vocabulary=self.vocabulary.digest,
            )
            if annotations:
                sample |= self._answers(annotations[key])
            samples.append(sample)
        return samples

    def _warn_of_texts(self, annotations: Iterable[Mapping[str, Any]]) -> None:
        """Tell of answers that nothing learned here can match: the official rule compares unanimous ones as written."""
        lost = [
            (annotation['question_id'], texts.pop())
            for annotation in annotations
            if len(texts := {as_written(answer['answer']) for answer in annotation['answers']}) == 1
            and texts != {normalise_answer(text) for text in texts}
        ]
        if lost:
            key, text = lost[0]
            print_log(
                f'`ann_file` {self.ann_file!r}: all people gave the same answer to {len(lost)} questions in a form '
                f'that the vocabulary does not hold, such as {text!r} of question_id {key}. The official accuracy '
                f'compares these as they are written, so that {normalise_answer(text)!r} counts as wrong; in files of '
                'your own write answers so',
                'current',
                logging.WARNING,
            )

    def _answers(self, annotation: Mapping[str, Any]) -> dict[str, Any]:
        """What a sample has with annotations."""
        given = [as_written(answer['answer']) for answer in annotation['answers']]
        answers = [normalise_answer(answer) for answer in given]
        ids, scores = np.zeros(ANSWERS_PER_QUESTION, np.int32), np.zeros(ANSWERS_PER_QUESTION, np.float32)
        found = ((self.vocabulary.answer_id(answer), score) for answer, score in soft_scores(answers).items())
        for place, (number, score) in enumerate((n, s) for n, s in found if n is not None):
            ids[place], scores[place] = number, score
        return dict(answers=given, answer_type=annotation['answer_type'], answer_ids=ids, answer_scores=scores)


def build_vocabulary(vocabulary: Mapping | Vocabulary | None) -> Vocabulary:
    """The vocabulary that a config describes, or one that is there already."""
    made = DATASETS.build(dict(vocabulary)) if isinstance(vocabulary, Mapping) else vocabulary
    if not isinstance(made, Vocabulary):
        raise FieldTypeError(
            f"`vocabulary` must be a dict such as dict(type='mmpl.VQAVocabulary', ...), but got {vocabulary!r}"
        )
    return made
