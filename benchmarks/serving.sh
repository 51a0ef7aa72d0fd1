#!/bin/sh
# Compare HTTP servers, and write docs/serving-performance.md: sh benchmarks/serving.sh FOLDER [full] [OPTIONS OF serving.py]
# FOLDER keeps the file of results. PYTHON: the interpreter that has pyml. What the servers need is made before, by
# serving.sh FOLDER setup: environments, programs, exports.
set -u
cd "$(dirname "$0")/.." || exit 1
python=${PYTHON:-.venv/bin/python}
folder=$1
shift
mkdir -p "$folder"
models="smollm2-135m gemma3-270m"
servers="pyml llama-server ik-server openvino"
case ${1:-} in
setup)
  shift
  exec "$python" benchmarks/serving.py --models $models --servers $servers llama-cpp-python --loads chat --clients 1 --rounds 1 \
    --seconds 1 --settle 1 --trial 0 --warm-up 1 "$@"
  ;;
full)
  shift
  "$python" benchmarks/serving.py --models $models --servers $servers llama-cpp-python --rounds 3 --json "$folder/serving.json" "$@" || exit 1
  ;;
*)
  "$python" benchmarks/serving.py --models $models --servers $servers --loads chat warm mixed batch empty cold --rounds 1 \
    --side 0.4 --settle 5 --trial 5 --bounded 1200 --json "$folder/serving.json" "$@" || exit 1
  ;;
esac
"$python" benchmarks/serving_report.py "$folder"
