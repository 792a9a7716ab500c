#!/usr/bin/env bash
# Builds the documentation site into site/ (site/index.html), or serves it while you write:
#
#   bash tools/build_docs.sh [serve | arguments of `mkdocs build`]
#
# Makes .venv-docs once: the packages of requirements/docs.txt want neither torch nor an OpenMMLab stack, and neither stack
# has to agree with them. API pages are read from the source without importing it. A warning, such as a link that leads
# nowhere, ends the build (--strict).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

venv=$PWD/.venv-docs stamp=$PWD/.venv-docs/.mmpl-docs
if [ ! -x "$venv/bin/python" ]; then
    python=$(command -v python3 || command -v python)
    echo "mmpl: making $venv with $("$python" --version)"
    "$python" -m venv "$venv"
fi
hash="$(sha256sum <requirements/docs.txt | cut -d' ' -f1) $PWD"
if [ "$(cat "$stamp" 2>/dev/null)" != "$hash" ]; then
    echo "mmpl: installing packages into $venv"
    "$venv/bin/python" -m pip install --quiet --no-compile --disable-pip-version-check -r requirements/docs.txt
    echo "$hash" >"$stamp"
fi

export NO_MKDOCS_2_WARNING=1 DISABLE_MKDOCS_2_WARNING=true
if [ "${1:-}" = serve ]; then
    exec "$venv/bin/python" -m mkdocs serve --strict
fi
# Not --quiet, which keeps --strict from seeing the warnings.
"$venv/bin/python" -m mkdocs build --strict "$@"
echo "mmpl: wrote site/index.html"
