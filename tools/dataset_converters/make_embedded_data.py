"""Make an embedded data set: class folders, COCO instances and ADE20K-style maps from pixels inside pip wheels."""

import argparse

from mmpl.datasets.embedded.build import VARIANTS, build_embedded
from mmpl.utils.user_errors import user_errors


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('root', nargs='?', default='data/mmpl_embedded', help='folder for all builds (%(default)s)')
    parser.add_argument('--size', default='demo', choices=['demo', 'test'])
    parser.add_argument('--variant', default='plain', choices=sorted(VARIANTS))
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--force', action='store_true', help='build again even if a complete build is there')
    parser.add_argument('--no-progress', action='store_true', help='show no progress bar')
    return parser.parse_args()


@user_errors()
def main() -> None:
    """Build and print the folder."""
    args = parse_args()
    build = build_embedded(args.root, args.size, args.variant, args.seed, not args.no_progress, args.force)
    print(build.folder)


if __name__ == '__main__':
    main()
