#!/usr/bin/env bash
# Makes a Python environment ready to run mmpl. Source it, or call it; other scripts of this folder do:
#
#   source tools/setup_env.sh [tests]
#
# - The active environment (virtualenv, conda, or the system's python) is used as it is if it already holds every
#   package; nothing is installed into it.
# - Otherwise .venv in the repository is used, and made if there is none. MMPL_STACK=upstream installs the upstream
#   OpenMMLab packages instead, into .venv-upstream.
# - Packages are installed once: a stamp holds the hash of the requirements, and a second run skips the installation.
#
# With `tests`, the packages that the tests need are included. pip's own settings (PIP_INDEX_URL, pip.conf, ...) hold.
# Afterwards, if the file was sourced, $PYTHON is the environment's interpreter, and Python keeps what it compiles: a setting
# of many container images, PYTHONDONTWRITEBYTECODE, would have each process compile torch and the OpenMMLab packages
# anew, 20 s instead of 8.

mmpl_setup() {
    unset PYTHONDONTWRITEBYTECODE
    local want=${1:-runtime} stack=${MMPL_STACK:-onedl} repo python venv stamp hash
    local -a files
    repo=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd) || return 1

    case $stack in
        onedl) venv=$repo/.venv files=("$repo/requirements.txt") ;;
        upstream) venv=$repo/.venv-upstream files=("$repo/requirements/upstream.txt") ;;
        *) echo "MMPL_STACK=$stack: allowed are onedl and upstream" >&2; return 1 ;;
    esac
    case $want in
        runtime) ;;
        tests) files+=("$repo/requirements/tests.txt") ;;
        *) echo "setup_env.sh: unknown argument '$want': allowed are runtime and tests" >&2; return 1 ;;
    esac

    # Does this python hold every distribution that the requirements name?
    mmpl_complete() {
        "$1" - "${files[@]}" <<'PY' >/dev/null 2>&1
import importlib.metadata as metadata
import pathlib
import sys


def names(path):
    for line in pathlib.Path(path).read_text().splitlines():
        line = line.split('#')[0].strip()
        if line.startswith('-r '):
            yield from names(pathlib.Path(path).parent / line[3:].strip())
        elif line:
            yield line.split('==')[0].strip()


for file in sys.argv[1:]:
    for name in names(file):
        metadata.version(name)
import mmengine, torch  # noqa: E401, F401
PY
    }

    if python=$(command -v python || command -v python3) && mmpl_complete "$python"; then
        # mmpl itself may be missing there: the repository goes first on the path, and nothing is installed.
        export PYTHON=$python PYTHONPATH=$repo${PYTHONPATH:+:$PYTHONPATH}
        echo "mmpl: using the active environment ($python)"
        return 0
    fi

    if [ ! -x "$venv/bin/python" ]; then
        for python in python3.11 python3.12 python3.10 python3 python; do
            "$python" -c 'import sys, venv, ensurepip; assert (3, 10) <= sys.version_info[:2] <= (3, 12)' \
                >/dev/null 2>&1 && break
            python=
        done
        if [ -z "$python" ]; then
            echo "mmpl: needs Python 3.10, 3.11 or 3.12 with the venv module" >&2
            return 1
        fi
        echo "mmpl: making $venv with $("$python" --version)"
        "$python" -m venv "$venv" || return 1
    fi
    python=$venv/bin/python

    stamp=$venv/.mmpl-$want
    hash=$(cat "$repo"/requirements.txt "$repo"/requirements/*.txt "$repo"/setup.py "$repo"/setup.cfg \
        "$repo"/pyproject.toml | sha256sum | cut -d' ' -f1)
    hash="$hash $repo"
    # What serves the tests serves everything else.
    if [ "$(cat "$stamp" 2>/dev/null)" != "$hash" ] && [ "$(cat "$venv/.mmpl-tests" 2>/dev/null)" != "$hash" ]; then
        local -a requirements=()
        local file start=$SECONDS
        for file in "${files[@]}"; do requirements+=(-r "$file"); done
        echo "mmpl: installing packages into $venv (about 2 to 4 minutes)"
        # A new pip, one resolution for everything and no byte-compiling: 2 minutes instead of 5.
        "$python" -m pip install --quiet --upgrade pip || echo "mmpl: pip could not be upgraded; going on" >&2
        "$python" -m pip install --quiet --no-compile "${requirements[@]}" || return 1
        "$python" -m pip install --quiet --no-deps --no-build-isolation --editable "$repo" || return 1
        echo "$hash" >"$stamp"
        echo "mmpl: installed in $((SECONDS - start)) s"
    else
        echo "mmpl: $venv is up to date"
    fi
    export PYTHON=$python VIRTUAL_ENV=$venv PATH=$venv/bin:$PATH
    unset PYTHONHOME
    hash -r
}

mmpl_setup "$@"
