"""The work behind ``tools/test.py``: evaluate a checkpoint as its config says."""

import argparse
import os
from typing import Any

import mmengine
from mmengine.config import Config
from mmengine.dist import is_main_process
from mmengine.evaluator import DumpResults

from mmpl.apis.train import add_common_arguments, build_runner, load_config, set_loader_defaults
from mmpl.compat import allow_unsafe_load, forbid_unsafe_load, init_distributed, shutdown_distributed
from mmpl.utils.paths import forbid_paths_outside_root
from mmpl.utils.user_errors import user_errors


def parse_test_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line of ``tools/test.py``.

    Args:
        argv (list[str], optional): Arguments; those of the process by default.

    Returns:
        argparse.Namespace: The options.
    """
    parser = argparse.ArgumentParser(description='Evaluate a checkpoint as a config says')
    parser.add_argument('config', help='path of the config')
    parser.add_argument('checkpoint', help='path or URL of the checkpoint')
    parser.add_argument('--out', help='file to write results to (.pkl, or .json for metrics)')
    parser.add_argument('--out-item', choices=('metrics', 'pred'), help='what to write: predictions by default')
    parser.add_argument('--show-dir', help='folder for pictures of predictions, if the config has a visualization hook')
    add_common_arguments(parser)
    options = parser.parse_args(argv)
    if options.out_item is not None and options.out is None:
        parser.error('--out-item needs --out')
    return options


def test_config(options: argparse.Namespace) -> Config:
    """Read the config that ``options`` name and merge the options into it.

    Args:
        options (argparse.Namespace): As from :func:`parse_test_args`.

    Returns:
        Config: Ready for a Runner.

    Raises:
        ValueError: If the config has nothing to test with, or no hook that could draw for ``--show-dir``.
    """
    cfg = load_config(options.config, options)
    cfg.load_from = options.checkpoint
    cfg.resume = False
    if options.show_dir is not None:
        if 'visualization' not in cfg.get('default_hooks', {}):
            raise ValueError('--show-dir: the config lacks default_hooks.visualization')
        # The three projects name the same thing differently.
        fields = {
            'mmseg': {'default_hooks.visualization.draw': True, 'visualizer.save_dir': options.show_dir},
            'mmdet': {
                'default_hooks.visualization.draw': True,
                'default_hooks.visualization.test_out_dir': options.show_dir,
            },
        }
        other = {
            'default_hooks.visualization.enable': True,
            'default_hooks.visualization.out_dir': options.show_dir,
        }
        cfg.merge_from_dict(fields.get(cfg.get('default_scope'), other))
    if options.cfg_options is not None:
        cfg.merge_from_dict(options.cfg_options)
    missing = [field for field in ('test_dataloader', 'test_cfg', 'test_evaluator') if cfg.get(field) is None]
    if missing:
        raise ValueError(
            f'{options.config}: {", ".join(missing)} missing, so there is nothing to test. A pre-training config is '
            'evaluated with tools/evaluate.py (kNN, linear probe) or through a downstream config'
        )
    set_loader_defaults(cfg, not options.no_pin_memory, False)
    return cfg


def test(argv: list[str] | None = None) -> dict[str, Any]:
    """Run ``tools/test.py``.

    Unless ``--trust`` is given, no checkpoint runs code: see :mod:`mmpl.compat.torch_load`.

    Args:
        argv (list[str], optional): Arguments; those of the process by default.

    Returns:
        dict: Metrics by name.
    """
    options = parse_test_args(argv)
    os.environ.setdefault('LOCAL_RANK', str(options.local_rank))
    (allow_unsafe_load if options.trust else forbid_unsafe_load)()
    forbid_paths_outside_root()
    with user_errors():  # what fails later is for torchrun's record() to see
        cfg = test_config(options)
    init_distributed(cfg.launcher, cfg)
    runner = build_runner(cfg)
    if options.out is not None and options.out_item != 'metrics':
        runner.test_evaluator.metrics.append(DumpResults(out_file_path=options.out))
    metrics = runner.test()
    if options.out is not None and options.out_item == 'metrics' and is_main_process():
        mmengine.dump(metrics, options.out)
    shutdown_distributed()
    return metrics
