#!/bin/sh
# Build pyml-core with AddressSanitizer and UndefinedBehaviorSanitizer in a copy, and run there: its own tests at every CPU level of
# this machine, the layers', and the load of every odd but legal file, tiny models of all architectures among them.
# Usage: sh scripts/sanitize.sh [pytest arguments]      Needs the environment of `sh scripts/setup.sh tests`.
set -eu
cd "$(dirname "$0")/.."
root=$(pwd)
python=${PYTHON:-$root/.venv/bin/python}

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cp -r packages tests pyproject.toml "$work/"
rm -rf "$work/packages/pyml-core/build"
cd "$work"

PYML_SANITIZE=address,undefined "$python" packages/pyml-core/hatch_build.py
# The interpreter itself has no sanitizer: the runtime is loaded before it, and its own leaks at exit are not ours.
export LD_PRELOAD="$(${CC:-cc} -print-file-name=libasan.so) $(${CC:-cc} -print-file-name=libubsan.so)"
export ASAN_OPTIONS=detect_leaks=0
export PYTHONPATH="$work/packages/pyml-core/src:$work/packages/pyml-nn/src:$work/packages/pyml-nlp/src"
"$python" -m pytest -q packages/pyml-core/tests packages/pyml-nn/tests packages/pyml-nlp/tests/test_gguf.py \
    packages/pyml-nlp/tests/test_safetensors.py tests/parity/test_operations.py tests/parity/test_tiny.py \
    -k "not real_model" "$@"
