"""One reader of encoders: whichever project wrote the file, and whichever encoder is asked for."""

import hashlib
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.logging import HistoryBuffer
from torch import Tensor, nn

from mmpl.checkpoints import load_encoder, read_checkpoint
from mmpl.checkpoints.fit import CheckpointMismatchError
from mmpl.compat import UnreadableCheckpointError, UntrustedCheckpointError

VIT = 'patch_embed.projection'  # a module of mmpretrain's ViT and of its Swin


class Encoder(nn.Module):
    """Keys as of a ViT, in little."""

    def __init__(self, length: int = 5) -> None:
        super().__init__()
        self.pos_embed = nn.Parameter(torch.randn(1, length, 4))
        self.patch_embed = nn.Module()
        self.patch_embed.projection = nn.Conv2d(3, 4, 2)


def tensors(encoder: nn.Module, prefix: str = '') -> dict[str, Tensor]:
    return {prefix + key: value for key, value in encoder.state_dict().items()}


def save(path: Path, *parts: dict, **content: object) -> str:
    """A checkpoint of mmengine, or the bare state dict if there is nothing else in it."""
    state = {key: value for part in parts for key, value in part.items()}
    torch.save(dict(content, state_dict=state) if content else state, path)
    return str(path)


@pytest.fixture
def student() -> Encoder:
    torch.manual_seed(0)
    return Encoder()


@pytest.fixture
def teacher() -> Encoder:
    torch.manual_seed(1)
    return Encoder()


@pytest.mark.parametrize('wrapper', ['', 'module.', '_orig_mod.', '_orig_mod.module.'])
@pytest.mark.parametrize('meta', [{}, dict(meta={})])
def test_student_and_teachers_of_any_method(tmp_path: Path, student, teacher, wrapper: str, meta: dict) -> None:
    parts = tensors(teacher, f'{wrapper}slow.backbone.'), tensors(student, f'{wrapper}backbone.')
    found = read_checkpoint(save(tmp_path / 'a.pth', *parts, {f'{wrapper}neck.token': torch.zeros(1)}, **meta))
    assert list(found.sources.items()) == [('slow', 'slow.backbone.'), ('student', 'backbone.')]
    assert found.config == {}
    for source, encoder in (('student', student), ('slow', teacher)):
        got, want = found.encoder(source), encoder.state_dict()
        assert list(got) == list(want) and all(torch.equal(got[key], want[key]) for key in want)
        module = Encoder()
        load_encoder(module, found, source)
        assert all(torch.equal(value, want[key]) for key, value in module.state_dict().items())
    with pytest.raises(
        CheckpointMismatchError, match=r"a\.pth: .* no encoder 'fast'. Its encoders are: 'slow', 'studen"
    ):
        found.encoder('fast')


def test_encoders_without_a_prefix_or_inside_of_one_another(tmp_path: Path, student) -> None:
    bare = read_checkpoint(save(tmp_path / 'bare.pth', tensors(student)))
    assert bare.sources == {'student': ''} and set(bare.encoder()) == set(student.state_dict())
    nested = read_checkpoint(save(tmp_path / 'n.pth', *({f'{key}backbone.w': torch.ones(1)} for key in ('', 'a.b.'))))
    assert nested.sources == {'student': 'backbone.', 'a.b': 'a.b.backbone.'}
    inner = read_checkpoint(
        save(tmp_path / 'i.pth', {'backbone.a.backbone.w': torch.ones(1), 'my_backbone.w': torch.ones(1)})
    )
    assert inner.sources == {'student': 'backbone.'} and list(inner.encoder()) == ['a.backbone.w']
    foreign = read_checkpoint(save(tmp_path / 'f.pth', {'encoder.w': torch.ones(1), 'bias': torch.ones(1)}))
    with pytest.raises(CheckpointMismatchError, match=r"no encoder 'student'\. Its prefixes are: 'encoder\.'"):
        foreign.digest()


def test_digest_is_of_the_encoder_wherever_it_is(tmp_path: Path, student, teacher) -> None:
    """Recomputed as kept results were identified: keys with prefix, shapes, types and bytes, by ascending key."""
    want = hashlib.sha256()
    for key, value in sorted(tensors(student, 'backbone.').items()):
        want.update(f'{key} {tuple(value.shape)} {value.dtype}'.encode() + value.detach().numpy().tobytes())
    more = read_checkpoint(save(tmp_path / 'a.pth', tensors(teacher, 'backbone.'), tensors(student, 'slow.backbone.')))
    bare = read_checkpoint(save(tmp_path / 'b.pth', tensors(student)))
    assert bare.digest() == more.digest('slow') == want.hexdigest() != more.digest()
    half = read_checkpoint(save(tmp_path / 'c.pth', tensors(student.bfloat16())))
    assert half.digest() != bare.digest()


def test_every_key_must_fit_and_nothing_is_changed_otherwise(tmp_path: Path, student) -> None:
    state = tensors(Encoder(), 'backbone.')
    del state['backbone.pos_embed']
    state |= {'backbone.extra': torch.zeros(1), f'backbone.{VIT}.bias': torch.zeros(3)}
    before = {key: value.clone() for key, value in student.state_dict().items()}
    with pytest.raises(CheckpointMismatchError) as caught:
        load_encoder(student, save(tmp_path / 'a.pth', state))
    text = str(caught.value)
    assert text.startswith(f"{tmp_path / 'a.pth'}: checkpoint under prefix 'backbone.' does not fit the module:\n")
    assert 'missing from the checkpoint (1):\n    pos_embed\n' in text
    assert 'unexpected in the checkpoint (1):\n    extra\n' in text
    assert f'of another shape (1):\n    {VIT}.bias: (3,) in the checkpoint, (4,) in the module' in text
    assert all(torch.equal(value, before[key]) for key, value in student.state_dict().items())
    with pytest.raises(CheckpointMismatchError, match='unexpected'):
        load_encoder(student, tmp_path / 'a.pth', ignore=('pos_embed', '*.bias'))
    load_encoder(student, tmp_path / 'a.pth', ignore=('pos_embed', 'extra', '*.bias'))
    assert torch.equal(student.pos_embed, before['pos_embed'])
    assert torch.equal(student.patch_embed.projection.weight, state[f'backbone.{VIT}.weight'])


def test_only_what_the_module_interpolates_may_differ_in_length(tmp_path: Path, student) -> None:
    longer = Encoder(length=10)
    longer.register_load_state_dict_pre_hook(
        lambda module, state, prefix, *_: state.update(
            {f'{prefix}pos_embed': state[f'{prefix}pos_embed'].repeat(1, 2, 1)}
        )
    )
    path = save(tmp_path / 'a.pth', tensors(student))
    with pytest.raises(
        CheckpointMismatchError, match=r'pos_embed: \(1, 5, 4\) in the checkpoint, \(1, 10, 4\) in the mod'
    ):
        load_encoder(longer, path)
    load_encoder(longer, path, resizable=('pos_embed',))
    assert torch.equal(longer.pos_embed, student.pos_embed.repeat(1, 2, 1))


@pytest.mark.parametrize(
    'content', [dict(a=1), {}, dict(state_dict={}), dict(state_dict=[]), dict(state_dict=dict(a=1))]
)
def test_no_state_dict(tmp_path: Path, content: dict) -> None:
    torch.save(content, tmp_path / 'a.pth')
    with pytest.raises(CheckpointMismatchError, match=r'a\.pth: checkpoint holds no `state_dict` of tensors'):
        read_checkpoint(tmp_path / 'a.pth')


def test_no_file_and_no_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r'none\.pth.* does not exist'):
        load_encoder(nn.Module(), tmp_path / 'none.pth')
    (tmp_path / 'text.pth').write_text('hello')
    with pytest.raises(UnreadableCheckpointError, match=r'text\.pth'):
        read_checkpoint(tmp_path / 'text.pth')


def test_the_config_is_parsed_and_never_run(tmp_path: Path, student) -> None:
    canary = tmp_path / 'ran'
    text = (
        f'import pathlib\nx = pathlib.Path({str(canary)!r}).touch()\n'
        "model = dict(backbone=dict(arch={'num_heads': 3}, size=(4, -8), kind=float))\n"
    )
    found = read_checkpoint(save(tmp_path / 'a.pth', tensors(student), meta=dict(cfg=text)))
    assert found.config == dict(x=None, model=dict(backbone=dict(arch=dict(num_heads=3), size=[4, -8], kind=None)))
    assert not canary.exists()
    given = read_checkpoint(save(tmp_path / 'b.pth', tensors(student), meta=dict(cfg=dict(a=1))))
    assert given.config == dict(a=1)
    broken = read_checkpoint(save(tmp_path / 'c.pth', tensors(student), meta=dict(cfg='model = dict(')))
    assert set(broken.encoder()) == set(student.state_dict())  # which needs no config
    with pytest.raises(CheckpointMismatchError, match=r"c\.pth: meta\['cfg'\] is not a Python config"):
        _ = broken.config


class _Evil:
    def __reduce__(self):
        return os.mkdir, ('was_here',)


class _Reach:
    """Asks for an attribute that leads out of mmengine's log history."""

    def __reduce__(self):
        return getattr, (HistoryBuffer, '__init__')


def test_a_checkpoint_runs_no_code_and_log_history_is_fine(tmp_path: Path, student, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    history = HistoryBuffer()
    history.update(np.float64(1.5))
    hub = dict(log_scalars=dict(loss=history))
    assert read_checkpoint(save(tmp_path / 'a.pth', tensors(student), message_hub=hub)).state_dict
    for bad in (_Evil(), _Reach()):
        path = save(tmp_path / 'b.pth', tensors(student), more=bad)
        for trust in (None, False):
            with pytest.raises(UntrustedCheckpointError):
                read_checkpoint(path, trust)
    assert not Path('was_here').exists()
    assert read_checkpoint(save(tmp_path / 'b.pth', tensors(student), more=_Evil()), trust=True).sources
    assert Path('was_here').exists()


def test_of_a_work_folder_the_checkpoint_is_named(tmp_path: Path) -> None:
    for number in (1, 2):
        (tmp_path / f'epoch_{number}.pth').write_bytes(b'x')
    (tmp_path / 'last_checkpoint').write_text(str(tmp_path / 'epoch_1.pth'))
    with pytest.raises(FileNotFoundError, match=r"is a folder without .*; the checkpoint of a run is '.*epoch_1\.pth'"):
        read_checkpoint(str(tmp_path))
