"""Speed of pyml's matrix kernel by block type: one row (bytes a second) and many rows (operations a second).

    python benchmarks/matrix_products.py --json products.json  # every type, and the shapes of real models
    python benchmarks/matrix_products.py --types q8_0 q4_K --shape 2048 768 --tokens 1 6 512

The one-row figure streams many copies of the matrix, more than fit in the caches. Each figure is the median of the
repetitions; limits are measured in the same run (pyml_core.limits.measure_limits). Run it with the interpreter that
has pyml-core.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

import pyml_core
from pyml_core import Program, Slice, Tensor, cpu
from pyml_core._native import aligned_empty
from pyml_core.block_types import BLOCK_TYPES
from pyml_core.kv_layout import PageTable
from pyml_core.limits import measure_limits
from pyml_core.tensor import PackedMatrix
from pyml_core.timing import Capture, Timings

BEYOND_CACHES = 192 << 20  # bytes
ALL_TYPES = (3072, 768)  # rows are whole blocks of every type
REAL = [
    ("q5_0", (2048, 640), "Gemma 3 270M"),
    ("q4_K", (640, 2048), "Gemma 3 270M"),
    ("q8_0", (262_144, 640), "Gemma 3 270M, head"),
    ("q4_1", (1536, 576), "SmolLM2 135M"),
    ("q4_1", (576, 1536), "SmolLM2 135M"),
    ("q8_0", (6912, 1152), "Gemma 3 1B"),
    ("q8_0", (1152, 6912), "Gemma 3 1B"),
    ("q4_0", (6912, 1152), "Gemma 3 1B"),
    ("q4_0", (1152, 6912), "Gemma 3 1B"),
]
"""Block types and shapes of real models."""


class Clock:
    """Sums the seconds of the matrix products of the runs that it observes."""

    seconds = 0.0

    def captures(self, batch: Sequence[Slice]) -> Sequence[Capture]:
        """Capture nothing."""
        return ()

    def ran(self, batch: Sequence[Slice], timings: Timings) -> None:
        """Add a run."""
        self.seconds += sum(timing.ms for timing in timings if timing.operation.kind == "linear") / 1e3


def random_matrix(dtype: str, rows: int, width: int, numbers: np.random.Generator) -> PackedMatrix:
    """Return a matrix of finite random blocks: a float16 scale is finite if the highest bit of its exponent is 0."""
    data = numbers.integers(0, 256, BLOCK_TYPES[dtype].nbytes((rows, width)), dtype=np.uint8) & np.uint8(0xBF)
    return pyml_core.pack(Tensor(data, dtype, (rows, width)))


def measure(matrices: Sequence[PackedMatrix], tokens: int, threads: int, repetitions: int) -> tuple[float, float]:
    """Return GB/s and GOP/s of ``tokens`` rows times each of the matrices, one after the other."""
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
        clock = Clock()
        with program.observe(clock):
            program.run([part])
        samples.append(clock.seconds)
    seconds = median(samples)
    weights = sum(matrix.nbytes for matrix in matrices)
    return weights / seconds / 1e9, 2 * tokens * rows * width * len(matrices) / seconds / 1e9


def main(arguments: Sequence[str] | None = None) -> None:
    """Print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--types", nargs="+", choices=list(BLOCK_TYPES), metavar="TYPE", help="with --shape: of these")
    parser.add_argument(
        "--shape", nargs=2, type=int, metavar=("N", "K"), help="outputs, inputs (default: real models')"
    )
    parser.add_argument("--tokens", nargs="+", type=int, default=[1, 512], help="rows of the other operand")
    parser.add_argument("--threads", type=int, default=cpu.default_threads())
    parser.add_argument("--repetitions", type=int, default=9)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures to this file")
    options = parser.parse_args(arguments)
    if options.shape or options.types:
        shape = tuple(options.shape or ALL_TYPES)
        products = [(dtype, shape, "") for dtype in options.types or BLOCK_TYPES]
    else:
        products = [(dtype, ALL_TYPES, "GPT-2 124M") for dtype in BLOCK_TYPES] + REAL
    limits = asdict(measure_limits(options.threads))
    report: dict[str, Any] = {"limits": limits, "rows": []}
    numbers = np.random.default_rng(0)
    for dtype, (rows, width), model in products:
        if width % BLOCK_TYPES[dtype].block_size:
            print(f"{dtype}: rows of {width} are no multiple of its block", file=sys.stderr)
            continue
        matrix = random_matrix(dtype, rows, width, numbers)
        for tokens in options.tokens:
            copies = max(1, BEYOND_CACHES // matrix.nbytes) if tokens == 1 else 1
            # Copies of one matrix will do: only their addresses matter.
            matrices = [matrix] + [replace(matrix, data=copy_of(matrix)) for _ in range(copies - 1)]
            bandwidth, operations = measure(matrices, tokens, options.threads, options.repetitions)
            report["rows"].append(
                {
                    "model": model,
                    "type": dtype,
                    "shape": [rows, width],
                    "tokens": tokens,
                    "gb_s": bandwidth,
                    "gop_s": operations,
                }
            )
    if options.json:
        options.json.write_text(json.dumps(report, indent=1) + "\n")
    print(markdown(report), end="")


def copy_of(matrix: PackedMatrix) -> Any:
    """Return a copy of the panels, aligned as the kernels require."""
    copy = aligned_empty((matrix.nbytes,), np.uint8)
    copy[:] = matrix.data
    return copy


def markdown(report: dict[str, Any]) -> str:
    """Return the table: each figure, and its fraction of the limit that applies."""
    limits = report["limits"]
    lines = [
        f"Level {limits['level']}, {limits['threads']} threads; limits during the run: {limits['read_gb_s']:.1f} "
        f"GB/s, int8 {limits['int8_gop_s']:.0f} GOP/s, f32 {limits['f32_gflop_s']:.0f} GFLOP/s.",
        "",
        "| type | outputs x inputs | as in | tokens | GB/s | GOP/s | of the limit |",
        "|---|---|---|---:|---:|---:|---:|",
    ]
    for row in report["rows"]:
        peak = limits["int8_gop_s"] if BLOCK_TYPES[row["type"]].quantized else limits["f32_gflop_s"]
        share = row["gb_s"] / limits["read_gb_s"] if row["tokens"] == 1 else row["gop_s"] / peak
        shape = " x ".join(map(str, row["shape"]))
        figures = f"{row['tokens']} | {row['gb_s']:.1f} | {row['gop_s']:.0f} | {share:.0%}"
        lines.append(f"| {row['type']} | {shape} | {row['model']} | {figures} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
