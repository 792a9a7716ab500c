"""Visual question answering: answers, scores, words, the official files, easy-vqa."""

import importlib.util
import json
from collections import Counter
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from mmengine.dataset import default_collate
from mmengine.registry import DATASETS
from mmpretrain.evaluation.metrics.vqa import _process_digit_article, _process_punctuation

from mmpl.datasets.vqa import (
    EasyVQADataset,
    Vocabulary,
    VQADataset,
    leave_one_out,
    normalise_answer,
    soft_scores,
    vqa_vocabulary,
)
from mmpl.datasets.vqa.vocabulary import PAD, START, UNKNOWN, most_common
from mmpl.utils.fields import FieldTypeError
from tests.vqa import ANNOTATIONS, ANSWERS, QUESTIONS, write_vqa

FILES = dict(
    question_files=[QUESTIONS.format('train2014')],
    ann_files=[ANNOTATIONS.format('train2014'), ANNOTATIONS.format('val2014')],
)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_vqa(tmp_path / 'vqav2')


def dataset_of(root: Path, **kwargs) -> VQADataset:
    fields = dict(
        data_root=str(root),
        question_file=QUESTIONS.format('train2014'),
        ann_file=ANNOTATIONS.format('train2014'),
        data_prefix=dict(img_path='train2014'),
        vocabulary=dict(type='mmpl.VQAVocabulary', data_root=str(root), min_count=2, **FILES),
        max_length=8,
        pipeline=[dict(type='mmpretrain.LoadImageFromFile'), dict(type='mmpl.PackVQA')],
    )
    return VQADataset(**(fields | kwargs))


# ------------------------------------------------------------------ answers


@pytest.mark.parametrize(
    'text, want',
    [
        ('Yes', 'yes'),
        ('  A  Dog. ', 'dog'),
        ('none', '0'),
        ('Seven', '7'),
        ('the ten ants', '10 ants'),
        ('eleven', 'eleven'),
        ('2.5', '2.5'),
        ('U.S.A.', 'usa'),
        ('12,500', '12500'),
        ('red,blue', 'red blue'),
        ('black/white', 'black white'),
        ('t-shirt', 't shirt'),
        ("girl's", "girl's"),
        ('2:50 pm', '2:50 pm'),
        ('dont', "don't"),
        ('Theyre red', "they're red"),
        ("couldnt've", "couldn't've"),
        ('its', 'its'),
        ('well', 'well'),
        ('were', 'were'),
        ('(left)', 'left'),
        ('100%', '100%'),
        ('', ''),
    ],
)
def test_normalised_answers(text, want):
    assert normalise_answer(text) == want
    assert normalise_answer(want) == want


def test_answers_are_those_of_the_official_functions():
    """As mmpretrain has them: every word of their tables, and texts of such words and all kinds of marks."""
    official = lambda text: _process_digit_article(_process_punctuation(text))  # noqa: E731
    words = {word for word in _process_digit_article.__code__.co_consts if isinstance(word, str)}
    words |= {word for table in _process_digit_article.__code__.co_consts if isinstance(table, tuple) for word in table}
    assert len(words) > 150
    words |= {word.replace("'", '') for word in words} | {"i'm", 'im', 'ive', "id've", 'shes', "somebody'd", 'well'}
    for word in words:
        assert normalise_answer(word) == official(word), word
        assert normalise_answer(word.upper()) == official(word.upper()), word
    rng = np.random.default_rng(0)
    parts = [*sorted(words), *';/[]"{}()=+\\_-<>@`,?!.:\'', '1,000', '2.5', 'a.b', '3.', ' ', ' ', ' ', ' ', 'T-Shirt']
    for _ in range(3000):
        text = ''.join(rng.choice(parts, rng.integers(1, 9)))
        assert normalise_answer(text) == official(text), text


def test_scores_are_averages_over_the_subsets_of_nine():
    for count in range(11):
        people = [1] * count + [0] * (10 - count)
        subsets = [min(1.0, sum(nine) / 3) for nine in combinations(people, 9)]
        assert leave_one_out(count) == pytest.approx(np.mean(subsets), abs=1e-12)
    assert [round(leave_one_out(count), 10) for count in range(6)] == [0, 0.3, 0.6, 0.9, 1, 1]
    assert soft_scores(['a'] * 7 + ['b'] * 2 + ['c']) == pytest.approx(dict(a=1.0, b=0.6, c=0.3))


# ------------------------------------------------------------------ words


def test_vocabulary_counts(root):
    vocabulary = vqa_vocabulary(str(root), min_count=2, **FILES)
    # train and val are alike here: each multiple_choice_answer counts twice; 'Black.' and 'black' are one.
    assert set(vocabulary.answers) == {'yes', 'no', 'black', '3'} and vocabulary.num_answers == 4
    words = Counter(w.strip(',?') for _, text, *_ in ANSWERS.values() for w in text.lower().split())
    assert set(vocabulary.words) == {word for word, n in words.items() if n >= 2}
    assert vocabulary.num_words == len(vocabulary.words) + 3
    with pytest.raises(ValueError, match='min_count` 3 leaves no answer of the 8'):
        vqa_vocabulary(str(root), min_count=3, folder='other', **FILES)
    assert not [*root.glob('other*')]


def test_most_common_order():
    assert most_common('bbacccaad', 2) == ('a', 'c', 'b')
    assert most_common('bbacccaad', 3) == ('a', 'c')


def test_round_trip_and_unknown_words():
    vocabulary = Vocabulary(('is', 'the', "cat's", 'mat'), ('yes',))
    ids = vocabulary.encode("Is the CAT'S   mat, red?", 8)
    assert ids.tolist() == [START, 3, 4, 5, 6, UNKNOWN, PAD, PAD]
    known = {number: word for number, word in enumerate(vocabulary.words, START + 1)} | {UNKNOWN: '?'}
    assert [known[i] for i in ids if i not in (PAD, START)] == ['is', 'the', "cat's", 'mat', '?']
    assert vocabulary.encode('is the mat', 2).tolist() == [START, 3]
    assert vocabulary.encode('', 2).tolist() == [START, PAD]
    assert Vocabulary.from_json(vocabulary.to_json()) == vocabulary


def test_vocabulary_is_made_once_and_again_for_other_files(root):
    first = vqa_vocabulary(str(root), min_count=2, **FILES)
    (kept,) = root.glob('vocabulary-*/meta.json')
    stamp = kept.stat().st_mtime_ns
    assert vqa_vocabulary(str(root), min_count=2, **FILES) == first
    assert kept.stat().st_mtime_ns == stamp
    assert vqa_vocabulary(str(root), min_count=2, min_word_count=1, **FILES) != first
    assert kept.stat().st_mtime_ns == stamp, 'runs with other settings do not replace what this one reads'
    moved = (root / FILES['question_files'][0]).rename(root / 'moved.json')
    assert vqa_vocabulary(str(root), min_count=2, **FILES) == first, 'at test time the training files may be gone'
    with pytest.raises(FileNotFoundError, match='question_file.*train2014_questions.json'):
        vqa_vocabulary(str(root), min_count=1, **FILES)
    content = json.loads(moved.read_text())
    for question in content['questions']:
        question['question'] += ' really really'
    (root / FILES['question_files'][0]).write_text(json.dumps(content))
    assert 'really' in vqa_vocabulary(str(root), min_count=2, **FILES).words
    annotations, longer = root / FILES['ann_files'][0], first.answers
    before = annotations.stat().st_size
    annotations.write_text(annotations.read_text().replace('yes"', 'yep"'))
    assert annotations.stat().st_size == before, 'an edit need not change the size'
    assert vqa_vocabulary(str(root), min_count=1, **FILES).answers != longer
    assert 'yep' in vqa_vocabulary(str(root), min_count=1, **FILES).answers


# ------------------------------------------------------------------ official files


def test_samples_of_the_official_files(root):
    dataset = dataset_of(root)
    assert len(dataset) == len(ANSWERS)
    for index, (question_id, (image_id, question, kind, answers)) in enumerate(ANSWERS.items()):
        info = dataset.get_data_info(index)
        assert (info['question_id'], info['image_id'], info['question']) == (question_id, image_id, question)
        assert Path(info['img_path']).name == f'COCO_train2014_{image_id:012d}.jpg'
        normalised = [normalise_answer(answer) for answer in answers]
        assert info['answers'] == answers and info['answer_type'] == kind
        want = {
            answer: leave_one_out(normalised.count(answer))
            for answer in set(normalised) & set(dataset.vocabulary.answers)
        }
        pairs = zip(info['answer_ids'], info['answer_scores'], strict=True)
        assert {dataset.vocabulary.answers[i]: s for i, s in pairs if s > 0} == pytest.approx(want)
    # 'Black.' and 'the black' are one answer, five times; 'two' and '2' another, outside of the vocabulary
    assert dataset.get_data_info(1)['answer_scores'].tolist() == [1] + [0] * 9
    batch = default_collate([dataset[0], dataset[2]])
    assert {name: tuple(value.shape) for name, value in batch['inputs'].items()} == dict(
        image=(2, 3, 48, 56), question=(2, 8), vocabulary=(2,), answer_ids=(2, 10), answer_scores=(2, 10)
    )
    assert batch['data_samples'][1].answers == dataset.get_data_info(2)['answers']


def test_questions_without_answers(root):
    sample = dataset_of(root, ann_file='')[0]
    assert set(sample['inputs']) == {'image', 'question', 'vocabulary'} and 'answers' not in sample['data_samples']


def edit(path: Path, change) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


@pytest.mark.parametrize(
    'file, change, message',
    [
        ('questions', lambda c: c.pop('questions'), "questions.json' must hold a list of 'questions'"),
        ('questions', lambda c: c['questions'][1].pop('image_id'), r"entry 1 of 'questions' lacks \['image_id'\]"),
        ('questions', lambda c: c['questions'].append(c['questions'][0]), 'question_id 9000 occurs twice'),
        ('questions', lambda c: c['questions'].pop(), r'1 annotations are in one alone, question_id \[25001\]'),
        ('annotations', lambda c: c['annotations'].pop(0), r'1 questions are in one alone, question_id \[9000\]'),
        ('annotations', lambda c: c['annotations'][0].update(image_id=7), 'question_id 9000 .* image_id 9 .*, 7 in'),
        (
            'annotations',
            lambda c: c['annotations'][0]['answers'].pop(),
            'question_id 9000 must have 10 .* but has 9',
        ),
        ('annotations', lambda c: c['annotations'][0]['answers'][3].update(answer=2), "9000 .* such as {'answer': 2"),
        (
            'questions',
            lambda c: c['questions'][0].update(image_id=10**12),
            'image_id of entry 0 .* twelve digits',
        ),
        ('questions', lambda c: c['questions'][0].update(image_id='9'), "image_id of entry 0 .* type int, .* got '9'"),
        (
            'questions',
            lambda c: c['questions'][2].update(question=None),
            'question of entry 2 .* type str, .* got None',
        ),
    ],
)
def test_faults_of_files_are_named(root, file, change, message):
    vocabulary = vqa_vocabulary(str(root), min_count=2, **FILES)
    edit(next(root.glob(f'*train2014_{file}.json')), change)
    with pytest.raises(ValueError, match=message):
        dataset_of(root, vocabulary=vocabulary)


def test_unanimous_answers_that_no_vocabulary_holds_are_told(root, monkeypatch):
    told = []
    monkeypatch.setattr('mmpl.datasets.vqa.dataset.print_log', lambda text, *_: told.append(text))
    vocabulary = vqa_vocabulary(str(root), min_count=2, **FILES)
    dataset_of(root, vocabulary=vocabulary)
    assert not told
    edit(
        next(root.glob('*train2014_annotations.json')),
        lambda c: c['annotations'][3].update(answers=[dict(answer='Two')] * 10),
    )
    dataset_of(root, vocabulary=vocabulary)
    assert len(told) == 1 and 'same answer to 1 questions' in told[0] and "'Two' of question_id 25001" in told[0]


def test_two_images_of_one_number_are_refused(root):
    vocabulary = vqa_vocabulary(str(root), min_count=2, **FILES)
    image = next((root / 'train2014').glob('*09.jpg'))
    image.with_name('another_000000000009.png').write_bytes(image.read_bytes())
    with pytest.raises(ValueError, match='two images of number 9: COCO_train2014_0*9.jpg and another_0*9.png'):
        dataset_of(root, vocabulary=vocabulary)


def test_faults_of_paths_and_fields_are_named(root):
    vocabulary = vqa_vocabulary(str(root), min_count=2, **FILES)
    next((root / 'train2014').glob('*25.jpg')).unlink()
    with pytest.raises(FileNotFoundError, match=r'lacks 1 images .*image_id \[25\].*000000000025.jpg'):
        dataset_of(root, vocabulary=vocabulary)
    for fields, error, message in (
        (dict(data_prefix=dict(img_path='nowhere')), FileNotFoundError, "nowhere' is no folder"),
        (dict(ann_file='nowhere.json'), FileNotFoundError, "ann_file.*nowhere.json' does not exist"),
        (dict(question_file=''), ValueError, 'question_file` must be'),
        (dict(vocabulary=None), FieldTypeError, 'vocabulary` must be a dict .* got None'),
        (dict(max_length=0), ValueError, 'max_length` must be'),
    ):
        with pytest.raises(error, match=message):
            dataset_of(root, **(dict(vocabulary=vocabulary) | fields))
    (root / QUESTIONS.format('train2014')).write_text('{')
    with pytest.raises(ValueError, match='question_file.* is no JSON file'):
        dataset_of(root, vocabulary=vocabulary)


# ------------------------------------------------------------------ easy-vqa


def test_easy_vqa_in_the_official_format(embedded_root):
    if importlib.util.find_spec('easy_vqa') is None:
        pytest.skip('easy-vqa is not installed')
    counts, images = {}, {}
    for split in ('train', 'val', 'test'):
        dataset = DATASETS.build(dict(type='mmpl.EasyVQADataset', data_root=str(embedded_root), split=split))
        counts[split] = len(dataset)
        infos = [dataset.get_data_info(i) for i in range(len(dataset))]
        images[split] = {info['image_id'] for info in infos}
        assert len({info['question_id'] for info in infos}) == len(dataset)
        assert all(len(set(info['answers'])) == 1 and info['answer_scores'].tolist()[0] == 1 for info in infos)
        assert not any((info['question_ids'] == UNKNOWN).any() for info in infos)
        if split == 'test':
            assert sum(info['answer_type'] == 'yes/no' for info in infos) == 7136
    assert counts['train'] + counts['val'] == 38575 and counts['test'] == 9673
    assert not images['train'] & images['val'] and images['val'] == set(range(0, 4000, 10))
    assert len(images['train']) == 3600 and len(images['test']) == 1000
    assert dataset.vocabulary.num_answers == 13
    raw = json.loads(
        (Path(importlib.util.find_spec('easy_vqa').origin).parent / 'data/test/questions.json').read_text()
    )
    assert [[i['question'], i['answers'][0], i['image_id']] for i in infos] == raw


def test_easy_vqa_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setattr('mmpl.datasets.embedded.sources.importlib.util.find_spec', lambda name: None)
    with pytest.raises(ImportError, match='pip install easy-vqa'):
        EasyVQADataset(str(tmp_path))


@pytest.mark.parametrize('field', ['question_files', 'ann_files'])
def test_files_of_the_vocabulary_are_named_as_its_own(root, field):
    with pytest.raises(FileNotFoundError, match=rf"`vocabulary.{field}` '.*nope.json' does not exist"):
        vqa_vocabulary(str(root), **(FILES | {field: ['nope.json']}))
