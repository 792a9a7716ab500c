"""Words of questions and answers as numbers, made once from the training files."""

import dataclasses
import functools
import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mmpl.datasets.embedded.build import GENERATOR, build_once
from mmpl.registry import DATASETS
from mmpl.utils.bert import PAD, read_tokenizer, tokenizer_files, tokenizers
from mmpl.utils.fields import Count, FieldTypeError, checked

from .answers import normalise_answer
from .files import read_annotations, read_questions

UNKNOWN, START = 1, 2
"""Numbers of what is no word beside :data:`PAD`: words that are not known, before the first word."""
_NAME = 'vocabulary'  # in messages
_WORD = re.compile(r"\w+(?:'\w+)*")


def split_words(question: str) -> list[str]:
    """The words of a question, in lower case, without punctuation but the apostrophes inside of words."""
    return _WORD.findall(question.lower())


def most_common(items: Iterable[str], min_count: int) -> tuple[str, ...]:
    """What occurs ``min_count`` times or more, the most frequent first, those of equal counts by their letters."""
    counts = Counter(items)
    return tuple(sorted((item for item, n in counts.items() if n >= min_count), key=lambda item: (-counts[item], item)))


@dataclasses.dataclass(frozen=True)
class Vocabulary:
    """Words, or word pieces, and answers that a model knows.

    Attributes:
        words: Word ``i`` has the number ``i + 3``; before them are :data:`PAD`, :data:`UNKNOWN`, :data:`START`. Empty
            with a tokenizer.
        answers: Normalised; an answer's number is its place.
        tokenizer: BERT's, as JSON of the package ``tokenizers``, which then gives the numbers; or None.
    """

    words: tuple[str, ...]
    answers: tuple[str, ...]
    tokenizer: str | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, '_word_ids', {word: i for i, word in enumerate(self.words, START + 1)})
        object.__setattr__(self, '_answer_ids', {answer: i for i, answer in enumerate(self.answers)})

    @property
    def num_words(self) -> int:
        """How many numbers a place of a question may have."""
        return self._pieces.get_vocab_size() if self.tokenizer else len(self.words) + START + 1

    @property
    def num_answers(self) -> int:
        """How many answers there are to choose from."""
        return len(self.answers)

    def encode(self, question: str, length: int) -> np.ndarray:
        """Numbers of a question, (length,) int32: start, words, padding; what does not fit is cut off.

        Word pieces have an end as well, which is never cut off.
        """
        if self.tokenizer:
            if length < 2:  # noqa: PLR2004  (start and end)
                raise ValueError(f'`max_length` must be 2 or more with a `tokenizer`, but got {length}')
            self._pieces.enable_truncation(length)
            ids = self._pieces.encode(question.encode('utf-8', 'replace').decode()).ids  # without half characters
        else:
            ids = [START, *(self._word_ids.get(word, UNKNOWN) for word in split_words(question))][:length]  # type: ignore[attr-defined]
        return np.array(ids + [PAD] * (length - len(ids)), dtype=np.int32)

    @functools.cached_property
    def _pieces(self) -> Any:
        made = tokenizers().Tokenizer.from_str(self.tokenizer)
        made.encode_special_tokens = True  # '[PAD]' in a question is a text
        return made

    @functools.cached_property
    def digest(self) -> int:
        """A number, of 63 bits, that another vocabulary does not have."""
        return int.from_bytes(hashlib.sha256(self.to_json().encode()).digest()[:8]) >> 1

    def answer_id(self, answer: str) -> int | None:
        """Number of a normalised answer, if it has one."""
        return self._answer_ids.get(answer)  # type: ignore[attr-defined]

    def to_json(self) -> str:
        """Text that :meth:`from_json` reads, the same for the same vocabulary."""
        content: dict[str, Any] = dict(words=self.words, answers=self.answers)
        return json.dumps(content | (dict(tokenizer=self.tokenizer) if self.tokenizer else {}), ensure_ascii=True)

    @classmethod
    def from_json(cls, text: str) -> 'Vocabulary':
        """Inverse of :meth:`to_json`."""
        content = json.loads(text)
        return cls(tuple(content['words']), tuple(content['answers']), content.get('tokenizer'))


@DATASETS.register_module(name='VQAVocabulary')
@checked(_NAME)
def vqa_vocabulary(
    data_root: str,
    question_files: Sequence[str],
    ann_files: Sequence[str],
    min_count: Count = 9,
    min_word_count: Count = 2,
    tokenizer: str | None = None,
    folder: str = 'vocabulary',
) -> Vocabulary:
    """The vocabulary of official files, read once and kept in a folder, from which all processes take it.

    ``vocabulary=dict(type='mmpl.VQAVocabulary', ...)`` of model and data sets. A model's checkpoints hold it as well,
    and are refused by a model with another one. Once it is made, the files it was made of may be missing, the
    tokenizer's included.

    Args:
        data_root: The files are relative to it.
        question_files: Of the training split, for the words.
        ann_files: Of training and validation, for the answers.
        min_count: Answers that are the ``multiple_choice_answer`` of fewer questions are left out; 9 is usual for VQAv2
            and leaves some 3,130.
        min_word_count: Words that occur less often are unknown; with 2 there are unknown words to learn from. Not asked
            with a ``tokenizer``.
        tokenizer: Of a BERT that reads the questions: its folder, or its name on the Hugging Face Hub. Questions are
            numbers of its word pieces then.
        folder: Where it is kept, relative to ``data_root``; the name ends in a digest of the other arguments.

    Raises:
        FileNotFoundError: A file is missing.
        ValueError: A file is none of VQAv2; or no answer is frequent enough; or the tokenizer is none of BERT.
    """
    root = Path(data_root).expanduser()
    for field, files in (('question_files', question_files), ('ann_files', ann_files)):
        if isinstance(files, str) or not files:
            raise FieldTypeError(f'`vocabulary.{field}` must be a list of files, but got {files!r}')
    paths = [root / name for name in (*question_files, *ann_files)]
    request: dict[str, Any] = dict(
        generator=GENERATOR,
        vocabulary_version=3,
        question_files=[*question_files],
        ann_files=[*ann_files],
        min_count=min_count,
        min_word_count=min_word_count,
    )
    if tokenizer is not None:
        request['tokenizer'] = tokenizer
    settings = hashlib.sha256(json.dumps(request, sort_keys=True).encode()).hexdigest()[:12]
    kept = root / f'{folder}-{settings}'
    if tokenizer is not None and (found := tokenizer_files(tokenizer)):
        request['tokenizer_as_of'] = _as_of(found)
    if all(path.is_file() for path in paths):  # a file that was edited makes another vocabulary
        request['files_as_of'] = _as_of(paths)

    def write(out: Path) -> None:
        pieces = read_tokenizer(tokenizer, f'{_NAME}.tokenizer') if tokenizer is not None else None
        of_questions, of_answers = paths[: len(question_files)], paths[len(question_files) :]
        questions = [q['question'] for p in of_questions for q in read_questions(p, f'{_NAME}.question_files').values()]
        words = (word for question in questions for word in split_words(question))
        answers = [a for p in of_answers for a in read_annotations(p, f'{_NAME}.ann_files').values()]
        made = Vocabulary(
            () if pieces else most_common(words, min_word_count),
            most_common((normalise_answer(a['multiple_choice_answer']) for a in answers), min_count),
            pieces,
        )
        if not made.answers:
            raise ValueError(
                f'`vocabulary.min_count` {min_count} leaves no answer of the {len(answers)} in {ann_files}'
            )
        (out / 'words').mkdir()
        (out / 'words' / 'vocabulary.json').write_text(made.to_json(), encoding='utf-8')
        meta = {**request, 'num_words': made.num_words, 'num_answers': made.num_answers, 'files': {'words': 1}}
        (out / 'meta.json').write_text(json.dumps(meta, sort_keys=True), encoding='utf-8')

    build_once(kept, request, write)
    return Vocabulary.from_json((kept / 'words' / 'vocabulary.json').read_text(encoding='utf-8'))


def _as_of(files: Iterable[Path]) -> list[list[int]]:
    """Size and time of each file, by which a changed one is noticed."""
    return [[file.stat().st_size, file.stat().st_mtime_ns] for file in files]
