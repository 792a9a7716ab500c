"""What holds for the scenes of every embedded data set."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from pycocotools.coco import COCO


def check_scenes(
    build: Path, split: str, classes: tuple[str, ...], scenes: int, objects: tuple[int, int]
) -> Iterator[tuple[np.ndarray, np.ndarray, list[dict[str, Any]]]]:
    """Compare boxes, areas, masks, semantic map and both images of each scene.

    Yields:
        Pixels (96, 96, 3), semantic map (96, 96) and annotations of a scene.
    """
    coco = COCO(str(build / 'coco' / 'annotations' / f'instances_{split}.json'))
    ade = {'train': 'training', 'val': 'validation'}[split]
    assert len(coco.imgs) == len(list((build / 'coco' / split).iterdir())) == scenes
    assert {c['id']: c['name'] for c in coco.dataset['categories']} == dict(enumerate(classes, start=1))
    for image in coco.imgs.values():
        path = build / 'coco' / split / image['file_name']
        assert (build / 'ade' / 'images' / ade / image['file_name']).read_bytes() == path.read_bytes()
        with Image.open(path) as opened:
            pixels = np.asarray(opened)
        assert pixels.shape == (image['height'], image['width'], 3) == (96, 96, 3)
        expected = np.zeros((96, 96), dtype=np.uint8)
        annotations = coco.imgToAnns[image['id']]
        assert objects[0] <= len(annotations) <= objects[1]
        for annotation in annotations:
            mask = coco.annToMask(annotation).astype(bool)
            ys, xs = mask.nonzero()
            box = [xs.min(), ys.min(), xs.max() + 1 - xs.min(), ys.max() + 1 - ys.min()]
            assert annotation['bbox'] == box
            assert annotation['area'] == mask.sum() > 0
            assert not expected[mask].any()  # visible parts are disjoint
            expected[mask] = annotation['category_id']
        with Image.open(build / 'ade' / 'annotations' / ade / path.with_suffix('.png').name) as semantic:
            assert semantic.mode == 'L'
            np.testing.assert_array_equal(np.asarray(semantic), expected)
        yield pixels, expected, annotations
