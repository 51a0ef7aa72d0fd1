#!/bin/sh
# Build pyml-core with sanitizers in a copy of the tree and run tests there. A report fails, whichever process makes it.
#   sh scripts/sanitize.sh              addresses and undefined behaviour: kernels, programs, caches, layers, odd files
#   sh scripts/sanitize.sh --threads    data races: programs, locks and caches that several threads use
# With --part, the tests that CI has time for. Other arguments are pytest's.
# Needs the environment of `sh scripts/setup.sh tests`, and gcc with its sanitizers' libraries (another version: CC=gcc-14).
set -eu
cd "$(dirname "$0")/.."
root=$(pwd)
python=${PYTHON:-$root/.venv/bin/python}
compiler=${CC:-gcc}

what=addresses part=
while :; do
    case ${1:-} in
        --threads) what=threads ;;
        --part) part=-part ;;
        *) break ;;
    esac
    shift
done

# ---- what is built, and what is run

levels=$("$python" -c 'from pyml_core.cpu import levels; print(*levels())')
best=${levels##* }
core=packages/pyml-core/tests nn=packages/pyml-nn/tests nlp=packages/pyml-nlp/tests
threaded="$core/test_threads.py $core/test_crew.py $core/test_locks.py $core/test_turns.py $core/test_sample_runs.py $core/test_captures.py"
case $what$part in
    addresses) # levels that this CPU has not would be compiled for nothing
        PYML_LEVELS=$(echo "$levels" | tr ' ' ,)
        tests="$core $nn $nlp/test_gguf.py $nlp/test_safetensors.py tests/parity/test_operations.py tests/parity/test_tiny.py"
        chosen="not real_model"
        ;;
    addresses-part)
        PYML_LEVELS=$best
        tests="$core $nn/test_kv_files.py $nn/test_kv_cache.py $nn/test_layers.py $nlp/test_gguf.py $nlp/test_safetensors.py"
        chosen="not scalar"
        ;;
    threads) # a forked process that goes on with threads is beyond ThreadSanitizer
        PYML_LEVELS=scalar,$best
        tests="$threaded $core/test_cancel.py $core/test_timing.py $core/test_from_file.py $core/test_packing.py
            $core/test_screen.py $core/test_determinism.py $nn/test_kv_cache.py tests/test_concurrency.py"
        chosen="not fork"
        ;;
    threads-part) # where threads meet, no level differs from another: the plainest compiles soonest
        PYML_LEVELS=scalar
        tests=$threaded
        chosen="not fork and not ctrl_c"
        ;;
esac
# Of undefined behaviour what kernels can show: the checks of every pointer and object size treble the time to compile.
undefined=alignment,bool,bounds,enum,float-cast-overflow,integer-divide-by-zero,shift,signed-integer-overflow

library() { # where the compiler has it
    path=$($compiler -print-file-name="lib$1.so")
    case $path in
        /*) echo "$path" ;;
        *)
            echo "sanitize.sh: $compiler has no lib$1.so" >&2
            return 1
            ;;
    esac
}

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT TERM
tar --create --exclude=build --exclude='*.so' --exclude=__pycache__ packages tests conftest.py pyproject.toml |
    tar --extract --directory "$work"
mkdir "$work/reports"
cd "$work"

# The interpreter has no sanitizer: the library is loaded before it. pytest keeps what processes print, so reports go to files.
# Fresh memory is filled, so that nothing depends on what is in it; leaks at the interpreter's end are its own.
reports=log_path=$work/reports/report
if [ $what = threads ]; then
    PYML_SANITIZE=thread
    preload=$(library tsan)
else
    PYML_SANITIZE=address,$undefined
    preload=$(library asan)
    preload="$preload $(library ubsan)"
fi
export PYML_LEVELS PYML_SANITIZE CC="$compiler"
"$python" packages/pyml-core/hatch_build.py

export LD_PRELOAD="$preload"
export ASAN_OPTIONS="detect_leaks=0:malloc_fill_byte=190:max_malloc_fill_size=1000000:$reports"
export UBSAN_OPTIONS="print_stacktrace=1:$reports" TSAN_OPTIONS="$reports"
# NumPy's products with one thread: how OpenBLAS orders its own is not seen.
[ $what = addresses ] || export OPENBLAS_NUM_THREADS=1
export PYTHONPATH="$work/packages/pyml-core/src:$work/packages/pyml-nn/src:$work/packages/pyml-nlp/src"
code=0
"$python" -m pytest -q -p no:cacheprovider $tests -k "$chosen" "$@" || code=$?
unset LD_PRELOAD

for report in reports/*; do
    [ -e "$report" ] || continue
    code=1
    echo "== $report"
    head -n 60 "$report"
done
exit $code
