"""The configs of docs/own_annotations.md, as they stand there, train and evaluate on a few made-up images."""

import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
from mmengine.config import Config
from mmengine.runner import Runner
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
DOC = (ROOT / 'docs' / 'own_annotations.md').read_text()
PROJECTS = dict(boxes='mmdet', maps='mmseg', folders='mmpretrain')
METRICS = dict(boxes='coco/segm_mAP', maps='mIoU', folders='accuracy/top1')


def _picture(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    small = np.random.default_rng(seed).integers(0, 255, (9, 12, 3), np.uint8)
    Image.fromarray(np.kron(small, np.ones((8, 8, 1), np.uint8))).save(path)


def _write_data(folder: Path) -> None:
    for split in ('train', 'val'):
        content = dict(images=[], annotations=[], categories=[dict(id=3, name='cat'), dict(id=5, name='dog')])
        for i in range(4):
            name = f'{split}_{i}.jpg'
            _picture(folder / 'images' / name, i)
            content['images'].append(dict(id=i, file_name=name, height=72, width=96))
            content['annotations'].append(
                dict(id=i + 1, image_id=i, category_id=(3, 5)[i % 2], bbox=[8, 8, 40, 30], area=1200, iscrowd=0)
                | dict(segmentation=[[8, 8, 48, 8, 48, 38, 8, 38]])
            )
            _picture(folder / split / f'{i}.jpg', i)
            values = np.zeros((72, 96), np.uint8)
            values[10:40, 10:60] = 1
            (folder / f'{split}_maps').mkdir(exist_ok=True)
            Image.fromarray(values).save(folder / f'{split}_maps' / f'{i}.png')
            _picture(folder / 'classes' / split / ('cat', 'dog')[i % 2] / f'{i}.jpg', i)
        (folder / f'{split}.json').write_text(json.dumps(content))


@pytest.mark.slow
@pytest.mark.parametrize('kind', PROJECTS)
def test_configs_of_the_docs(kind, tmp_path, monkeypatch) -> None:
    """They build as they stand, the check has nothing to say, and a metric comes out."""
    pytest.importorskip(PROJECTS[kind])
    (text,) = re.findall(rf'`own_{kind}\.py`.*?```python\n(.*?)```', DOC, re.DOTALL)
    (tmp_path / f'own_{kind}.py').write_text(text)
    (tmp_path / 'configs').symlink_to(ROOT / 'configs')
    _write_data(tmp_path / 'data' / 'mine')
    monkeypatch.chdir(tmp_path)
    cfg = Config.fromfile(f'own_{kind}.py')
    cfg.model.backbone.init_cfg = None
    cfg.work_dir = 'work'
    cfg.visualizer.name = f'own_{kind}'  # mmengine keeps one of a name for the whole process, with its folder
    Runner.from_cfg(cfg).train()
    lines = [json.loads(line) for line in next(Path('work').rglob('scalars.json')).read_text().splitlines()]
    (value,) = [line[METRICS[kind]] for line in lines if METRICS[kind] in line]
    assert math.isfinite(value)
    assert 'WARNING - ClassCountHook' not in next(Path('work').rglob('*.log')).read_text()
