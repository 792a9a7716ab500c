#!/usr/bin/env bash
# From a pre-trained encoder to classification, segmentation and detection on the embedded data, against random
# initialisation: one table and one picture in work_dirs/transfer.
#
#   bash tools/benchmarks/transfer.sh --encoder NAME CHECKPOINT... [options]
#
# One checkpoint, or one for each seed; --encoder again for each further encoder. --help lists the options (--data surfaces,
# --seeds 0 1 2, --tasks, --work-dir, --jobs, ...). A benchmark that was stopped goes on where it was.
set -euo pipefail
repo=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)

# shellcheck source=tools/setup_env.sh
source "$repo/tools/setup_env.sh" runtime # without an argument it would get ours
exec "$PYTHON" "$repo/tools/benchmarks/transfer.py" "$@"
