"""The configs of docs/own_annotations.md, as they stand there, train and evaluate on a few made-up images."""

import json
import math
import re
import sys
from pathlib import Path

import pytest
from mmengine.config import Config
from mmengine.runner import Runner

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / 'tools/docs'))
from blocks import write_annotated  # noqa: E402

DOC = (ROOT / 'docs' / 'own_annotations.md').read_text()
PROJECTS = dict(boxes='mmdet', maps='mmseg', folders='mmpretrain')
METRICS = dict(boxes='coco/segm_mAP', maps='mIoU', folders='accuracy/top1')


@pytest.mark.slow
@pytest.mark.parametrize('kind', PROJECTS)
def test_configs_of_the_docs(kind, tmp_path, monkeypatch) -> None:
    """They build as they stand, the check has nothing to say, and a metric comes out."""
    pytest.importorskip(PROJECTS[kind])
    (text,) = re.findall(rf'`own_{kind}\.py`.*?```python\n(.*?)```', DOC, re.DOTALL)
    (tmp_path / f'own_{kind}.py').write_text(text)
    (tmp_path / 'configs').symlink_to(ROOT / 'configs')
    write_annotated(tmp_path / 'data' / 'mine')
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
