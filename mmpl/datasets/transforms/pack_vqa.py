"""A question and its image as a model's input."""

import torch
from mmcv.transforms import BaseTransform
from mmpretrain.datasets.transforms import PackInputs
from mmpretrain.structures import DataSample

from mmpl.registry import TRANSFORMS

_KNOWN = ('img_path', 'image_id', 'question', 'question_id', 'answers', 'answer_type')


@TRANSFORMS.register_module()
class PackVQA(BaseTransform):
    """Pack a sample of :class:`mmpl.datasets.vqa.dataset.VQADataset`.

    ``inputs`` is a dict of tensors: ``image`` (C, H, W), ``question`` (L,) int64, ``vocabulary`` () int64, which tells
    it from others, and, with annotations, ``answer_ids`` (10,) int64 and ``answer_scores`` (10,) float32.
    ``data_samples`` holds what pictures and metrics want to know.
    """

    def transform(self, results: dict) -> dict:
        """Make ``inputs`` and ``data_samples`` of a sample."""
        inputs = dict(
            image=PackInputs.format_input(results['img']),
            question=torch.from_numpy(results['question_ids']).long(),
            vocabulary=torch.tensor(results['vocabulary']),
        )
        if 'answer_ids' in results:
            inputs['answer_ids'] = torch.from_numpy(results['answer_ids']).long()
            inputs['answer_scores'] = torch.from_numpy(results['answer_scores'])
        sample = DataSample()
        for name in _KNOWN:
            if name in results:
                sample.set_field(results[name], name, field_type='metainfo')
        return dict(inputs=inputs, data_samples=sample)
