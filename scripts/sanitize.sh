#!/bin/sh
# Build pyml-core with AddressSanitizer and UndefinedBehaviorSanitizer in a copy, and run its tests there.
# Usage: sh scripts/sanitize.sh [pytest arguments]      Needs the environment of `sh scripts/setup.sh tests`.
set -eu
cd "$(dirname "$0")/.."
root=$(pwd)
python=${PYTHON:-$root/.venv/bin/python}

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$work/packages"
cp -r packages/pyml-core "$work/packages/"
rm -rf "$work/packages/pyml-core/build"
cp pyproject.toml "$work/"
cd "$work"

PYML_SANITIZE=address,undefined "$python" packages/pyml-core/hatch_build.py
# The interpreter itself has no sanitizer: the runtime is loaded before it, and its own leaks at exit are not ours.
LD_PRELOAD="$(${CC:-cc} -print-file-name=libasan.so) $(${CC:-cc} -print-file-name=libubsan.so)" \
    ASAN_OPTIONS=detect_leaks=0 PYTHONPATH="$work/packages/pyml-core/src" \
    "$python" -m pytest -q packages/pyml-core/tests "$@"
