"""easy-vqa: 48,248 questions about 5,000 images of one shape each, from a pip package, in the format of VQAv2.

Package ``easy-vqa`` 1.0 (Victor Zhou, MIT licence): images of 64 x 64 pixels, 13 answers, three quarters of the
questions ask for yes or no. Its own split into train and test is kept; a tenth of the training images is set apart as
``val``, for tuning.
"""

import json
import shutil
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from mmpl.datasets.embedded.base import SPLITS
from mmpl.datasets.embedded.build import GENERATOR, build_once
from mmpl.datasets.embedded.formats import write_json
from mmpl.datasets.embedded.sources import package_file
from mmpl.registry import DATASETS
from mmpl.utils.fields import Count, checked

from .answers import ANSWERS_PER_QUESTION
from .dataset import VQADataset
from .vocabulary import Vocabulary, vqa_vocabulary

NAME = 'easy_vqa'
VAL_EVERY = 10
"""Every tenth training image, by its number, is of the split ``val`` (our choice)."""
_QUESTIONS = 'v2_OpenEnded_easy_vqa_{}_questions.json'
_ANNOTATIONS = 'v2_easy_vqa_{}_annotations.json'


def build_easy_vqa(root: str | Path) -> Path:
    """Write easy-vqa in the format of VQAv2 unless it is there; any number of processes may call this at once.

    ::

        <root>/easy_vqa/
            annotations/v2_OpenEnded_easy_vqa_{train,val,test}_questions.json
            annotations/v2_easy_vqa_{train,val,test}_annotations.json     ten equal answers each
            images/{train,val,test}/easy_vqa_<12 digits>.png

    Returns:
        The folder ``easy_vqa``.

    Raises:
        ImportError: The package easy-vqa is not installed.
    """
    target = Path(root).expanduser() / NAME
    request = dict(generator=GENERATOR, name=NAME, version=1, val_every=VAL_EVERY)

    def write(out: Path) -> None:
        package_file('easy_vqa/data/answers.txt')  # says what to install
        (out / 'annotations').mkdir()
        for split in SPLITS:
            source = 'test' if split == 'test' else 'train'
            records = json.loads(package_file(f'easy_vqa/data/{source}/questions.json').read_text(encoding='utf-8'))
            if split != 'test':
                records = [record for record in records if (record[2] % VAL_EVERY == 0) == (split == 'val')]
            _write_split(out, split, records, package_file(f'easy_vqa/data/{source}/questions.json').parent / 'images')
        files = {f'images/{split}': len(list((out / 'images' / split).iterdir())) for split in SPLITS}
        write_json(out / 'meta.json', {**request, 'files': {'annotations': 2 * len(SPLITS), **files}})

    build_once(target, request, write)
    return target


def _write_split(out: Path, split: str, records: list[tuple[str, str, int]], images: Path) -> None:
    """Questions, annotations and images of one split; a record is question, answer and number of the image."""
    questions, annotations = [], []
    asked = Counter[int]()
    for question, answer, image_id in records:
        ids = dict(image_id=image_id, question_id=1000 * image_id + asked[image_id])
        asked[image_id] += 1
        questions.append(dict(ids, question=question))
        people = range(1, ANSWERS_PER_QUESTION + 1)
        annotations.append(
            dict(
                ids,
                question_type=' '.join(question.split()[:2]),
                answer_type='yes/no' if answer in ('yes', 'no') else 'other',
                multiple_choice_answer=answer,
                answers=[dict(answer=answer, answer_confidence='yes', answer_id=person) for person in people],
            )
        )
    folder = out / 'images' / split
    folder.mkdir(parents=True)
    for image_id in asked:
        shutil.copyfile(images / f'{image_id}.png', folder / f'{NAME}_{image_id:012d}.png')
    about = dict(info=dict(description='easy-vqa'), data_subtype=split)
    write_json(out / 'annotations' / _QUESTIONS.format(split), dict(about, questions=questions))
    write_json(out / 'annotations' / _ANNOTATIONS.format(split), dict(about, annotations=annotations))


@DATASETS.register_module(name='EasyVQAVocabulary')
def easy_vocabulary(data_root: str = 'data/mmpl_embedded/', tokenizer: str | None = None) -> Vocabulary:
    """The vocabulary of easy-vqa, words of ``train``, answers of ``train`` and ``val``; files are made on first use.

    Args:
        data_root: Folder of all embedded builds.
        tokenizer: As of :func:`vqa_vocabulary`.
    """
    folder = build_easy_vqa(data_root)
    annotations = f'{NAME}/annotations/'
    return vqa_vocabulary(
        data_root=str(folder.parent),
        question_files=[annotations + _QUESTIONS.format('train')],
        ann_files=[annotations + _ANNOTATIONS.format(split) for split in ('train', 'val')],
        tokenizer=tokenizer,
        folder=f'{NAME}_vocabulary',
    )


@DATASETS.register_module()
class EasyVQADataset(VQADataset):
    """easy-vqa, as :class:`VQADataset` reads it; the files are made on first use from the pip package ``easy-vqa``.

    Args:
        data_root: Folder of all embedded builds.
        split: ``'train'``, ``'val'`` (every tenth training image) or ``'test'``.
        vocabulary: By default that of easy-vqa.
        max_length: As there; the longest question has nine words.
        **kwargs: As there.
    """

    @checked()
    def __init__(
        self,
        data_root: str = 'data/mmpl_embedded/',
        split: Literal['train', 'val', 'test'] = 'train',
        vocabulary: Mapping | Vocabulary | None = None,
        max_length: Count = 12,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            data_root=str(build_easy_vqa(data_root)),
            question_file=f'annotations/{_QUESTIONS.format(split)}',
            ann_file=f'annotations/{_ANNOTATIONS.format(split)}',
            data_prefix=dict(img_path=f'images/{split}'),
            vocabulary=vocabulary if vocabulary is not None else easy_vocabulary(data_root),
            max_length=max_length,
            **kwargs,
        )
