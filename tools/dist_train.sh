#!/usr/bin/env bash
# Train on one machine or several, on GPUs, or on the CPU where there is none:
#
#   tools/dist_train.sh CONFIG NPROC [options of tools/train.py]
#
# NPROC: processes on this machine (GPUs, as a rule). For several machines run it on each of them with
# NNODES, NODE_RANK, MASTER_ADDR and PORT in the environment. MAX_RESTARTS=n lets torchrun start a failed run again, which
# then resumes from its latest checkpoint.
set -euo pipefail

if [ $# -lt 2 ]; then
    sed -n '2,8s/^# \{0,1\}//p' "$0" >&2
    exit 2
fi
HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
CONFIG=$1
NPROC=$2
# shellcheck source=tools/launch_args.sh
source "$HERE/launch_args.sh"

PYTHONPATH="$HERE/..${PYTHONPATH:+:$PYTHONPATH}" exec "${PYTHON:-python}" -m torch.distributed.run \
    "${TORCHRUN_ARGS[@]}" "$HERE/train.py" "$CONFIG" --launcher pytorch "${@:3}"
