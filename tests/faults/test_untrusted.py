"""A checkpoint with a payload runs nothing, wherever it is given; an annotation file reads nothing outside its root.

``tests/test_compat/test_torch_load.py`` has the loading functions and ``tools/train.py``; here are the other doors,
above all those that do not lead through mmpl's tools.
"""

import json
import runpy
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from mmengine.dataset import BaseDataset
from mmengine.runner import Runner

import transfer
from mmpl.apis.test import test as run_test
from mmpl.compat import UntrustedCheckpointError, allow_unsafe_load, set_load_policy
from mmpl.evaluation import evaluate_features
from mmpl.export import export_backbone
from mmpl.utils.paths import PathOutsideRootError, forbid_paths_outside_root
from mmpl.visualization import build_report
from tests.faults.runs import fault_cfg, noise_cfg
from tests.test_compat.test_torch_load import Payload

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def canary(tmp_path: Path) -> Path:
    return tmp_path / 'canary'


@pytest.fixture
def poisoned(tmp_path: Path, canary: Path) -> Path:
    path = tmp_path / 'work' / 'epoch_1.pth'
    path.parent.mkdir()
    content = {'meta': dict(epoch=1, iter=6, payload=Payload(canary)), 'state_dict': {}, 'message_hub': {}}
    torch.save(content, path)
    (path.parent / 'last_checkpoint').write_text(str(path))
    return path


def probe_hook() -> dict:
    loader = dict(batch_size=4, num_workers=0, dataset=noise_cfg())
    return dict(type='mmpl.FeatureProbeHook', train_dataloader=loader, val_dataloader=loader)


def options(door: str, poisoned: Path) -> dict:
    def initialised_by(kind: str) -> dict:
        backbone = fault_cfg('unused').model.backbone.to_dict()
        return dict(
            resume=False, model=dict(backbone=backbone | dict(init_cfg=dict(type=kind, checkpoint=str(poisoned))))
        )

    return dict(
        load_from=dict(load_from=str(poisoned), resume=False),
        resume=dict(load_from=str(poisoned), resume=True),
        auto_resume=dict(resume=True),
        Pretrained=initialised_by('Pretrained'),
        StrictPretrained=initialised_by('mmpl.StrictPretrained'),
    )[door]


@pytest.mark.smoke
@pytest.mark.parametrize('door', ['load_from', 'resume', 'auto_resume', 'Pretrained', 'StrictPretrained'])
def test_training_without_our_tools(door: str, poisoned: Path, canary: Path) -> None:
    """mmengine's Runner as another project's train.py builds it, with our hooks in the config."""
    runner = Runner.from_cfg(fault_cfg(poisoned.parent, **options(door, poisoned)))
    with pytest.raises(UntrustedCheckpointError):
        runner.train()
    assert not canary.exists()


def test_trust_is_a_decision(poisoned: Path, canary: Path) -> None:
    allow_unsafe_load()  # what --trust does
    runner = Runner.from_cfg(fault_cfg(poisoned.parent, **options('load_from', poisoned)))
    with pytest.raises(Exception, match='prefix'):
        runner.train()
    assert canary.exists()


@pytest.mark.smoke
@pytest.mark.parametrize('trust', [False, True])
@pytest.mark.parametrize('tool', ['train', 'evaluate_features', 'export_backbone', 'report', 'transfer'])
def test_trust_is_an_option_of_every_tool(
    tool: str, trust: bool, poisoned: Path, canary: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The payload runs with ``--trust`` and only then; `train` meets it in an ``init_cfg`` of StrictPretrained."""
    config = tmp_path / 'config.py'
    more = options('StrictPretrained', poisoned) if tool == 'train' else dict(custom_hooks=[probe_hook()])
    fault_cfg(tmp_path / 'out', **more).dump(config)
    path, *arguments = dict(
        train=('tools/train.py', config),
        evaluate_features=('tools/benchmarks/evaluate_features.py', config, poisoned),
        export_backbone=('tools/model_converters/export_backbone.py', poisoned, tmp_path / 'out.pth'),
        report=('tools/visualizations/report.py', poisoned.parent, '--config', config),
        transfer=('tools/benchmarks/transfer.py', '--encoder', 'PL-MAE', poisoned, '--work-dir', tmp_path / 'out'),
    )[tool]
    monkeypatch.setattr('signal.signal', lambda *args: None)
    monkeypatch.setattr(sys, 'argv', [str(path), *map(str, arguments), *['--trust'] * trust])
    with pytest.raises((Exception, SystemExit)) as caught:  # there are no weights in it
        runpy.run_path(str(ROOT / path), run_name='__main__')
    assert canary.exists() == trust
    assert ('was refused, and none of its code was run' in str(caught.value)) == (not trust)


@pytest.mark.parametrize('trust', [False, True])
def test_transfer_passes_trust_on(trust: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the benchmark to its runs, and from a run to its training and its test."""
    checkpoint = tmp_path / 'a.pth'
    torch.save(dict(state_dict={'backbone.patch_embed.projection.weight': torch.ones(1)}), checkpoint)
    argv = ['--encoder', 'PL-MAE', str(checkpoint), '--seeds', '0', '--tasks', 'segmentation']
    argv += ['--work-dir', str(tmp_path / 'work'), *['--trust'] * trust]
    jobs: list = []
    monkeypatch.setattr(transfer, 'run_jobs', lambda some, *args: jobs.extend(some) or sys.exit(0))
    monkeypatch.setattr(transfer, 'write_random_encoder', lambda *args: None)
    with pytest.raises(SystemExit):
        transfer.main(argv)
    assert [('--trust' in job.command) for job in jobs] == [trust, trust]
    calls: list[list[str]] = []
    monkeypatch.setattr(transfer.Bench, 'identity', lambda *args: {})
    monkeypatch.setattr(transfer, 'train', calls.append)
    monkeypatch.setattr(transfer, 'test', lambda argv: calls.append(argv) or {})
    monkeypatch.setattr(transfer, 'draw', lambda *args: [])
    folder = Path(jobs[-1].log).parent
    folder.mkdir(parents=True)
    (folder / 'last_checkpoint').write_text('a.pth')
    set_load_policy(not trust)
    transfer.main(jobs[-1].command[2:])
    assert [('--trust' in argv) for argv in calls] == [trust, trust]
    assert transfer.parse_train_args(calls[0]).trust == trust


@pytest.mark.smoke
@pytest.mark.parametrize('door', ['export', 'evaluation', 'report', 'test'])
def test_python_functions(
    door: str,
    poisoned: Path,
    canary: Path,
    noise_images: Path,
    write_tiny_classifier: Callable[[int], Path],
    tmp_path: Path,
) -> None:
    cfg = fault_cfg(poisoned.parent, custom_hooks=[probe_hook()])
    cfg.dump(poisoned.parent / 'config.py')
    shutil.copytree(noise_images, tmp_path / 'images' / 'noise')
    call = dict(
        export=lambda: export_backbone(poisoned, tmp_path / 'out.pth'),
        evaluation=lambda: evaluate_features(cfg, str(poisoned)),
        report=lambda: build_report(poisoned.parent),
        test=lambda: run_test([str(write_tiny_classifier(1)), str(poisoned), '--work-dir', str(tmp_path / 'out')]),
    )[door]
    with pytest.raises(UntrustedCheckpointError):
        call()
    assert not canary.exists()


def test_annotations_of_any_project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With mmpl's tools, mmengine's own datasets are checked as well."""
    unpatched = getattr(BaseDataset._serialize_data, '__wrapped__', BaseDataset._serialize_data)
    monkeypatch.setattr(BaseDataset, '_serialize_data', unpatched)  # undone at the end
    annotations = tmp_path / 'annotations.json'
    annotations.write_text(json.dumps(dict(metainfo={}, data_list=[dict(img_path='../../etc/passwd')])))
    cfg = dict(ann_file=str(annotations), data_root=str(tmp_path), data_prefix=dict(img_path='images'))
    assert BaseDataset(**cfg).get_data_info(0)['img_path'].endswith('etc/passwd')
    forbid_paths_outside_root()
    with pytest.raises(PathOutsideRootError, match='annotations.json'):
        BaseDataset(**cfg)
    annotations.write_text(json.dumps(dict(metainfo={}, data_list=[dict(img_path='a.jpg')])))
    assert len(BaseDataset(**cfg)) == 1
