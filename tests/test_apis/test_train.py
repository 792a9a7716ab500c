"""The command line of tools/train.py and tools/test.py becomes a config."""

import re
from pathlib import Path

import pytest
import torch

from mmpl.apis import test as test_api
from mmpl.apis import train as train_api
from mmpl.compat.launch import init_distributed


def parsed(config: Path, *options: str):
    return train_api.train_config(train_api.parse_train_args([str(config), *options]))


@pytest.mark.smoke
def test_defaults(tiny_mae_config: Path) -> None:
    cfg = parsed(tiny_mae_config)
    assert cfg.launcher == 'none' and 'resume' not in cfg
    assert cfg.work_dir == str(tiny_mae_config.parent / 'work')
    loader = cfg.train_dataloader
    assert loader.pin_memory is torch.cuda.is_available()
    assert loader.persistent_workers is False  # there are no workers
    assert loader.collate_fn.type == 'default_collate'
    assert cfg.optim_wrapper.type == 'OptimWrapper'


def test_the_console_shows_no_dumps(tiny_mae_config: Path, capfd: pytest.CaptureFixture) -> None:
    """The config, the environment and the hooks are in the log file."""
    runner = train_api.build_runner(parsed(tiny_mae_config, '--cfg-options', 'experiment_name=no_dumps'))
    runner.logger.info('two\nlines')
    text = capfd.readouterr().out
    assert len(text.splitlines()) < 12 and 'two\nlines' in text
    assert re.search(r'Config: \.\.\. \(\d+ lines, in the log file\)', text)
    assert re.search(r'System environment: \.\.\. \(\d+ lines', text)
    (log,) = (tiny_mae_config.parent / 'work').glob('*/*.log')
    assert "type='MAE'" in log.read_text() and 'PyTorch: ' in log.read_text()


def test_work_dir(tiny_mae_config: Path) -> None:
    assert parsed(tiny_mae_config, '--work-dir', 'x/y').work_dir == 'x/y'
    text = tiny_mae_config.read_text()
    tiny_mae_config.write_text(text[: text.index('work_dir =')])
    assert parsed(tiny_mae_config).work_dir == 'work_dirs/tiny_mae'


def test_resume(tiny_mae_config: Path) -> None:
    cfg = parsed(tiny_mae_config, '--resume')
    assert cfg.resume is True and cfg.load_from is None
    cfg = parsed(tiny_mae_config, '--resume', 'a.pth')
    assert cfg.resume is True and cfg.load_from == 'a.pth'


def chosen(config: Path, *options: str):
    """The config after the choice between starting and resuming, and what the log says of it."""
    args = train_api.parse_train_args([str(config), *options])
    cfg = train_api.train_config(args)
    return train_api.start_or_resume(cfg, args), cfg.get('resume'), cfg.get('load_from')


@pytest.mark.parametrize('hook', ['CheckpointHook', 'mmpl.SafeCheckpointHook'])
def test_load_from_starts_and_own_checkpoints_go_on(hook: str, tiny_mae_config: Path, tmp_path: Path) -> None:
    """`load_from` with `resume` is what a run starts from, until it has a checkpoint; what is said stays."""
    text = tiny_mae_config.read_text().replace("'CheckpointHook'", repr(hook))
    tiny_mae_config.write_text(text + "load_from = 'a.pth'\nresume = True\n")
    work, other = tmp_path / 'work', tmp_path / 'other'

    def outcomes(*where: str) -> list:
        return [chosen(tiny_mae_config, *where, *more)[1:] for more in ([], ['--resume'])]

    assert outcomes() == [(False, 'a.pth')] * 2
    message = chosen(tiny_mae_config)[0]
    assert 'starts from the weights of `load_from` a.pth' in message and str(work) in message
    assert chosen(tiny_mae_config, '--resume', 'b.pth') == ('', True, 'b.pth')
    assert chosen(tiny_mae_config, '--cfg-options', 'resume=True') == ('', True, 'a.pth')
    assert chosen(tiny_mae_config, '--cfg-options', 'resume=False') == ('', False, 'a.pth')

    work.mkdir()
    (work / 'epoch_1.pth').touch()
    (work / 'last_checkpoint').write_text(str(work / 'epoch_1.pth'))
    assert outcomes() == [(True, None)] * 2
    assert 'goes on from its own checkpoints' in chosen(tiny_mae_config)[0]
    assert chosen(tiny_mae_config, '--resume', 'b.pth') == ('', True, 'b.pth')
    assert outcomes('--work-dir', str(other)) == [(False, 'a.pth')] * 2
    # Written, but the pointer is not: mmengine's own hook would find nothing and start from random weights.
    (work / 'last_checkpoint').unlink()
    assert outcomes() == [(True, None) if 'Safe' in hook else (False, 'a.pth')] * 2
    tiny_mae_config.write_text(text + 'resume = True\n')
    assert chosen(tiny_mae_config) == ('', True, None)


def test_checkpoints_outside_of_the_work_folder_are_found(tiny_mae_config: Path, tmp_path: Path) -> None:
    hook = f"type='mmpl.SafeCheckpointHook', out_dir={str(tmp_path / 'out')!r}"
    tiny_mae_config.write_text(tiny_mae_config.read_text().replace("type='CheckpointHook'", hook) + 'resume = True\n')
    options = ['--cfg-options', 'load_from=a.pth']
    assert chosen(tiny_mae_config, *options)[1:] == (False, 'a.pth')
    (tmp_path / 'out' / 'work').mkdir(parents=True)
    (tmp_path / 'out' / 'work' / 'epoch_1.pth').touch()
    assert chosen(tiny_mae_config, *options)[1:] == (True, None)


def test_options_come_last(tiny_mae_config: Path) -> None:
    cfg = parsed(tiny_mae_config, '--cfg-options', 'train_dataloader.num_workers=2', 'randomness.seed=[1,2]')
    assert cfg.randomness.seed == [1, 2]
    assert cfg.train_dataloader.persistent_workers is True
    cfg = parsed(
        tiny_mae_config, '--no-persistent-workers', '--no-pin-memory', '--cfg-options', 'train_dataloader.num_workers=2'
    )
    assert cfg.train_dataloader.persistent_workers is False and cfg.train_dataloader.pin_memory is False


def test_options_of_validation_fit_a_run_that_has_none(tiny_mae_config: Path) -> None:
    tiny_mae_config.write_text(
        tiny_mae_config.read_text()
        + "val_dataloader = dict(train_dataloader)\nval_cfg = dict()\nval_evaluator = dict(type='Accuracy')\n"
    )
    options = ['val_dataloader.batch_size=2', 'train_dataloader.batch_size=3']
    cfg = parsed(tiny_mae_config, '--no-validate', '--cfg-options', *options)
    assert cfg.train_dataloader.batch_size == 3
    assert cfg.val_dataloader is cfg.val_cfg is cfg.val_evaluator is None


def test_auto_scale_lr(tiny_mae_config: Path) -> None:
    assert parsed(tiny_mae_config, '--auto-scale-lr').auto_scale_lr.enable is True
    tiny_mae_config.write_text(tiny_mae_config.read_text().replace('auto_scale_lr', 'unused'))
    with pytest.raises(ValueError, match='--auto-scale-lr: the config lacks auto_scale_lr'):
        parsed(tiny_mae_config, '--auto-scale-lr')


def test_amp(tiny_mae_config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    assert parsed(tiny_mae_config, '--amp').optim_wrapper.type == 'mmpl.AutocastOptimWrapper'
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    cfg = parsed(tiny_mae_config, '--amp')
    assert cfg.optim_wrapper.type == 'AmpOptimWrapper' and cfg.optim_wrapper.loss_scale == 'dynamic'
    tiny_mae_config.write_text(tiny_mae_config.read_text().replace("'OptimWrapper'", "'Other'"))
    with pytest.raises(ValueError, match="optim_wrapper.type='Other'"):
        parsed(tiny_mae_config, '--amp')


def test_other_projects_keep_their_collate(tiny_mae_config: Path) -> None:
    tiny_mae_config.write_text(tiny_mae_config.read_text().replace("'mmpretrain'", "'mmdet'"))
    assert 'collate_fn' not in parsed(tiny_mae_config).train_dataloader


def test_restart_resumes(tiny_mae_config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that torchrun starts again goes on from its checkpoint; without one it starts as it was told to."""
    cfg = parsed(tiny_mae_config, '--cfg-options', 'load_from=start.pth')
    monkeypatch.setenv('TORCHELASTIC_RESTART_COUNT', '1')
    Path(cfg.work_dir).mkdir()
    train_api.resume_after_restart(cfg)
    assert cfg.load_from == 'start.pth' and not cfg.get('resume')
    (Path(cfg.work_dir) / 'last_checkpoint').write_text('epoch_1.pth')
    (Path(cfg.work_dir) / 'epoch_1.pth').touch()
    train_api.resume_after_restart(cfg)
    assert cfg.load_from is None and cfg.resume is True
    monkeypatch.setenv('TORCHELASTIC_RESTART_COUNT', '0')
    cfg = parsed(tiny_mae_config)
    train_api.resume_after_restart(cfg)
    assert not cfg.get('resume')


def test_nothing_to_test(tiny_mae_config: Path) -> None:
    options = test_api.parse_test_args([str(tiny_mae_config), 'a.pth'])
    with pytest.raises(ValueError, match='test_dataloader, test_cfg, test_evaluator missing'):
        test_api.test_config(options)
    with pytest.raises(ValueError, match='--show-dir'):
        tiny_mae_config.write_text(tiny_mae_config.read_text().replace('default_hooks', 'unused'))
        test_api.test_config(test_api.parse_test_args([str(tiny_mae_config), 'a.pth', '--show-dir', 'x']))
    with pytest.raises(SystemExit):
        test_api.parse_test_args(['a.py', 'a.pth', '--out-item', 'metrics'])


def test_launcher_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    for name in ('RANK', 'WORLD_SIZE', 'LOCAL_RANK', 'SLURM_PROCID', 'SLURM_NTASKS'):
        monkeypatch.delenv(name, raising=False)
    assert init_distributed('none') is False
    with pytest.raises(ValueError, match="launcher='magic': allowed are none, pytorch, slurm, mpi"):
        init_distributed('magic')
    with pytest.raises(RuntimeError, match='needs RANK, WORLD_SIZE, LOCAL_RANK .*torchrun'):
        init_distributed('pytorch')
    with pytest.raises(RuntimeError, match='SLURM_PROCID.*srun'):
        init_distributed('slurm')
