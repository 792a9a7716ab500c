"""The official files of VQAv2: questions, annotations, and the images of COCO that they name by number."""

import json
import os
import re
from pathlib import Path
from typing import Any

from .answers import ANSWERS_PER_QUESTION

_QUESTION = dict(question_id=int, image_id=int, question=str)
_ANNOTATION = dict(question_id=int, image_id=int, answers=list, answer_type=str, multiple_choice_answer=str)
_IMAGE = re.compile(r'(?<!\d)(\d{12})\.(?:jpg|jpeg|png)$', re.IGNORECASE)
_IDS = 10**12
_SHOWN = 3


def _read(field: str, path: Path, name: str, fields: dict[str, type]) -> dict[int, dict[str, Any]]:
    """The records of a file by the number of their question."""
    where = f'`{field}` {str(path)!r}'
    if not path.is_file():
        raise FileNotFoundError(f'{where} does not exist: it should be a JSON file of VQAv2 that holds {name!r}')
    try:
        content = json.loads(path.read_text(encoding='utf-8'))
    except ValueError as error:
        raise ValueError(f'{where} is no JSON file: {error}') from error
    records = content.get(name) if isinstance(content, dict) else None
    if not isinstance(records, list) or not records:
        raise ValueError(f'{where} must hold a list of {name!r}, as the official files of VQAv2 do')
    by_id: dict[int, dict[str, Any]] = {}
    for number, record in enumerate(records):
        missing = [key for key in fields if not isinstance(record, dict) or key not in record]
        if missing:
            raise ValueError(f'{where}: entry {number} of {name!r} lacks {missing}: {str(record)[:80]}')
        for key, kind in fields.items():
            if type(record[key]) is not kind:
                raise ValueError(
                    f'{where}: {key} of entry {number} of {name!r} must be of type {kind.__name__}, as in the official '
                    f'files, but got {record[key]!r}'
                )
        if not 0 <= record['image_id'] < _IDS:
            raise ValueError(
                f'{where}: image_id of entry {number} of {name!r} must have at most twelve digits, as in the official '
                f'files, but got {record["image_id"]}'
            )
        if record['question_id'] in by_id:
            raise ValueError(f'{where}: question_id {record["question_id"]} occurs twice')
        by_id[record['question_id']] = record
    return by_id


def read_questions(path: Path, field: str = 'question_file') -> dict[int, dict[str, Any]]:
    """The questions of a file ``v2_OpenEnded_mscoco_*_questions.json`` by their ``question_id``.

    Args:
        path: Of the file.
        field: The config's that names it, for messages.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is no such file; what is wrong is named with file and ``question_id``.
    """
    return _read(field, path, 'questions', _QUESTION)


def read_annotations(path: Path, field: str = 'ann_file') -> dict[int, dict[str, Any]]:
    """The annotations of a file ``v2_mscoco_*_annotations.json`` by ``question_id``; all else as of the questions."""
    annotations = _read(field, path, 'annotations', _ANNOTATION)
    for question_id, annotation in annotations.items():
        answers = annotation['answers']
        odd = [a for a in answers if not isinstance(a, dict) or not isinstance(a.get('answer'), str)]
        if len(answers) != ANSWERS_PER_QUESTION or odd:
            raise ValueError(
                f'`{field}` {str(path)!r}: question_id {question_id} must have {ANSWERS_PER_QUESTION} answers, each '
                f"with 'answer', a text, but has {len(answers)}" + (f', such as {str(odd[0])[:80]}' if odd else '')
            )
    return annotations


def check_pairs(
    questions: dict[int, dict[str, Any]], annotations: dict[int, dict[str, Any]], question_file: Path, ann_file: Path
) -> None:
    """Refuse files of different questions, or that name different images, with a ValueError."""
    files = f'`question_file` {str(question_file)!r} and `ann_file` {str(ann_file)!r}'
    for left, right, which in ((questions, annotations, 'questions'), (annotations, questions, 'annotations')):
        alone = [key for key in left if key not in right]
        if alone:
            raise ValueError(
                f'{files} do not belong together: {len(alone)} {which} are in one alone, question_id {alone[:_SHOWN]}'
            )
    for key, question in questions.items():
        other = annotations[key]['image_id']
        if question['image_id'] != other:
            raise ValueError(
                f'{files}: question_id {key} is about image_id {question["image_id"]} in the first, '
                f'{other} in the second'
            )


def find_images(folder: Path) -> dict[int, str]:
    """Images of a folder by the twelve digits at the end of their names: COCO_train2014_000000000009.jpg is number 9.

    Raises:
        FileNotFoundError: There is no such folder.
        ValueError: Two images have one number.
    """
    if not folder.is_dir():
        raise FileNotFoundError(
            f'`data_prefix.img_path` {str(folder)!r} is no folder; it should hold the images of COCO'
        )
    images: dict[int, str] = {}
    for name in sorted(os.listdir(folder)):
        if found := _IMAGE.search(name):
            path = os.path.join(folder, name)
            if (other := images.setdefault(int(found[1]), path)) != path:
                raise ValueError(
                    f'`data_prefix.img_path` {str(folder)!r} has two images of number {int(found[1])}: '
                    f'{os.path.basename(other)} and {name}'
                )
    return images


def check_images(
    questions: dict[int, dict[str, Any]], images: dict[int, str], folder: Path, question_file: Path
) -> None:
    """Refuse questions about images that are not there, with a FileNotFoundError."""
    missing = sorted({q['image_id'] for q in questions.values()} - images.keys())
    if missing:
        raise FileNotFoundError(
            f'`data_prefix.img_path` {str(folder)!r} lacks {len(missing)} images that `question_file` '
            f'{str(question_file)!r} names, image_id {missing[:_SHOWN]}: no file whose name ends in '
            f'{missing[0]:012d}.jpg, .jpeg or .png'
        )
