#!/usr/bin/env bash
# Evaluate a checkpoint under Slurm, one task per GPU; the environment variables are those of slurm_train.sh:
#
#   tools/slurm_test.sh PARTITION JOB_NAME CONFIG CHECKPOINT [options of tools/test.py]
set -euo pipefail

if [ $# -lt 4 ]; then
    sed -n '2,4s/^# \{0,1\}//p' "$0" >&2
    exit 2
fi
# shellcheck source=tools/slurm_args.sh
source "$(dirname "${BASH_SOURCE[0]}")/slurm_args.sh"
exec "${SRUN[@]}" "$HERE/test.py" "$3" "$4" --launcher=slurm "${@:5}"
