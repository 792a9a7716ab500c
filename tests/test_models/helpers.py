"""Tiny models for the tests, and what their memory is measured with."""

import weakref

import torch
from mmpretrain.registry import MODELS
from torch.utils._python_dispatch import TorchDispatchMode

from mmpl.methods import MSA, PLMAE, Method
from mmpl.models import MomentumSchedule

ARCH = MSA.tiny()['backbone']['arch']


def tiny_cfg(method: type[Method], **fields) -> dict:
    """The method's tiny config; keyword arguments replace or, for dicts, extend its fields."""
    cfg = method.tiny()
    for name, value in fields.items():
        cfg[name] = {**cfg.get(name, {}), **value} if isinstance(value, dict) else value
    return cfg


def plmae_cfg(**kwargs) -> dict:
    """A PL-MAE of 16 patches."""
    return tiny_cfg(PLMAE, **kwargs)


def msa_cfg(**kwargs) -> dict:
    """An MSA of 16 patches."""
    return tiny_cfg(MSA, **kwargs)


def _build(cfg: dict, attach: bool):
    model = MODELS.build(cfg)
    model.init_weights()
    if attach:
        model.attach_updater('the test')
    return model.train()


def move_teachers(model, *momenta: float) -> None:
    """Take the part of the hook after a step, with these momenta; one for all, or one for each in their order."""
    teachers = list(model.teachers.values())
    for teacher, momentum in zip(teachers, momenta * len(teachers) if len(momenta) == 1 else momenta, strict=False):
        teacher.momentum = MomentumSchedule(momentum, momentum)
    model.after_step(0.5, epoch=0)


def build_plmae(attach: bool = True, **kwargs):
    """Build and initialise it; by default somebody has promised to update the teachers."""
    return _build(plmae_cfg(**kwargs), attach)


def build_msa(attach: bool = True, **kwargs):
    """The same of MSA."""
    return _build(msa_cfg(**kwargs), attach)


def samples_of(boxes) -> list:
    """Data samples with ``view_boxes``, as the pipeline makes them; (B, 2, 4) numbers."""
    from mmpretrain.structures import DataSample

    return [DataSample(metainfo=dict(view_boxes=box)) for box in boxes]


def scramble(model, std: float = 0.2, seed: int = 0) -> None:
    """Random values for all parameters, so that no test rests on a zero or a one."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.data += std * torch.randn(parameter.shape, generator=generator)


class LiveBytes(TorchDispatchMode):
    """Bytes of the tensors made inside that are alive, and their peak."""

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = 0
        self.storages = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for x in torch.utils._pytree.tree_leaves(out):
            if isinstance(x, torch.Tensor) and x.untyped_storage()._cdata not in self.storages:
                storage = x.untyped_storage()
                self.storages.add(storage._cdata)
                self.live += storage.nbytes()
                weakref.finalize(storage, self._gone, storage._cdata, storage.nbytes())
        self.peak = max(self.peak, self.live)
        return out

    def _gone(self, key: int, size: int) -> None:
        self.storages.discard(key)
        self.live -= size
