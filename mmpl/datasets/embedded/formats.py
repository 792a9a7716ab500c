"""The three standard formats in which a build is written: class folders, COCO instances, ADE20K-style semantic maps.

::

    cls/{train,val,test}/<class>/<source>_<k>.png          class folders (mmpretrain, torchvision ImageFolder)
    coco/{train,val}/<id>.jpg
    coco/annotations/instances_{train,val}.json            COCO instances: tight boxes, RLE masks
    ade/images/{training,validation}/<id>.jpg
    ade/annotations/{training,validation}/<id>.png         0 = background, c + 1 = class c
"""

import json
import shutil
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from .scenes import Scene

FORMAT_VERSION = 1
ADE_SPLITS = {'train': 'training', 'val': 'validation'}


def write_class(folder: Path, images: Iterable[tuple[int, int, np.ndarray]]) -> Iterator[np.ndarray]:
    """Write the images of a class, each with the number of its source and its own, and pass on their pixels."""
    folder.mkdir(parents=True)
    for source, number, pixels in images:
        Image.fromarray(pixels).save(folder / f'{source:04d}_{number}.png')
        yield pixels


def write_scenes(out: Path, split: str, scenes: Iterable[Scene], classes: Sequence[str], supercategory: str) -> None:
    """Write the scenes of ``train`` or ``val`` as ``coco/`` and ``ade/``."""
    from pycocotools import mask as mask_api

    coco, ade = out / 'coco' / split, out / 'ade' / 'images' / ADE_SPLITS[split]
    maps, lists = out / 'ade' / 'annotations' / ADE_SPLITS[split], out / 'coco' / 'annotations'
    for folder in (coco, ade, maps, lists):
        folder.mkdir(parents=True, exist_ok=True)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number, (pixels, objects) in enumerate(scenes, start=1):
        height, width = pixels.shape[:2]
        name = f'{number:06d}.jpg'
        Image.fromarray(pixels).save(coco / name, quality=95, subsampling=0)
        shutil.copyfile(coco / name, ade / name)
        images.append({'id': number, 'file_name': name, 'width': width, 'height': height})
        semantic = np.zeros((height, width), dtype=np.uint8)
        for label, source, mask in objects:
            semantic[mask] = label + 1
            rle = mask_api.encode(np.asfortranarray(mask, dtype=np.uint8))
            annotations.append(
                {
                    'id': len(annotations) + 1,
                    'image_id': number,
                    'category_id': label + 1,
                    'bbox': [float(v) for v in mask_api.toBbox(rle)],
                    'area': int(mask.sum()),
                    'segmentation': {'size': [height, width], 'counts': rle['counts'].decode('ascii')},
                    'iscrowd': 0,
                    'source_id': source,
                }
            )
        Image.fromarray(semantic).save((maps / name).with_suffix('.png'))
    content = {
        'info': {'description': 'mmpl embedded data set', 'version': str(FORMAT_VERSION)},
        'licenses': [],
        'images': images,
        'annotations': annotations,
        'categories': [
            {'id': number, 'name': name, 'supercategory': supercategory} for number, name in enumerate(classes, 1)
        ],
    }
    write_json(lists / f'instances_{split}.json', content)


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write JSON whose bytes depend on the content alone."""
    path.write_text(json.dumps(content, sort_keys=True), encoding='utf-8')
