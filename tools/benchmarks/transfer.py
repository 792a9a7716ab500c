#!/usr/bin/env python
"""Classification, segmentation and detection on the embedded data, from checkpoints and from random initialisation.

Writes a table (transfer.md, transfer.csv) and a picture with predictions (transfer.png) into the work directory, and
prints the table. Runs that finished are not repeated, one that was killed goes on::

    bash tools/benchmarks/transfer.sh work_dirs/pl_mae_demo/seed_*/epoch_3.pth
    bash tools/benchmarks/transfer.sh --data surfaces work_dirs/pl_mae_surfaces/seed_*/epoch_10.pth
"""

import argparse
import os
import signal
import sys
import time
from pathlib import Path

from mmpl.compat import add_trust_argument, set_load_policy
from mmpl.evaluation.transfer import PRETRAIN, TASKS, TransferError, transfer
from mmpl.utils.user_errors import user_errors

CONFIGS = Path(__file__).resolve().parents[2] / 'configs'


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count() or 1


@user_errors()
def main() -> None:
    """Run the tool."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('checkpoints', nargs='+', help='one pre-training checkpoint, or one for each seed')
    parser.add_argument('--seeds', type=int, nargs='+', default=[0, 1, 2])
    parser.add_argument('--tasks', nargs='+', choices=list(TASKS), default=list(TASKS))
    parser.add_argument(
        '--data', choices=list(PRETRAIN), default='digits', help='scenes and crops of digits or of photographs'
    )
    parser.add_argument(
        '--work-dir', help='folder of all results (default: work_dirs/transfer, or work_dirs/transfer_surfaces)'
    )
    parser.add_argument('--name', default='PL-MAE', help='what the pre-trained encoder is called')
    parser.add_argument('--jobs', type=int, default=cores(), help='runs at once, one thread each (default: all cores)')
    parser.add_argument(
        '--pretrain-config',
        help='the config that made the checkpoints (default: configs/pl_mae_demo.py, or configs/pl_mae_surfaces.py)',
    )
    parser.add_argument('--cfg-options', nargs='+', default=[], help="override fields of every run's config: key=value")
    add_trust_argument(parser)
    args = parser.parse_args()
    set_load_policy(args.trust)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit('stopped'))  # so that the runs are ended, too
    if args.work_dir is None:
        args.work_dir = 'work_dirs/transfer' + ('' if args.data == 'digits' else f'_{args.data}')
    start = time.monotonic()
    try:
        table = transfer(
            args.checkpoints,
            config_dir=CONFIGS / 'downstream',
            pretrain_config=args.pretrain_config,
            data=args.data,
            out=args.work_dir,
            seeds=args.seeds,
            tasks=args.tasks,
            name=args.name,
            jobs=args.jobs,
            options=args.cfg_options,
        )
    except TransferError as error:  # several lines: the end of a log
        sys.exit(f'error: {error}')
    minutes, seconds = divmod(round(time.monotonic() - start), 60)
    print(f'\n{table}\n\ndone in {minutes} min {seconds} s: {args.work_dir}/transfer.{{md,csv,png}}')


if __name__ == '__main__':
    main()
