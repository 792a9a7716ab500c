#!/usr/bin/env bash
# Evaluate a checkpoint with several processes; the environment variables are those of dist_train.sh:
#
#   tools/dist_test.sh CONFIG CHECKPOINT NPROC [options of tools/test.py]
set -euo pipefail

if [ $# -lt 3 ]; then
    sed -n '2,4s/^# \{0,1\}//p' "$0" >&2
    exit 2
fi
HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
CONFIG=$1
CHECKPOINT=$2
NPROC=$3
# shellcheck source=tools/launch_args.sh
source "$HERE/launch_args.sh"

PYTHONPATH="$HERE/..${PYTHONPATH:+:$PYTHONPATH}" exec "${PYTHON:-python}" -m torch.distributed.run \
    "${TORCHRUN_ARGS[@]}" "$HERE/test.py" "$CONFIG" "$CHECKPOINT" --launcher pytorch "${@:4}"
