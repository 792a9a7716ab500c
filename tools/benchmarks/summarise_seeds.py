"""Table of the runs in WORK_DIR/seed_*: kNN and linear probe before and after pre-training, mean ± sd over the seeds.

python tools/benchmarks/summarise_seeds.py work_dirs/pl_mae_demo
"""

import argparse

from mmpl.evaluation.summary import as_markdown, seed_dirs, summarise_seeds, write_summary
from mmpl.utils.user_errors import user_errors


@user_errors()
def main() -> None:
    """Collect, write results.json into WORK_DIR and into each run, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('work_dir', help='folder that holds the work directories seed_*')
    parser.add_argument('--name', default='PL-MAE', help='what the pre-trained encoder is called (default: PL-MAE)')
    args = parser.parse_args()
    rows = summarise_seeds(args.work_dir, args.name)
    write_summary(rows, args.work_dir, *seed_dirs(args.work_dir))
    print(as_markdown(rows))


if __name__ == '__main__':
    main()
