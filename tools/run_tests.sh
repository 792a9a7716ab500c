#!/usr/bin/env bash
# Checks style, types and the documentation site, then runs the tests (unit, slow, dist; full-size models only with `-m full`):
#
#   bash tools/run_tests.sh [arguments of pytest]
#
# Makes .venv on the first run (see setup_env.sh). SKIP_LINT=1 runs pytest only; WORKERS=n sets the
# processes (default: the cores). MMPL_STACK=upstream uses the upstream
# OpenMMLab packages. The last line is pytest's; a failed check before it fails the whole run too.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 1

# shellcheck source=tools/setup_env.sh
source tools/setup_env.sh tests || exit 1

failed=()
check() {
    echo "== $*"
    "$@" || failed+=("${3:-$2}")
}
if [ "${SKIP_LINT:-0}" != 1 ]; then
    check "$PYTHON" -m ruff check .
    check "$PYTHON" -m ruff format --check .
    check "$PYTHON" -m mypy
    check "$PYTHON" -m codespell_lib
    check bash tools/build_docs.sh  # in an environment of its own
fi
if [ ${#failed[@]} -gt 0 ]; then
    echo "!! failed before the tests: ${failed[*]} (see above)" >&2
fi

# One process a core, each with one thread: tiny models gain nothing from threads. A file's tests stay together, and the
# files in their order: those of few and long tests are not the last, with a core idle.
cores=$(env -u OMP_NUM_THREADS nproc)  # nproc heeds the variable
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
"$PYTHON" -m pytest -n "${WORKERS:-$cores}" --dist loadfile --no-loadscope-reorder -m "not full" "$@"
status=$?
[ $status -ne 0 ] && exit $status
[ ${#failed[@]} -eq 0 ]
