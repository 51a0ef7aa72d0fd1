"""Speed of pyml's matrix kernel by block type: one row (bytes a second) and many rows (operations a second).

    python benchmarks/kernels.py --types q8_0 q4_K --shape 2048 640 --tokens 1 512

The one-row figure streams many copies of the matrix, more than the caches hold. Each figure is the median of the
repetitions; the limits are measured in the same run (see machine.py). Run it with the interpreter that has pyml-core.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import median

import numpy as np

import machine
import pyml_core
from pyml_core import BLOCK_TYPES, PackedMatrix, PageTable, Program, Slice, Tensor

BEYOND_CACHES = 192 << 20  # bytes


def random_matrix(dtype: str, rows: int, width: int, numbers: np.random.Generator) -> PackedMatrix:
    """A matrix of finite random blocks: a half-precision scale is finite if the highest bit of its exponent is 0."""
    data = numbers.integers(0, 256, BLOCK_TYPES[dtype].nbytes((rows, width)), dtype=np.uint8) & np.uint8(0xBF)
    return pyml_core.pack(Tensor(data, dtype, (rows, width)))


def measure(matrices: Sequence[PackedMatrix], tokens: int, threads: int, repetitions: int) -> tuple[float, float]:
    """GB/s and GOP/s of ``tokens`` rows times each of the matrices, one after the other."""
    rows, width = matrices[0].shape
    program = Program(tokens, threads=threads)
    table = Tensor.from_array(np.random.default_rng(0).standard_normal((tokens, width), dtype=np.float32))
    x = program.embed("x", pyml_core.pack(table), program.buffer("x", width))
    out = program.buffer("out", rows)
    for index, matrix in enumerate(matrices):
        program.linear(f"matmul.{index}", x, [matrix], out)
    part = Slice(PageTable(), 0, np.arange(tokens, dtype=np.int32))
    program.run([part])
    samples = []
    for _ in range(repetitions):
        _, timings = program.run_timed([part])
        samples.append(sum(timing.ms for timing in timings if timing.operation.kind == "linear") / 1e3)
    seconds = median(samples)
    weights = sum(matrix.nbytes for matrix in matrices)
    return weights / seconds / 1e9, 2 * tokens * rows * width * len(matrices) / seconds / 1e9


def main(arguments: Sequence[str] | None = None) -> None:
    """Print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--types", nargs="+", choices=list(BLOCK_TYPES), default=list(BLOCK_TYPES), metavar="TYPE")
    parser.add_argument("--shape", nargs=2, type=int, default=[2048, 768], metavar=("N", "K"), help="outputs, inputs")
    parser.add_argument("--tokens", nargs="+", type=int, default=[1, 512], help="rows of the other operand")
    parser.add_argument("--threads", type=int, default=pyml_core.default_threads())
    parser.add_argument("--repetitions", type=int, default=9)
    options = parser.parse_args(arguments)
    rows, width = options.shape
    with tempfile.TemporaryDirectory() as folder:
        limits = machine.Limits(Path(folder), options.threads).measure()
    print(f"level {pyml_core.level()}, {options.threads} threads, matrix ({rows}, {width}); limits {limits}\n")
    print("| type | tokens | GB/s | GOP/s |\n|---|---:|---:|---:|")
    numbers = np.random.default_rng(0)
    for dtype in options.types:
        if width % BLOCK_TYPES[dtype].block_size:
            print(f"{dtype}: rows of {width} are no multiple of its block", file=sys.stderr)
            continue
        matrix = random_matrix(dtype, rows, width, numbers)
        for tokens in options.tokens:
            copies = max(1, BEYOND_CACHES // matrix.nbytes) if tokens == 1 else 1
            matrices = [matrix] + [random_matrix(dtype, rows, width, numbers) for _ in range(copies - 1)]
            bandwidth, operations = measure(matrices, tokens, options.threads, options.repetitions)
            print(f"| {dtype} | {tokens} | {bandwidth:.1f} | {operations:.0f} |", flush=True)


if __name__ == "__main__":
    main()
