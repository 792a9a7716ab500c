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
HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
GPUS=${GPUS:-8}
GPUS_PER_NODE=${GPUS_PER_NODE:-8}
CPUS_PER_TASK=${CPUS_PER_TASK:-8}
RESOURCES=(--ntasks="$GPUS" --cpus-per-task="$CPUS_PER_TASK")
if [ "$GPUS_PER_NODE" -gt 0 ]; then
    TASKS_PER_NODE=$((GPUS < GPUS_PER_NODE ? GPUS : GPUS_PER_NODE))
    RESOURCES+=(--gres=gpu:"$TASKS_PER_NODE" --ntasks-per-node="$TASKS_PER_NODE")
else
    export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$CPUS_PER_TASK}
fi

# SRUN_ARGS is split into words on purpose.
# shellcheck disable=SC2086
PYTHONPATH="$HERE/..${PYTHONPATH:+:$PYTHONPATH}" exec srun --partition="$1" --job-name="$2" "${RESOURCES[@]}" \
    --kill-on-bad-exit=1 ${SRUN_ARGS:-} \
    "${PYTHON:-python}" -u "$HERE/train.py" "$3" --work-dir="$4" --launcher=slurm "${@:5}"
