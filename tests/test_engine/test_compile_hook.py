"""Compiled blocks compute what the others do, and are compiled once."""

import pytest
import torch
from torch import nn
from torch._dynamo.utils import counters

from mmpl.engine.hooks.compile_hook import compile_blocks
from tests.test_engine.runs import train


def test_a_run_with_compiled_blocks_equals_one_without(tmp_path):
    """Backend 'eager' traces without a C++ compiler."""
    results = []
    for hooks in ([], [dict(type='mmpl.CompileHook', backend='eager')]):
        torch._dynamo.reset()
        counters.clear()
        teacher_hook = dict(type='mmpl.DualTeacherHook', health_interval=1)
        runner = train(tmp_path / str(len(hooks)), custom_hooks=[teacher_hook, *hooks])
        results.append({name: p.detach().clone() for name, p in runner.model.named_parameters()})
    assert results[0].keys() == results[1].keys()
    for name, value in results[0].items():
        torch.testing.assert_close(results[1][name], value, rtol=1e-4, atol=1e-6)
    graphs = counters['stats']['unique_graphs']
    assert 1 <= graphs <= 4, 'student, teachers, decoder; none of the eight steps compiles again'
    assert not counters['graph_break']


def test_refuses_a_model_without_blocks():
    with pytest.raises(TypeError, match='Linear has no TransformerEncoderLayer to compile'):
        compile_blocks(nn.Linear(2, 2))
