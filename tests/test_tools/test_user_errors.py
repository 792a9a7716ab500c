"""A mistake of the user ends every tool with one line that names it, and with exit code 1."""

import re
import runpy
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from mmpl.compat import UnreadableCheckpointError, load_checkpoint, set_load_policy
from mmpl.utils.fields import check_device, check_number
from mmpl.utils.user_errors import UserError, user_errors
from tests.faults.runs import fault_cfg, noise_cfg

ROOT = Path(__file__).resolve().parents[2]
TRAIN, TEST = 'train.py', 'test.py'
CHECK, MAKE = 'check_dataset.py', 'dataset_converters/make_embedded_data.py'
EVALUATE, COMPARE = 'benchmarks/evaluate_features.py', 'benchmarks/compare_methods.py'
PRETRAIN_SPEED, DATA_SPEED = 'benchmarks/pretrain_speed.py', 'benchmarks/data_speed.py'
DENSE_SPEED, DRILL = 'benchmarks/dense_vit_speed.py', 'benchmarks/fault_drill.py'
FAKE_CUDA, DRY_RUN = 'benchmarks/fake_cuda.py', 'benchmarks/dry_run.py'
GPU_CHECK = 'benchmarks/gpu_check.py'
SEEDS, TRANSFER = 'benchmarks/summarise_seeds.py', 'benchmarks/transfer.py'
VQA = 'benchmarks/vqa.py'
EXPORT, REPORT = 'model_converters/export_backbone.py', 'visualizations/report.py'
IMPORT = 'model_converters/import_weights.py'


@pytest.fixture(scope='module')
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what the tools are given."""
    folder = tmp_path_factory.mktemp('place')
    loader = dict(batch_size=4, num_workers=0, dataset=noise_cfg())
    probe = dict(type='mmpl.FeatureProbeHook', train_dataloader=loader, val_dataloader=loader)
    cfg = fault_cfg('work', custom_hooks=[probe])
    (folder / 'work').mkdir()
    cfg.dump(folder / 'work' / 'config.py')
    cfg.custom_hooks = []
    cfg.dump(folder / 'no_probe.py')
    cfg.test_dataloader, cfg.test_cfg, cfg.test_evaluator = loader, {}, dict(type='Accuracy')
    cfg.dump(folder / 'test.py')
    (folder / 'broken.py').write_text('model = dict(')
    (folder / 'text.pth').write_text('hello world\n' * 50)
    (folder / 'file').touch()
    wrong = {f'backbone.{key}': torch.zeros(3) for key in ('cls_token', *map(str, range(20)))}
    torch.save(dict(state_dict=wrong), folder / 'wrong.pth')
    return folder


NO_CONFIG = r"config 'no\.py' does not exist"
NO_CHECKPOINT = r'checkpoint .*no\.pth.* does not exist'
TEXT = r"checkpoint '.*text\.pth' cannot be read: it was not written by torch\.save"
CUDA = "device` must be a device of this machine, such as cpu, but got 'cuda"
CASES = [
    (TRAIN, 'no.py', NO_CONFIG),
    (TRAIN, 'broken.py', r"config 'broken\.py' cannot be read: SyntaxError"),
    (TRAIN, 'no_probe.py --auto-scale-lr', 'auto_scale_lr'),
    (TRAIN, 'no_probe.py --resume no.pth', NO_CHECKPOINT),
    (TRAIN, 'no_probe.py --cfg-options load_from=no.pth', NO_CHECKPOINT),
    (TRAIN, 'no_probe.py --work-dir file', "`work_dir` 'file' cannot be a folder: '.*file' is a file"),
    (TRAIN, 'no_probe.py --work-dir file/x', "`work_dir` 'file/x' cannot be a folder: '.*file' is a file"),
    (TRAIN, 'no_probe.py --cfg-options modeel.neck=None', 'did you mean `model.neck`'),
    (TRAIN, 'no_probe.py --cfg-options default_hooks.checkpoint.max_keep=1', 'max_keep` is not a field of Safe'),
    (TRAIN, 'no_probe.py --cfg-options model.neck.depth=-1', r'`neck\.depth` must be an integer'),
    (TRAIN, 'no_probe.py --cfg-options model.head=None', '`head` must be a dict'),
    (TRAIN, 'no_probe.py --cfg-options model.backbone.arch=x', r'in `model\.backbone` of the config'),
    (TEST, 'no.py no.pth', NO_CONFIG),
    (TEST, 'test.py no.pth --work-dir file', "`work_dir` 'file' cannot be a folder"),
    (TEST, 'test.py no.pth', NO_CHECKPOINT),
    (TEST, 'no_probe.py no.pth', 'nothing to test'),
    (CHECK, 'no', "'no' is neither a folder nor a config"),
    (CHECK, 'work --cfg-options a=1', "--cfg-options is for configs, but 'work' is a folder"),
    (CHECK, 'no_probe.py --cfg-options train_dataloder.x=1', 'did you mean `train_dataloader'),
    (CHECK, 'broken.py', r"config 'broken\.py' cannot be read"),
    (MAKE, 'file', 'file'),
    (EVALUATE, 'no.py', NO_CONFIG),
    (EVALUATE, 'no_probe.py', '`custom_hooks` must hold exactly one mmpl.FeatureProbeHook'),
    (EVALUATE, 'work/config.py no.pth', NO_CHECKPOINT),
    (EVALUATE, 'work/config.py text.pth', TEXT),
    (EVALUATE, 'work/config.py text.pth --trust', TEXT),
    (EVALUATE, 'work/config.py wrong.pth', r'does not fit the module.*missing from the checkpoint .* and \d+ more'),
    (EVALUATE, 'work/config.py --k 0', '`k`'),
    (COMPARE, '--config no.py --table', NO_CONFIG),
    (COMPARE, '--table --out no', r'no result in no.runs is one of .*compare_methods\.py as it is now'),
    (COMPARE, '--only x --table', '--only x: no run has such a key'),
    (COMPARE, '--run x', '--run x: there is no such run'),
    (PRETRAIN_SPEED, '--a no.py', NO_CONFIG),
    (PRETRAIN_SPEED, '--a mmpretrain::mae/no.py', 'no.py" does not exist'),
    (PRETRAIN_SPEED, '--device cuda:99', CUDA),
    (DATA_SPEED, '--a no.py', NO_CONFIG),
    (DENSE_SPEED, '--device cuda:99', CUDA),
    (FAKE_CUDA, 'no.py', NO_CONFIG),
    (DRY_RUN, 'no.py', NO_CONFIG),
    (DRILL, '--out file/x', 'file/x'),
    (GPU_CHECK, '--out file/x', 'file/x'),
    (SEEDS, 'no', 'no holds no work directory `seed_'),
    (VQA, '--encoder MAE no.pth', NO_CHECKPOINT),
    (TRANSFER, '--encoder x no.pth', NO_CHECKPOINT),
    (TRANSFER, '--encoder x text.pth', TEXT),
    (TRANSFER, '--encoder x wrong.pth --pretrain-config no.py', r'pretrain_config no\.py does not exist'),
    (EXPORT, 'no.pth out.pth', NO_CHECKPOINT),
    (EXPORT, 'text.pth out.pth', TEXT),
    (EXPORT, 'wrong.pth out.pth', 'encoder keys cannot be mapped|has no key'),
    (IMPORT, 'no.pth out.pth', NO_CHECKPOINT),
    (IMPORT, 'wrong.pth out.pth', 'needs no import'),
    (REPORT, 'work --maps-of no', "maps_of 'no' is not a folder"),
    (REPORT, 'no', "work_dir 'no' does not exist"),
    (REPORT, 'work --config no.py', NO_CONFIG),
    (REPORT, 'work --checkpoint no.pth', NO_CHECKPOINT),
    (REPORT, 'work --checkpoint text.pth', TEXT),
    (REPORT, 'work --checkpoint wrong.pth', 'missing from the checkpoint'),
    (REPORT, 'work --device cuda:99', CUDA),
]


@pytest.mark.parametrize('tool, arguments, message', CASES, ids=[f'{tool} {text}' for tool, text, _ in CASES])
def test_one_line(
    tool: str, arguments: str, message: str, place: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(place)
    monkeypatch.setattr('signal.signal', lambda *args: None)
    monkeypatch.setattr(sys, 'argv', [tool, *arguments.split()])
    monkeypatch.setattr(sys, 'path', [str(ROOT), *sys.path])
    with pytest.raises(SystemExit) as caught:
        runpy.run_path(str(ROOT / 'tools' / tool), run_name='__main__')
    text = caught.value.code
    assert isinstance(text, str)  # the interpreter prints it and exits with 1
    assert text.startswith('error: ') and '\n' not in text
    assert re.search(message, text), text
    assert 'Traceback' not in ''.join(capfd.readouterr())


def test_every_tool_is_tried() -> None:
    files = {path.relative_to(ROOT / 'tools') for path in (ROOT / 'tools').rglob('*.py')}
    inner = ('bench', 'docs')  # which the benchmarks and the site import; they take nothing from users
    tools = {str(path) for path in files if path.parent.name not in inner}
    assert tools == {tool for tool, _, _ in CASES}


def fail(error: Exception) -> Callable[[], None]:
    @user_errors()
    def main() -> None:
        raise error

    return main


def test_which_errors_are_the_users(monkeypatch: pytest.MonkeyPatch) -> None:
    class OwnError(UserError, RuntimeError):
        pass

    for error in (ValueError('a\n  b'), FileNotFoundError('a b'), OwnError('a\nb')):
        with pytest.raises(SystemExit) as caught:
            fail(error)()
        assert caught.value.code == 'error: a b' and caught.value.__cause__ is error
    for bug in (RuntimeError('a'), KeyError('a'), TypeError('a'), AttributeError('a')):
        with pytest.raises(type(bug)):
            fail(bug)()
    monkeypatch.setenv('MMPL_TRACEBACK', '1')
    with pytest.raises(ValueError):
        fail(ValueError('a'))()


def test_fields_and_devices() -> None:
    with pytest.raises(UserError, match='`k` must be an integer'):
        check_number('k', '3', integer=True)
    check_device('device', 'cpu')
    for value in ('cuda:99', 'nonsense'):
        with pytest.raises(ValueError, match=f"`device` must be a device of this machine.*'{value}'"):
            check_device('device', value)


@pytest.mark.parametrize('trust', [False, True])
@pytest.mark.parametrize('zipped', [False, True])
def test_a_file_that_is_no_checkpoint(zipped: bool, trust: bool, tmp_path: Path) -> None:
    """It is told from one that holds more than weights, with either policy and in both of torch's formats."""
    set_load_policy(trust)
    path = tmp_path / 'a.pth'
    torch.save(dict(state_dict=nn.Linear(64, 64).state_dict()), path, _use_new_zipfile_serialization=zipped)
    whole = path.read_bytes()
    assert load_checkpoint(path)
    for content in (whole[: len(whole) // 2], whole[:20], b'', b'hello', b'{"a": 1}', b'\x89PNG\r\n' * 9):
        path.write_bytes(content)
        with pytest.raises(UnreadableCheckpointError, match='a.pth.* cannot be read: it (is empty|was not|is damaged)'):
            load_checkpoint(path)
