"""The strict constructor: mmengine's numbers in few groups, and no custom key without effect."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from mmengine.logging import MMLogger
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


def _settings(model: nn.Module, cfg: dict) -> dict[str, dict]:
    """What the optimizer holds of each parameter, and each of them once."""
    groups = build_optim_wrapper(model, cfg).optimizer.param_groups
    names = {id(p): name for name, p in model.named_parameters()}
    found = [(names[id(p)], {k: v for k, v in g.items() if k != 'params'}) for g in groups for p in g['params']]
    assert len(dict(found)) == len(found)
    return dict(found)


@contextmanager
def logged(caplog: pytest.LogCaptureFixture) -> Iterator[list[str]]:
    """What mmengine's logger says inside of the block; the list is filled at its end."""
    logger, messages = MMLogger.get_current_instance(), []
    logger.addHandler(caplog.handler)
    try:
        yield messages
    finally:
        logger.removeHandler(caplog.handler)
        messages += [record.getMessage() for record in caplog.records]


def test_same_settings_as_mmengine_in_fewer_groups() -> None:
    """With keys that match, every parameter has the settings of mmengine's default constructor."""
    model = Toy()
    keys = {'head': {'lr_mult': 10.0}, 'patch_embed': {'lr_mult': 0.0, 'decay_mult': 0.2}}
    cfg = _cfg('mmpl.StrictOptimWrapperConstructor', **keys)
    strict = _settings(model, cfg)
    assert strict == _settings(model, _cfg('DefaultOptimWrapperConstructor', **keys))
    assert (strict['head.weight']['lr'], strict['head.weight']['weight_decay']) == (1.0, 0.5)
    groups = build_optim_wrapper(model, cfg).optimizer.param_groups
    assert [len(g['params']) for g in groups] == [2, 2, 2]
    assert groups[0]['params'][0] is model.backbone['patch_embed'].weight  # loggers show the first group's rate


@pytest.mark.parametrize('accumulate', [1, 2])
@pytest.mark.parametrize('optimizer', [{}, {'fused': True}, {'foreach': True}])
def test_same_steps_as_mmengine(optimizer: dict, accumulate: int) -> None:
    """Steps with few groups give the bits of steps with a group for each tensor, also where gradients are clipped."""
    results = []
    for constructor in ('mmpl.StrictOptimWrapperConstructor', 'DefaultOptimWrapperConstructor'):
        torch.manual_seed(0)
        model = nn.Sequential(*(nn.Sequential(nn.Linear(24, 24), nn.LayerNorm(24), nn.GELU()) for _ in range(20)))
        cfg = {
            'constructor': constructor,
            'optimizer': {'type': 'AdamW', 'lr': 1e-2, 'weight_decay': 0.5, **optimizer},
            'clip_grad': {'max_norm': 0.01},
            'accumulative_counts': accumulate,
            'paramwise_cfg': {'norm_decay_mult': 0.0, 'bias_decay_mult': 0.0, 'custom_keys': {'3.': {'lr_mult': 0.3}}},
        }
        wrapper = build_optim_wrapper(model, cfg)
        norms = []
        clip = wrapper.clip_func
        wrapper.clip_func = lambda *args, clip=clip, norms=norms, **kwargs: norms.append(clip(*args, **kwargs))
        for _ in range(8):
            wrapper.update_params((model(torch.randn(16, 24)) ** 2).sum())
        results.append((len(wrapper.optimizer.param_groups), torch.stack(norms), list(model.parameters())))
    (few, norms, ours), (many, want_norms, theirs) = results
    assert (few, many) == (3, 80)
    assert torch.equal(norms, want_norms)
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


def test_a_parameter_in_two_places() -> None:
    """As in mmengine an error, unless `bypass_duplicate` says which settings count; a joined group would step twice."""
    model = Toy()
    model.tied = model.head
    model.head_again = nn.Linear(4, 2)
    model.head_again.weight = model.head.weight
    cfg = _cfg('mmpl.StrictOptimWrapperConstructor')
    with pytest.raises(ValueError, match='bypass_duplicate=True'):
        build_optim_wrapper(model, cfg)
    cfg['paramwise_cfg']['bypass_duplicate'] = True
    assert _settings(model, cfg).keys() == dict(model.named_parameters()).keys()


def test_the_log_has_a_table_and_no_line_for_each_tensor(caplog: pytest.LogCaptureFixture) -> None:
    """Frozen tensors are summed by the part of the model that they are in."""
    model = Toy()
    model.backbone.requires_grad_(False)
    with logged(caplog) as messages:
        head = {'lr_mult': 0.5, 'decay_mult': 1.0}
        build_optim_wrapper(model, _cfg('mmpl.StrictOptimWrapperConstructor', head=head))
        MMLogger.get_current_instance().warning('paramwise_options -- afterwards')
    assert [m for m in messages if 'paramwise' in m or 'requires_grad' in m] == ['paramwise_options -- afterwards']
    (table,) = [message for message in messages if 'frozen' in message]
    rows = [line.split() for line in table.splitlines()[2:]]
    assert rows == [['0', '5.000e-02', '0.5000', '0.5', '2', '10'], ['frozen:', 'backbone', '4', '28']]


def test_a_key_that_takes_other_factors_away_is_said(caplog: pytest.LogCaptureFixture) -> None:
    """mmengine gives what a key matches the factor 1 where the key has none: norms there decay after all."""
    model, constructor = Toy(), 'mmpl.StrictOptimWrapperConstructor'
    with logged(caplog) as messages:
        found = _settings(model, _cfg(constructor, backbone={'lr_mult': 0.5}, head={'lr_mult': 0.5, 'decay_mult': 1.0}))
    assert found['backbone.ln1.weight']['weight_decay'] == 0.5
    (said,) = [message for message in messages if 'has the factor 1' in message]
    assert said.startswith('`optim_wrapper.paramwise_cfg.custom_keys.backbone` has no `decay_mult`')
    assert '`norm_decay_mult` say' in said


def test_a_checkpoint_with_other_groups_is_refused() -> None:
    """The error says what to do."""
    model = Toy()
    saved = build_optim_wrapper(model, _cfg('mmpl.StrictOptimWrapperConstructor')).state_dict()
    wrapper = build_optim_wrapper(model, _cfg('mmpl.StrictOptimWrapperConstructor', head={'lr_mult': 0.5}))
    with pytest.raises(ValueError, match=r'2 parameter groups of \[4, 2\] .* 3 of \[2, 2, 2\].*`resume=False`'):
        wrapper.load_state_dict(saved)


def test_unmatched_keys_are_listed_with_near_matches() -> None:
    """Misspelt keys stop the build and the message says what was probably meant; good ones are not listed."""
    with pytest.raises(ValueError, match=r"'pach_embed' \(near matches: \['patch_embed'") as error:
        build_optim_wrapper(Toy(), _cfg('mmpl.StrictOptimWrapperConstructor', pach_embed={}, head={}, qqq={}))
    assert "'qqq'" in str(error.value) and "'head' (" not in str(error.value)


@pytest.mark.parametrize(
    ('field', 'scaled'),
    [('lr', 'custom_keys'), ('weight_decay', 'norm_decay_mult'), ('weight_decay', 'custom_keys.h.d')],
)
def test_what_factors_scale_must_be_given(field: str, scaled: str) -> None:
    """mmengine multiplies what is not there."""
    cfg = _cfg('mmpl.StrictOptimWrapperConstructor', h={'decay_mult': 0.5})
    del cfg['optimizer'][field]
    if scaled.startswith('custom'):
        del cfg['paramwise_cfg']['norm_decay_mult']
    with pytest.raises(
        ValueError, match=f'`optim_wrapper.optimizer.{field}` must be given with .paramwise_cfg.{scaled}'
    ):
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
    assert sum(len(g['params']) for g in wrapper.optimizer.param_groups) == 6
