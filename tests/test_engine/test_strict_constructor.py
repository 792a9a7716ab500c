"""The strict constructor: mmengine's numbers, and no custom key without effect."""

import pytest
from mmengine.optim import build_optim_wrapper
from torch import nn


class Toy(nn.Module):
    """A backbone and a head."""

    def __init__(self) -> None:
        """Build the two layers."""
        super().__init__()
        self.backbone = nn.ModuleDict({'patch_embed': nn.Linear(4, 4), 'ln1': nn.LayerNorm(4)})
        self.head = nn.Linear(4, 2)


def _cfg(constructor: str, **custom_keys: dict) -> dict:
    return {
        'constructor': constructor,
        'optimizer': {'type': 'SGD', 'lr': 0.1, 'weight_decay': 0.5},
        'paramwise_cfg': {'custom_keys': custom_keys, 'norm_decay_mult': 0.0},
    }


def _groups(model: nn.Module, cfg: dict) -> list[tuple]:
    wrapper = build_optim_wrapper(model, cfg)
    return [(g['params'][0].data_ptr(), g['lr'], g['weight_decay']) for g in wrapper.optimizer.param_groups]


def test_same_groups_as_mmengine() -> None:
    """With keys that match, the groups are those of mmengine's default constructor."""
    model = Toy()
    keys = {'head': {'lr_mult': 10.0}, 'patch_embed': {'lr_mult': 0.0, 'decay_mult': 0.2}}
    strict = _groups(model, _cfg('mmpl.StrictOptimWrapperConstructor', **keys))
    assert strict == _groups(model, _cfg('DefaultOptimWrapperConstructor', **keys))
    assert (model.head.weight.data_ptr(), 1.0, 0.5) in strict


def test_unmatched_key_is_named_with_near_match() -> None:
    """A misspelt key stops the build and the message says what was probably meant."""
    with pytest.raises(ValueError, match=r"'pach_embed' \(near matches: \['patch_embed'"):
        build_optim_wrapper(Toy(), _cfg('mmpl.StrictOptimWrapperConstructor', pach_embed={'lr_mult': 0.0}))


def test_all_unmatched_keys_are_listed() -> None:
    """Every bad key is listed, the good ones are not."""
    with pytest.raises(ValueError) as error:
        build_optim_wrapper(Toy(), _cfg('mmpl.StrictOptimWrapperConstructor', zzz={}, head={}, qqq={}))
    assert "'zzz'" in str(error.value) and "'qqq'" in str(error.value) and "'head' (" not in str(error.value)


def test_what_factors_scale_must_be_given() -> None:
    """mmengine multiplies what is not there."""
    cfg = _cfg('mmpl.StrictOptimWrapperConstructor', head={'lr_mult': 0.5})
    del cfg['optimizer']['lr']
    with pytest.raises(ValueError, match='`optim_wrapper.optimizer.lr` must be given with `paramwise_cfg.custom_keys`'):
        build_optim_wrapper(Toy(), cfg)


def test_frozen_parameters_count_as_matched() -> None:
    """A key for a frozen parameter is not an error: frozen is a state, not a typing mistake."""
    model = Toy()
    model.backbone['patch_embed'].requires_grad_(False)
    wrapper = build_optim_wrapper(model, _cfg('mmpl.StrictOptimWrapperConstructor', patch_embed={'lr_mult': 0.0}))
    assert sum(len(g['params']) for g in wrapper.optimizer.param_groups) == 4


def test_wrapped_model() -> None:
    """Names are those of the inner model when the model sits in a wrapper's ``module``."""
    wrapped = nn.Module()
    wrapped.module = Toy()
    wrapper = build_optim_wrapper(wrapped, _cfg('mmpl.StrictOptimWrapperConstructor', **{'head.weight': {}}))
    assert len(wrapper.optimizer.param_groups) == 6
