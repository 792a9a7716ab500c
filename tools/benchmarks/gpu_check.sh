#!/usr/bin/env bash
# What can only be known on a GPU, in less than nine minutes: one table and one JSON in work_dirs/gpu_check.
#
#   bash tools/benchmarks/gpu_check.sh [--anew] [--out FOLDER]
#
# Stopped, it goes on where it was. It needs no network: the active environment is taken if it holds every package, also
# those of the tests; else they come from a folder of wheels with PIP_NO_INDEX=1 PIP_FIND_LINKS=FOLDER. Without a GPU it
# says what it left out, and ends well.
set -euo pipefail
repo=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)

# shellcheck source=tools/setup_env.sh
source "$repo/tools/setup_env.sh" tests
exec "$PYTHON" "$repo/tools/benchmarks/gpu_check.py" "$@"
