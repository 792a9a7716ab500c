"""Tiny models for the tests, and what their memory is measured with."""

import weakref

import torch
from mmpretrain.registry import MODELS
from torch.utils._python_dispatch import TorchDispatchMode

ARCH = dict(embed_dims=32, num_layers=3, num_heads=4, feedforward_channels=64)


def _extend(cfg: dict, fields: dict) -> dict:
    common = dict(
        backbone=dict(type='mmpl.MaskedViT', arch=ARCH, img_size=16, patch_size=4),
        neck=dict(type='mmpl.TokenDecoder', decoder_embed_dims=24, depth=2, num_heads=4),
        head=dict(type='mmpl.TokenReconHead'),
        masking=dict(mask_ratio=0.75),
    )
    cfg = common | cfg
    for name, value in fields.items():
        cfg[name] = {**cfg.get(name, {}), **value} if isinstance(value, dict) else value
    return cfg


def plmae_cfg(**kwargs) -> dict:
    """A PL-MAE of 16 patches; keyword arguments replace or, for dicts, extend its fields."""
    label_head = dict(num_prototypes=16, hidden_dims=32, bottleneck_dims=8)
    return _extend(dict(type='mmpl.PLMAE', label_head=label_head), kwargs)


def msa_cfg(**kwargs) -> dict:
    """An MSA of 16 patches; keyword arguments replace or, for dicts, extend its fields."""
    return _extend(dict(type='mmpl.MSA', align_head=dict(hidden_dims=32, out_dims=8)), kwargs)


def _build(cfg: dict, attach: bool):
    model = MODELS.build(cfg)
    model.init_weights()
    if attach:
        model.attach_updater('the test')
    return model.train()


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
