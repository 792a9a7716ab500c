"""Draw the report of a pre-training run: one HTML page and the same as a PNG.

python tools/visualizations/report.py work_dirs/demo/pl_mae_surfaces/seed_0
"""

import argparse
import logging

from mmpl.compat import add_trust_argument, set_load_policy
from mmpl.utils.user_errors import user_errors
from mmpl.visualization import ReportOptions, build_report


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('work_dir', help='directory of the run')
    parser.add_argument('--config', help='config of the run (default: the one in the directory)')
    parser.add_argument('--checkpoint', help='checkpoint (default: the last one in the directory)')
    parser.add_argument('--out', help='HTML file to write, the PNG goes beside it (default: WORK_DIR/report.html)')
    parser.add_argument('--max-train-images', type=int, default=5000, help='training images to search (default: 5000)')
    parser.add_argument('--maps-of', metavar='FOLDER', help='images whose components and attention are shown')
    parser.add_argument('--device', default='cpu', help='where to compute features (default: cpu)')
    add_trust_argument(parser)
    return parser.parse_args()


@user_errors()
def main() -> None:
    """Draw the report, and say where it is."""
    args = parse_args()
    set_load_policy(args.trust)
    logging.disable(logging.INFO)  # mmengine reports every parameter that it initialises
    options = ReportOptions(max_train_images=args.max_train_images)
    files = build_report(args.work_dir, args.config, args.checkpoint, args.out, options, args.device, args.maps_of)
    for file in files:
        print(f'wrote {file}')


if __name__ == '__main__':
    main()
