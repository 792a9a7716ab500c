"""Probe the frozen features of a pre-trained checkpoint: kNN and linear probe.

Example::

    python tools/benchmarks/evaluate_features.py CONFIG CHECKPOINT --linear
    python tools/benchmarks/evaluate_features.py CONFIG --seed 1 --k 10 20    # random initialisation
    torchrun --nproc_per_node 8 tools/benchmarks/evaluate_features.py CONFIG CHECKPOINT --k 10 20 200
"""

import argparse
import json
import os
from pathlib import Path

from mmengine.dist import get_rank

from mmpl.compat import add_trust_argument, set_load_policy
from mmpl.compat.launch import init_distributed, shutdown_distributed
from mmpl.evaluation import evaluate_features
from mmpl.evaluation.features import POOLS
from mmpl.utils.cfg_options import HELP, CfgOptions
from mmpl.utils.user_errors import user_errors


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('config', help='pre-training config with a FeatureProbeHook among its custom_hooks')
    parser.add_argument('checkpoint', nargs='?', help='checkpoint file; without one: random initialisation')
    parser.add_argument('--random-init', action='store_true', help='random initialisation (no checkpoint allowed)')
    parser.add_argument('--seed', type=int, default=0, help='seed of the random initialisation (default: 0)')
    parser.add_argument('--probe-config', help='take the FeatureProbeHook from this config instead')
    parser.add_argument('--pool', nargs='+', choices=POOLS, help='poolings of the tokens')
    parser.add_argument('--target', help="whose features: the student's, or a teacher's attribute in the model")
    parser.add_argument('--k', nargs='+', type=int, help='numbers of neighbours')
    parser.add_argument('--temperature', type=float, help="temperature of the neighbours' weights")
    parser.add_argument('--linear', action='store_true', help='also train a linear probe')
    parser.add_argument('--C', nargs='+', type=float, help='regularisation of the linear probe (several: choose)')
    parser.add_argument('--max-train-images', type=int, help='use a random subset of the training images')
    parser.add_argument('--out', type=Path, help='write the results to this JSON file')
    parser.add_argument('--cfg-options', nargs='+', action=CfgOptions, help=HELP)
    add_trust_argument(parser)
    args = parser.parse_args()
    if args.random_init and args.checkpoint:
        parser.error(f'--random-init goes without a checkpoint, but got {args.checkpoint!r}')
    return args


@user_errors()
def main() -> None:
    """Run the tool."""
    args = parse_args()
    set_load_policy(args.trust)
    if int(os.environ.get('WORLD_SIZE', '1')) > 1:
        init_distributed('pytorch')
    options = {name: value for name, value in vars(args).items() if name not in ('random_init', 'out', 'trust')}
    report = evaluate_features(**options)
    if get_rank() == 0:
        print(f'{args.checkpoint or f"random initialisation, seed {args.seed}"} ({report["target"]})')
        for name, value in report['results'].items():
            print(f'  {name:24s} {value:6.2f} %')
        if args.out:
            args.out.parent.mkdir(parents=True, exist_ok=True)
            args.out.write_text(json.dumps(report, indent=2) + '\n')
    shutdown_distributed()


if __name__ == '__main__':
    main()
