"""Accuracy of answers, as the official evaluation of VQA counts it."""

from collections.abc import Sequence
from typing import Any

from mmengine.evaluator import BaseMetric

from mmpl.datasets.vqa import as_written, leave_one_out, normalise_answer
from mmpl.registry import METRICS

TYPES = {'yes/no': 'yes_no', 'number': 'number', 'other': 'other'}
"""Official answer type -> end of the metric's name."""


@METRICS.register_module()
class VQAMetric(BaseMetric):
    """The official accuracy in percent: an answer's min(1, matches / 3) averaged over the nines of ten people.

    That is 0, 30, 60, 90, and 100 from four matches on, of which the mean is taken over the questions: ``accuracy``
    of all, ``accuracy_yes_no``, ``accuracy_number`` and ``accuracy_other`` of those of a type, if there are any.
    Answers are compared as :func:`mmpl.datasets.vqa.normalise_answer` has them, but as they are written where all
    people gave the same. mmpretrain's ``VQAAcc``, min(1, share / 0.3), is another number. Source: visualqa.org,
    evaluation.

    Args:
        collect_device: mmengine's.
        prefix: mmengine's; ``'vqa'`` by default.
    """

    default_prefix = 'vqa'

    def process(self, data_batch: Any, data_samples: Sequence[dict]) -> None:
        """Score the answers ``pred_answer`` of a batch by ``answers``."""
        for sample in data_samples:
            if 'answers' not in sample:
                raise ValueError(
                    f'question {sample.get("question_id")} has no answers to compare with: `ann_file` of the data set '
                    "is empty. Answers for the test server are written by mmpretrain's ReportVQA"
                )
            people, answer = [as_written(text) for text in sample['answers']], as_written(sample['pred_answer'])
            if len(set(people)) > 1:
                people, answer = [normalise_answer(text) for text in people], normalise_answer(answer)
            self.results.append((sample['answer_type'], leave_one_out(people.count(answer), len(people))))

    def compute_metrics(self, results: Sequence[tuple[str, float]]) -> dict[str, float]:
        """Mean scores by type."""
        scores: dict[str, list[float]] = {'accuracy': [score for _, score in results]}
        for kind, score in results:
            scores.setdefault(f'accuracy_{TYPES.get(kind, kind)}', []).append(score)
        return {name: 100 * sum(values) / len(values) for name, values in scores.items()}
