"""The work behind ``tools/test.py``: evaluate a checkpoint as its config says."""

import argparse
import os
import re
from collections import OrderedDict
from pathlib import Path
from typing import Any

import mmengine
import numpy as np
from mmengine.config import Config
from mmengine.dist import is_main_process
from mmengine.evaluator import DumpResults
from mmengine.hooks import Hook
from mmengine.runner import Runner

from mmpl.apis.train import (
    add_common_arguments,
    build_runner,
    check_work_dir,
    load_config,
    prepare_process,
    set_loader_defaults,
)
from mmpl.checkpoints.fit import CheckpointMismatchError, load_completely
from mmpl.compat import check_checkpoint_path, init_distributed, shutdown_distributed
from mmpl.datasets.agreement import explained_by_data
from mmpl.utils.cfg_options import merge_options
from mmpl.utils.dist import unwrapped
from mmpl.utils.unknown_fields import check_fields
from mmpl.utils.user_errors import user_errors

_ENDINGS = {'pred': ('.pkl', '.pickle'), 'metrics': ('.json', '.yaml', '.yml', '.pkl', '.pickle')}
"""What is written -> endings of files that mmengine writes it to."""


class _FitHook(Hook):
    """Refuses a checkpoint that does not hold the whole model.

    mmengine would log what is missing and evaluate a model that is in part as it was initialised.
    """

    priority = 'VERY_LOW'  # sees what the hooks of the config have made of the checkpoint

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        loaded = checkpoint.get('state_dict', checkpoint)
        state = OrderedDict((re.sub(r'^module\.', '', key), value) for key, value in loaded.items())
        state._metadata = getattr(loaded, '_metadata', OrderedDict())  # type: ignore[attr-defined]
        try:
            load_completely(unwrapped(runner.model), state)
        except CheckpointMismatchError as error:
            raise CheckpointMismatchError(
                f'{runner._load_from}: {error}\n  A checkpoint of pre-training has to be fine-tuned first: '
                'tools/train.py CONFIG --cfg-options model.backbone.init_cfg.checkpoint=CHECKPOINT'
            ) from error


def parse_test_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line of ``tools/test.py``, that of the process by default."""
    parser = argparse.ArgumentParser(description='Evaluate a checkpoint as a config says')
    parser.add_argument('config', help='path of the config')
    parser.add_argument('checkpoint', help='path or URL of the checkpoint')
    parser.add_argument('--out', help='file to write results to (.pkl, or .json for metrics)')
    parser.add_argument('--out-item', choices=tuple(_ENDINGS), help='what to write: predictions by default')
    parser.add_argument('--show-dir', help='folder for pictures of predictions, if the config has a visualization hook')
    add_common_arguments(parser)
    options = parser.parse_args(argv)
    if options.out_item is not None and options.out is None:
        parser.error('--out-item needs --out')
    endings = _ENDINGS[options.out_item or 'pred']
    if options.out is not None and Path(options.out).suffix not in endings:
        what = {'pred': 'predictions (--out-item pred, the default)', 'metrics': 'metrics'}[options.out_item or 'pred']
        parser.error(f'--out {options.out}: {what} are written to files that end in {", ".join(endings)}')
    return options


def test_config(options: argparse.Namespace) -> Config:
    """Read the config that ``options`` name and merge the options into it, ready for a Runner.

    Raises:
        ValueError: The config has nothing to test with, or no hook that could draw for ``--show-dir``.
    """
    cfg = load_config(options.config, options)
    cfg.load_from = options.checkpoint
    cfg.resume = False
    if options.show_dir is not None:
        if 'visualization' not in cfg.get('default_hooks', {}):
            raise ValueError('--show-dir: the config lacks default_hooks.visualization')
        # The three projects name the same thing differently.
        hook = 'default_hooks.visualization'
        switch, folder = dict(
            mmseg=(f'{hook}.draw', 'visualizer.save_dir'), mmdet=(f'{hook}.draw', f'{hook}.test_out_dir')
        ).get(cfg.get('default_scope'), (f'{hook}.enable', f'{hook}.out_dir'))
        cfg.merge_from_dict({switch: True, folder: options.show_dir})
    if options.cfg_options is not None:
        merge_options(cfg, options.cfg_options)
    check_fields(cfg)
    check_work_dir(cfg.work_dir)
    if options.out is not None:
        check_work_dir(os.path.dirname(options.out) or '.', '--out')
    missing = [field for field in ('test_dataloader', 'test_cfg', 'test_evaluator') if cfg.get(field) is None]
    if missing:
        raise ValueError(
            f'{options.config}: {", ".join(missing)} missing, so there is nothing to test. A pre-training config is '
            'evaluated with tools/benchmarks/evaluate_features.py (kNN, linear probe) or through a downstream config'
        )
    set_loader_defaults(cfg, not options.no_pin_memory, False)
    return cfg


def test(argv: list[str] | None = None) -> dict[str, Any]:
    """Run ``tools/test.py``.

    Unless ``--trust`` is given, no checkpoint runs code: see :mod:`mmpl.compat.torch_load`.

    Args:
        argv: Arguments; those of the process by default.

    Returns:
        Metrics by name.

    Raises:
        SystemExit: The config cannot be read, an option does not fit it, or there is no such checkpoint.
        CheckpointMismatchError: The checkpoint lacks a part of the model, or has it in another shape.
    """
    options = parse_test_args(argv)
    prepare_process(options)
    with user_errors():  # what fails later is for torchrun's record() to see
        cfg = test_config(options)
        check_checkpoint_path(cfg.load_from)
    init_distributed(cfg.launcher, cfg)
    runner = build_runner(cfg)
    runner.register_hook(_FitHook())
    if options.out is not None and options.out_item != 'metrics':
        runner.test_evaluator.metrics.append(DumpResults(out_file_path=options.out))
    with explained_by_data(cfg):
        metrics = runner.test()
    if options.out is not None and options.out_item == 'metrics' and is_main_process():
        plain = {name: value.item() if isinstance(value, np.generic) else value for name, value in metrics.items()}
        mmengine.dump(plain, options.out)
    shutdown_distributed()
    return metrics
