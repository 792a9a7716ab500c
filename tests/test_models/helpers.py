"""Tiny models for the tests."""

from mmpretrain.registry import MODELS

ARCH = dict(embed_dims=32, num_layers=3, num_heads=4, feedforward_channels=64)


def plmae_cfg(**kwargs) -> dict:
    """A PL-MAE of 16 patches; keyword arguments replace or, for dicts, extend its fields."""
    cfg = dict(
        type='mmpl.PLMAE',
        backbone=dict(type='mmpl.MaskedViT', arch=ARCH, img_size=16, patch_size=4),
        neck=dict(type='mmpl.TokenDecoder', decoder_embed_dims=24, depth=2, num_heads=4),
        head=dict(type='mmpl.TokenReconHead'),
        label_head=dict(num_prototypes=16, hidden_dims=32, bottleneck_dims=8),
        masking=dict(mask_ratio=0.75),
    )
    for name, value in kwargs.items():
        cfg[name] = {**cfg.get(name, {}), **value} if isinstance(value, dict) else value
    return cfg


def build_plmae(attach: bool = True, **kwargs):
    """Build and initialise it; by default somebody has promised to update the teachers."""
    model = MODELS.build(plmae_cfg(**kwargs))
    model.init_weights()
    if attach:
        model.attach_updater('the test')
    return model.train()


def scramble(model, std: float = 0.2, seed: int = 0) -> None:
    """Random values for all parameters, so that no test rests on a zero or a one."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.data += std * torch.randn(parameter.shape, generator=generator)
