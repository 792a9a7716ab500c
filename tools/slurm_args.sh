# shellcheck shell=bash
# Sourced by slurm_train.sh and slurm_test.sh, with their arguments: turns them and the environment into SRUN, the command
# that starts one task per GPU.

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
# shellcheck disable=SC2206
SRUN=(srun --partition="$1" --job-name="$2" "${RESOURCES[@]}" --kill-on-bad-exit=1 ${SRUN_ARGS:-} "${PYTHON:-python}" -u)
export PYTHONPATH="$HERE/..${PYTHONPATH:+:$PYTHONPATH}"
