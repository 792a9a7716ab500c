#!/usr/bin/env bash
# Visual question answering on easy-vqa: the question alone, random weights, and each checkpoint that is given; one table
# and one picture in work_dirs/vqa.
#
#   bash tools/benchmarks/vqa.sh --encoder MAE CHECKPOINT... --encoder PL-MAE CHECKPOINT... [options]
#
# --help lists the options (--seeds 0 1 2, --tasks frozen finetune, --work-dir, --jobs, ...). A benchmark that was
# stopped goes on where it was.
set -euo pipefail
repo=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)

# shellcheck source=tools/setup_env.sh
source "$repo/tools/setup_env.sh" runtime # without an argument it would get ours
exec "$PYTHON" "$repo/tools/benchmarks/vqa.py" "$@"
