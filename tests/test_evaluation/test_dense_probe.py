"""Patches of label maps: features at the right place, majority labels, patch-kNN, linear head, mIoU."""

import numpy as np
import pytest
import torch
from mmengine.registry import init_default_scope
from PIL import Image
from sklearn.neighbors import KNeighborsClassifier
from torch import nn

from mmpl.evaluation import DenseProbe, extract_patches
from mmpl.evaluation.dense import majority_labels, mean_iou
from tests.test_evaluation.probe_helpers import build_mae, scenes_cfg, write_scenes


class Means(nn.Module):
    """An encoder whose features are the mean colours of patches of 4 x 4."""

    num_extra_tokens = 0

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.data_preprocessor = Raw()

    def forward(self, images):
        return nn.functional.avg_pool2d(images, 4)


class Raw(nn.Module):
    def forward(self, data, training=False):
        return dict(data, inputs=torch.stack(list(data['inputs'])).float())


@pytest.fixture
def roots(tmp_path):
    init_default_scope('mmseg')
    return write_scenes(tmp_path / 'train', 5, seed=0), write_scenes(tmp_path / 'val', 4, seed=1)


def test_majority_is_that_of_a_loop():
    rng = np.random.default_rng(0)
    maps = rng.choice([0, 1, 2, 7, 255], (3, 12, 18)).astype(np.int16)
    maps[0, :4, :6] = 255
    found = majority_labels(torch.from_numpy(maps), (3, 3))
    for image, row, column in np.ndindex(3, 3, 3):
        part = maps[image, 4 * row : 4 * row + 4, 6 * column : 6 * column + 6]
        part = part[part != 255]
        expected = np.bincount(part).argmax() if len(part) else -1
        assert found[image, row, column] == expected
    with pytest.raises(ValueError, match='every pixel of the label maps is ignored'):
        majority_labels(torch.full((1, 4, 4), 255), (2, 2))


def test_mean_iou_is_that_of_mmseg():
    from mmseg.evaluation import IoUMetric

    rng = np.random.default_rng(0)
    true, found = rng.choice([0, 1, 3, 255], (4, 9, 7)), rng.integers(0, 3, (4, 9, 7))
    areas = IoUMetric.intersect_and_union(torch.from_numpy(found), torch.from_numpy(true), 5, 255)
    iou = areas[0] / areas[1]  # NaN for class 4, which nothing has
    assert mean_iou(found, true) == pytest.approx(100 * float(iou.nanmean()))


def test_patches_are_where_they_are(roots):
    """Of mmpretrain's MAE, at another size than it was trained at: against one image at a time, by hand."""
    model = build_mae().eval()
    loader = DenseProbe(scenes_cfg(roots[0]), scenes_cfg(roots[1]))._build_loader('train_dataloader')
    found = extract_patches(model, loader)
    assert found.features['patches'].shape == (5, 16, 4, 6)
    mean, std = torch.tensor([123.0, 117.0, 104.0]).view(3, 1, 1), torch.tensor([58.0, 57.0, 57.0]).view(3, 1, 1)
    for index in range(5):
        pixels = np.array(Image.open(roots[0] / 'images' / f'{index}.png'))
        image = (torch.from_numpy(pixels).permute(2, 0, 1).float() - mean) / std
        with torch.no_grad():
            tokens = model.backbone(image[None], mask=None)[-1][0, 1:]
        assert torch.allclose(found.features['patches'][index, :, 2, 5], tokens[2 * 6 + 5], atol=1e-5)
        assert np.array_equal(found.labels[index], np.array(Image.open(roots[0] / 'maps' / f'{index}.png')))


def test_scores_are_those_of_scikit_learn(roots):
    """KNN by another implementation; patches that tell the class let both measures be perfect."""
    model, loaders = Means(), [scenes_cfg(root) for root in roots]
    probe = DenseProbe(*loaders, k=1)
    scores = probe.run(model)

    def patches(root, count):
        features, labels = [], []
        for index in range(count):
            pixels = np.array(Image.open(root / 'images' / f'{index}.png'))[..., ::-1].astype(float)
            features.append(pixels.reshape(4, 4, 6, 4, 3).mean((1, 3)).reshape(-1, 3))
            labels.append(np.array(Image.open(root / 'maps' / f'{index}.png'))[::4, ::4].flatten())
        return np.concatenate(features), np.concatenate(labels)

    bank, of_bank = patches(roots[0], 5)
    queries, of_queries = patches(roots[1], 4)
    found = KNeighborsClassifier(1, metric='cosine').fit(bank, of_bank).predict(queries)
    # the last row of patches has half of its pixels ignored, the others none
    weights = np.tile(np.repeat([2, 2, 2, 1], 6), 4)
    iou = []
    for label in range(3):
        both = weights[(found == label) & (of_queries == label)].sum()
        iou.append(both / weights[(found == label) | (of_queries == label)].sum())
    assert scores['knn_miou'] == pytest.approx(100 * np.mean(iou))
    assert scores['knn_miou'] > 90 and 60 < scores['linear_miou'] < 100  # interpolated: edges of blocks are soft


def test_patches_that_say_nothing(roots):
    class Nothing(Means):
        def forward(self, images):
            return torch.zeros_like(super().forward(images)) + 1

    scores = DenseProbe(scenes_cfg(roots[0]), scenes_cfg(roots[1])).run(Nothing())
    assert scores['knn_miou'] < 15 and scores['linear_miou'] < 15  # one class everywhere: a third of a third


def test_bad_input_is_refused(roots, tmp_path):
    init_default_scope('mmpretrain')
    plain = dict(scenes_cfg(roots[0])['dataset'], pipeline=[dict(type='LoadImageFromFile'), dict(type='PackInputs')])
    with pytest.raises(ValueError, match='`gt_sem_seg` must be a label map'):
        DenseProbe(dict(scenes_cfg(roots[0]), dataset=plain), scenes_cfg(roots[1])).run(Means())
    with pytest.raises(ValueError, match='`k` must not exceed the number of labelled patches'):
        DenseProbe(scenes_cfg(roots[0]), scenes_cfg(roots[1]), k=1000, max_train_images=2).run(Means())
    with pytest.raises(ValueError, match='must have one size'):
        mixed = write_scenes(tmp_path / 'mixed', 3, seed=0)
        other = write_scenes(tmp_path / 'other', 1, seed=0, size=(8, 8))
        for name in ('images', 'maps'):
            (other / name / '0.png').rename(mixed / name / '9.png')
        DenseProbe(dict(scenes_cfg(mixed), batch_size=1), scenes_cfg(roots[1])).run(Means())
