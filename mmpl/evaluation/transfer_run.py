"""One fine-tuning run of the transfer benchmark: train, test, and pictures of predictions, in this process.

It stands in a module of its own because every run gets a process of its own: ``python -m mmpl.evaluation.transfer_run``
(see :mod:`mmpl.evaluation.transfer`, which starts them).
"""

import argparse
import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.registry import init_default_scope
from mmengine.runner import Runner
from torch import nn

from mmpl.apis.test import test
from mmpl.apis.train import parse_train_args, train, train_config
from mmpl.checkpoints.encoders import read_checkpoint
from mmpl.compat import add_trust_argument, set_load_policy, unsafe_load_allowed
from mmpl.utils.user_errors import UserError

RESULTS = 'results.json'
IDENTITY = 'identity.json'


class TransferMismatchError(UserError, RuntimeError):
    """A work directory holds a run from other weights or another config."""


def encoder_digest(checkpoint: str | os.PathLike) -> str:
    """SHA-256 of the student's encoder in a checkpoint."""
    return read_checkpoint(checkpoint).digest()


def run_options(checkpoint: str | os.PathLike, seed: int, more: Sequence[str] = ()) -> list[str]:
    """What a run gets as ``--cfg-options``.

    Args:
        checkpoint: Checkpoint file with the encoder to start from.
        seed: Seed of the heads' initialisation and of the order of the images.
        more: Further options, ``key=value``; they win.

    Returns:
        The options.
    """
    return [f'model.backbone.init_cfg.checkpoint={checkpoint}', f'randomness.seed={seed}', *more]


def _identity(config: str, checkpoint: str, seed: int, options: Sequence[str]) -> dict[str, Any]:
    """What a run follows from; two runs with the same identity would give the same results."""
    cfg = train_config(parse_train_args([config, '--cfg-options', *run_options('', seed, options)]))
    text = json.dumps({k: v for k, v in cfg.to_dict().items() if k != 'work_dir'}, sort_keys=True, default=str)
    return {'encoder': encoder_digest(checkpoint), 'config': hashlib.sha256(text.encode()).hexdigest(), 'seed': seed}


def _claim(work_dir: Path, identity: dict[str, Any]) -> None:
    """Note what the run follows from, or refuse to go on with a run that follows from something else."""
    path = work_dir / IDENTITY
    if not path.is_file():
        path.write_text(json.dumps(identity, indent=2) + '\n')
        return
    found = json.loads(path.read_text())
    names = {'encoder': 'other weights', 'config': 'another config', 'seed': 'another seed'}
    different = [text for field, text in names.items() if found.get(field) != identity[field]]
    if different:
        raise TransferMismatchError(
            f'{work_dir} holds a run from {" and ".join(different)}: remove it, or choose another --work-dir'
        )


def _pictures(cfg: Config, model: nn.Module, folder: Path, count: int) -> list[dict[str, Any]]:
    """Draw what the model predicts for ``count`` images, evenly spaced over the test set."""
    from mmpl.visualization.predictions import draw_predictions

    init_default_scope(cfg.default_scope)
    loader_cfg = cfg.test_dataloader.copy()
    loader_cfg.batch_size = 1
    total = len(Runner.build_dataloader(loader_cfg).dataset)
    count = min(count, total)
    loader_cfg.dataset = dict(loader_cfg.dataset, indices=[i * total // count for i in range(count)])
    loader = Runner.build_dataloader(loader_cfg)
    model = model.to(get_device()).eval()
    with torch.no_grad():
        samples = [sample for batch in loader for sample in model.test_step(batch)]
    return draw_predictions(samples, loader.dataset.metainfo, folder)


def run(
    config: str, checkpoint: str, seed: int, work_dir: str | os.PathLike, pictures: int = 6, options: Sequence[str] = ()
) -> dict[str, Any]:
    """Fine-tune, test and draw; a run that was killed goes on, a finished one is not repeated.

    Args:
        config: Downstream config with a ``test_dataloader``.
        checkpoint: Checkpoint file with the encoder to start from.
        seed: Seed of the heads' initialisation and of the order of the images.
        work_dir: Folder of logs, checkpoints, pictures and ``results.json``.
        pictures: How many test images to draw predictions for.
        options: Overrides of the config, ``key=value``.

    Returns:
        ``metrics``, all that the evaluator returned, and ``pictures``; see
        :func:`mmpl.visualization.predictions.draw_predictions`.

    Raises:
        FileNotFoundError: If the config or the checkpoint is missing.
        TransferMismatchError: If the folder holds a run from another encoder, config or seed.
        mmpl.checkpoints.fit.CheckpointMismatchError: If the checkpoint does not fit the config's backbone.
    """
    work_dir = Path(work_dir)
    work_dir.mkdir(parents=True, exist_ok=True)
    with FileLock(str(work_dir / '.lock')):  # a second process waits here, and then finds the results
        _claim(work_dir, _identity(config, checkpoint, seed, options))
        results = work_dir / RESULTS
        if results.is_file():
            return json.loads(results.read_text())
        cfg_options = ['--cfg-options', *run_options(checkpoint, seed, options)]
        where = ['--work-dir', str(work_dir)]
        trust = ['--trust'] if unsafe_load_allowed() else []
        train_argv = [config, *where, *trust, '--resume', '--no-validate', *cfg_options]
        model = train(train_argv)
        trained = (work_dir / 'last_checkpoint').read_text().strip()
        metrics = test([config, trained, *where, *trust, *cfg_options])
        cfg = train_config(parse_train_args([config, *where, *cfg_options]))
        content = {
            'metrics': {key: float(value) for key, value in metrics.items()},
            'pictures': _pictures(cfg, model, work_dir / 'pictures', pictures) if pictures else [],
        }
        partial = results.with_suffix('.tmp')
        partial.write_text(json.dumps(content, indent=2) + '\n')
        partial.replace(results)  # whole or not there
    return content


def main(argv: list[str] | None = None) -> None:
    """Run as a program."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('config', help='downstream config')
    parser.add_argument('checkpoint', help='checkpoint with the encoder to start from')
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--work-dir', required=True)
    parser.add_argument('--pictures', type=int, default=6, help='number of test images to draw predictions for')
    parser.add_argument('--cfg-options', nargs='+', default=[], help='override fields of the config: key=value')
    add_trust_argument(parser)
    args = parser.parse_args(argv)
    set_load_policy(args.trust)
    run(args.config, args.checkpoint, args.seed, args.work_dir, args.pictures, args.cfg_options)


if __name__ == '__main__':
    main()
