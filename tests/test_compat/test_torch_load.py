"""Checkpoints load where they should, and never run code."""

import argparse
import os
import pickle
import re
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.logging import HistoryBuffer
from mmengine.model import BaseModule
from mmengine.model.weight_init import PretrainedInit, initialize
from mmengine.runner import CheckpointLoader, Runner

from mmpl.apis.train import train
from mmpl.compat import (
    UntrustedCheckpointError,
    allow_unsafe_load,
    load_checkpoint,
    safe_loading,
    set_load_policy,
    unsafe_load_allowed,
)
from mmpl.compat.torch_load import restored_load_policy


class Payload:
    """Unpickled by the book, this writes the canary file."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self):
        return os.system, (f'touch {self.canary}',)


@pytest.fixture
def canary(tmp_path: Path) -> Path:
    return tmp_path / 'canary'


@pytest.fixture
def poisoned(tmp_path: Path, canary: Path) -> Path:
    path = tmp_path / 'poisoned.pth'
    torch.save({'meta': {'payload': Payload(canary)}, 'state_dict': {'weight': torch.zeros(2, 2)}}, path)
    return path


def test_the_payload_works(poisoned: Path, canary: Path) -> None:
    """Without this, all the tests below would prove nothing."""
    torch.load(poisoned, weights_only=False)
    assert canary.exists()


@pytest.mark.smoke
def test_everything_mmengine_stores_loads(tmp_path: Path) -> None:
    buffer = HistoryBuffer()
    for i in range(5):
        buffer.update(i / 3, 2)
    stored = {
        'buffer': buffer,
        'float': np.float64(0.25),
        'float32': np.float32(0.25),
        'int': np.int64(3),
        'bool': np.bool_(True),
        'arrays': [np.arange(6).reshape(2, 3), np.ones(2, np.float32), np.zeros(3, np.uint8), np.array([True])],
        'ordered': OrderedDict(a=(1, 'x', None)),
    }
    path = tmp_path / 'stored.pth'
    torch.save(stored, path)
    for loaded in (torch.load(path, weights_only=True), load_checkpoint(path)):
        assert loaded['buffer'].mean() == buffer.mean() and loaded['buffer'].current() == buffer.current()
        assert loaded['buffer'].statistics('max') == 4 / 3
        for key in ('float', 'float32', 'int', 'bool', 'ordered'):
            assert loaded[key] == stored[key]
        for got, want in zip(loaded['arrays'], stored['arrays'], strict=True):
            assert got.dtype == want.dtype and (got == want).all()


def test_numpy_1_names_load(tmp_path: Path) -> None:
    """numpy 1 wrote ``numpy.core``, numpy 2 writes ``numpy._core``: each must read the other's files."""
    torch.save([np.float64(1.5), np.arange(3)], tmp_path / 'here.pth')
    for name in (b'cnumpy.core.multiarray\n', b'cnumpy._core.multiarray\n'):
        with zipfile.ZipFile(tmp_path / 'here.pth') as here, zipfile.ZipFile(tmp_path / 'other.pth', 'w') as other:
            for member in here.namelist():
                other.writestr(member, re.sub(rb'cnumpy\._?core\.multiarray\n', name, here.read(member)))
        number, array = torch.load(tmp_path / 'other.pth', weights_only=True)
        assert number == 1.5 and array.tolist() == [0, 1, 2]


def test_namespaces_of_plain_values_load(tmp_path: Path, canary: Path) -> None:
    """MAE's official files hold the options of their run; elsewhere torch refuses them as before."""
    path = tmp_path / 'mae.pth'
    args = argparse.Namespace(model='mae_vit_base_patch16', blr=1.5e-4, betas=[0.9, 0.95])
    torch.save(dict(model=dict(weight=torch.ones(2)), args=args, epoch=799), path)
    assert load_checkpoint(path)['args'] == args
    with pytest.raises(pickle.UnpicklingError, match='Namespace'):
        torch.load(path, weights_only=True)
    torch.save(dict(model=dict(weight=torch.ones(2)), args=argparse.Namespace(model=Payload(canary))), path)
    with pytest.raises(UntrustedCheckpointError):
        load_checkpoint(path)
    assert not canary.exists()


def test_a_namespace_that_was_allowed_stays_so(tmp_path: Path) -> None:
    torch.save(dict(args=argparse.Namespace(a=1)), tmp_path / 'x.pth')
    with torch.serialization.safe_globals([argparse.Namespace]):
        load_checkpoint(tmp_path / 'x.pth')
        torch.load(tmp_path / 'x.pth', weights_only=True)


@pytest.mark.smoke
def test_load_checkpoint_refuses(poisoned: Path, canary: Path) -> None:
    with pytest.raises(UntrustedCheckpointError, match='poisoned.pth.*--trust'):
        load_checkpoint(poisoned)
    assert not canary.exists()
    load_checkpoint(poisoned, trust=True)
    assert canary.exists()
    canary.unlink()
    # The permission was for one file.
    with pytest.raises(UntrustedCheckpointError):
        load_checkpoint(poisoned)
    assert not canary.exists()


@pytest.mark.smoke
def test_load_checkpoint_follows_the_process(poisoned: Path, canary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv('TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD', '1')  # as other projects ask for; nobody said --trust
    with pytest.raises(UntrustedCheckpointError):
        load_checkpoint(poisoned)
    set_load_policy(True)
    with pytest.raises(UntrustedCheckpointError):
        load_checkpoint(poisoned, trust=False)
    assert not canary.exists()
    with safe_loading():
        load_checkpoint(poisoned)
    assert canary.exists()
    canary.unlink()
    with restored_load_policy():
        set_load_policy(False)
        with safe_loading(), pytest.raises(UntrustedCheckpointError):
            load_checkpoint(poisoned)
    assert unsafe_load_allowed() and not canary.exists()
    load_checkpoint(poisoned)
    assert canary.exists()


def test_load_checkpoint_names_what_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match='nowhere.pth'):
        load_checkpoint(tmp_path / 'nowhere.pth')
    torch.save([1, 2], tmp_path / 'list.pth')
    with pytest.raises(ValueError, match='holds a list'):
        load_checkpoint(tmp_path / 'list.pth')


@pytest.mark.smoke
def test_forbidden_process_wide(poisoned: Path, canary: Path) -> None:
    """Also where a library asks for unsafe loading itself, as OneDL's mmengine and torch.hub do."""
    set_load_policy(trust=False)
    with pytest.raises(pickle.UnpicklingError):
        torch.load(poisoned, weights_only=False)
    with pytest.raises(UntrustedCheckpointError):
        CheckpointLoader.load_checkpoint(str(poisoned), map_location='cpu')
    module = BaseModule()
    module.weight = torch.nn.Parameter(torch.ones(2, 2))
    with pytest.raises(UntrustedCheckpointError):
        initialize(module, dict(type='Pretrained', checkpoint=str(poisoned)))
    with pytest.raises(UntrustedCheckpointError):
        PretrainedInit(str(poisoned), prefix='backbone.')(module)
    assert not canary.exists()
    allow_unsafe_load()
    CheckpointLoader.load_checkpoint(str(poisoned), map_location='cpu')
    assert canary.exists()


def test_downloads_are_forbidden_too(poisoned: Path, canary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv('TORCH_HOME', str(poisoned.parent))
    set_load_policy(trust=False)
    with pytest.raises((UntrustedCheckpointError, pickle.UnpicklingError)):
        torch.hub.load_state_dict_from_url(poisoned.as_uri(), progress=False)
    assert not canary.exists()


def test_getattr_reaches_nothing_else(tmp_path: Path) -> None:
    """A HistoryBuffer is pickled with getattr; the real one would hand out any attribute of any allowed class."""
    real = HistoryBuffer()

    class Reach:
        def __init__(self, name: str) -> None:
            self.name = name

        def __reduce__(self):
            return getattr, (HistoryBuffer, self.name)

    torch.save({'a': Reach('mean')}, tmp_path / 'good.pth')
    assert load_checkpoint(tmp_path / 'good.pth')['a'] is HistoryBuffer.mean
    torch.save({'a': Reach('__init__')}, tmp_path / 'bad.pth')
    with pytest.raises(UntrustedCheckpointError, match='__init__'):
        load_checkpoint(tmp_path / 'bad.pth')
    assert real.statistics  # the class was not changed


def _poison(checkpoint: Path, target: Path, **meta) -> None:
    content = torch.load(checkpoint, weights_only=True)
    content['meta'].update(meta)
    torch.save(content, target)


@pytest.mark.smoke
@pytest.mark.slow
def test_resume_and_canaries_through_train(tiny_mae_config: Path, canary: Path, tmp_path: Path) -> None:
    """One run, resumed from its own checkpoint, then from poisoned copies: resume, load_from and old-style source."""
    train([str(tiny_mae_config), '--cfg-options', 'train_cfg.max_epochs=1'])
    first = tmp_path / 'work' / 'epoch_1.pth'
    train([str(tiny_mae_config), '--resume'])
    second = torch.load(tmp_path / 'work' / 'epoch_2.pth', weights_only=True)
    assert second['meta']['epoch'] == 2 and second['meta']['iter'] == 8
    # Resumed, the log has the first epoch's four losses and the second's.
    assert len(second['message_hub']['log_scalars']['train/loss']._log_history) == 8

    bad = tmp_path / 'bad.pth'
    _poison(first, bad, payload=Payload(canary))
    starts = ((['--resume', str(bad)], UntrustedCheckpointError), (['--cfg-options', f'load_from={bad}'], SystemExit))
    for options, error in starts:
        with pytest.raises(error, match='was refused, and none of its code was run'):
            train([str(tiny_mae_config), *options])
        assert not canary.exists()

    source = tmp_path / 'source.pth'
    _poison(first, source, config=f'open({str(canary)!r}, "w").close()\n')
    train([str(tiny_mae_config), '--resume', str(source)])
    assert not canary.exists()
    train([str(tiny_mae_config), '--resume', str(bad), '--trust'])
    assert canary.exists()


def test_meta_config_would_be_run(tiny_mae_config: Path, canary: Path) -> None:
    """Guard of the guard: mmengine really runs ``meta['config']``; if that ends, so can our dropping it."""
    Config.fromstring(f'open({str(canary)!r}, "w").close()\n', file_format='.py')
    assert canary.exists()
    import inspect

    assert "checkpoint['meta']['config']" in inspect.getsource(Runner.resume)
