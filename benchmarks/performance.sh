#!/bin/sh
# Measure everything that docs/performance.md tells, and write it: sh benchmarks/performance.sh FOLDER [OPTIONS OF compare.py]
# FOLDER keeps the files of results. A part that fails is left out, and the others go on. PYTHON: the interpreter that has pyml.
set -u
cd "$(dirname "$0")/.." || exit 1
python=${PYTHON:-.venv/bin/python}
folder=$1
shift
mkdir -p "$folder"
"$python" benchmarks/compare.py --json "$folder/compare.json" "$@" || echo "compare.py failed" >&2
"$python" benchmarks/compare.py "$@" --tests cold --json "$folder/cold.json" || echo "compare.py of cold starts failed" >&2
"$python" benchmarks/compare.py --models llama3.1-8b-q4_k_m qwen3-30b-a3b-q4_k@4 qwen3-30b-a3b-q4_k@12 --rounds 3 \
  --json "$folder/large.json" || echo "compare.py of real sizes failed" >&2
"$python" benchmarks/sampling.py --model gemma3-270m --rounds 7 --json "$folder/sampling.json" || echo "sampling.py failed" >&2
"$python" benchmarks/matrix_products.py --json "$folder/matrix_products.json" || echo "matrix_products.py failed" >&2
"$python" benchmarks/roofline.py --json "$folder/roofline.json" || echo "roofline.py failed" >&2
"$python" benchmarks/ablation.py --json "$folder/ablation.json" || echo "ablation.py failed" >&2
"$python" benchmarks/overheads.py --json "$folder/overheads.json" 2>"$folder/overheads.log" || echo "overheads.py failed" >&2
"$python" benchmarks/report.py "$folder"
