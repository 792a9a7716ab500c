"""The official accuracy of VQA against its average, subset by subset."""

import numpy as np
import pytest
from mmengine.evaluator import Evaluator
from mmpretrain.structures import DataSample

from mmpl.evaluation import VQAMetric


def official(prediction: str, answers: list[str]) -> float:
    """Leave each person out in turn, and count the matches of the others."""
    scores = []
    for left_out in range(len(answers)):
        others = [answer for i, answer in enumerate(answers) if i != left_out]
        scores.append(min(1, sum(answer == prediction for answer in others) / 3))
    return sum(scores) / len(scores)


def test_equals_the_brute_force_average_on_random_answers():
    rng = np.random.default_rng(0)
    kinds = ('yes/no', 'number', 'other')
    samples, want = [], {kind: [] for kind in kinds}
    for _ in range(1000):
        names = [f'w{i}' for i in range(rng.integers(1, 6))]
        answers, prediction, kind = list(rng.choice(names, 10)), str(rng.choice(names)), str(rng.choice(kinds))
        sample = DataSample()
        for name, value in dict(answers=answers, pred_answer=prediction, answer_type=kind).items():
            sample.set_field(value, name, field_type='metainfo')
        samples.append(sample)
        want[kind].append(official(prediction, answers))
    evaluator = Evaluator([VQAMetric()])
    for start in range(0, 1000, 250):
        evaluator.process(data_samples=samples[start : start + 250])
    got = evaluator.evaluate(1000)
    assert got['vqa/accuracy'] == pytest.approx(100 * np.mean([s for scores in want.values() for s in scores]))
    for kind, name in zip(kinds, ('yes_no', 'number', 'other'), strict=True):
        assert got[f'vqa/accuracy_{name}'] == pytest.approx(100 * np.mean(want[kind]))
    assert 20 < got['vqa/accuracy'] < 95


def test_compares_normalised_answers_and_leaves_out_types_that_are_not_there():
    metric = VQAMetric()
    metric.process(
        None, [dict(pred_answer='The two', answers=['2'] * 3 + ['3'] * 7, answer_type='number', question_id=1)]
    )
    assert metric.evaluate(1) == pytest.approx({'vqa/accuracy': 90.0, 'vqa/accuracy_number': 90.0})


def test_what_all_gave_is_compared_as_it_is_written():
    """So does the official evaluation; one other answer, and the texts are normalised."""
    for answers, answer, want in (
        (['t-shirt'] * 10, 't shirt', 0),
        (['t-shirt'] * 10, 't-shirt\n', 100),
        (['t-shirt'] * 9 + ['shirt'], 't shirt', 100),
        (['two'] * 10, '2', 0),
        (['yes '] * 5 + ['yes\n'] * 5, 'yes', 100),
    ):
        metric = VQAMetric()
        metric.process(None, [dict(pred_answer=answer, answers=answers, answer_type='other', question_id=1)])
        assert metric.evaluate(1)['vqa/accuracy'] == want


def test_refuses_questions_without_answers():
    with pytest.raises(ValueError, match='question 7 has no answers to compare with: `ann_file`'):
        VQAMetric().process(None, [dict(pred_answer='yes', question_id=7)])
