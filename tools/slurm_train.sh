#!/usr/bin/env bash
# Train under Slurm, one task per GPU:
#
#   [GPUS=8] [GPUS_PER_NODE=8] [CPUS_PER_TASK=8] [SRUN_ARGS=...] \
#       tools/slurm_train.sh PARTITION JOB_NAME CONFIG WORK_DIR [options of tools/train.py]
#
# GPUS_PER_NODE=0 trains on CPUs, with GPUS tasks. A job that Slurm requeues goes on where it was with `resume = True`
# (as in our configs) or --resume. Exit code 75: told to stop, saved, to be started again; see docs/robustness.md.
set -euo pipefail

if [ $# -lt 4 ]; then
    sed -n '2,8s/^# \{0,1\}//p' "$0" >&2
    exit 2
fi
# shellcheck source=tools/slurm_args.sh
source "$(dirname "${BASH_SOURCE[0]}")/slurm_args.sh"
exec "${SRUN[@]}" "$HERE/train.py" "$3" --work-dir="$4" --launcher=slurm "${@:5}"
