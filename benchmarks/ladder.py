"""The speed of each step of the ladders, which develop the kernels from their formulas in plain C (csrc/ladder).

    hatch run python benchmarks/ladder.py                        # Markdown tables
    hatch run python benchmarks/ladder.py --keys 1024 --rows 16

Measures attention of one query over the keys and values of one head, and a q8_0 matrix times some rows of activations.
The ladders are compiled for this machine (-march=native). Ladders and kernels run on one thread; each figure is the
least processor time of the repetitions. `hatch run` finds the helpers of the tests, which compile the ladders.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from ladder_library import ATTENTION_STEPS, LINEAR_STEPS, Ladder

from pyml_core import KVLayout, Program, Slice, Tensor, pack, quantize
from pyml_core.cpu import level
from pyml_core.kv_layout import PageTable
from pyml_core.reference import append_kv

LADDERS = {
    "attention": ("the formula", "blocks, merged online", "pages and panels, in vectors", "int8 keys and values"),
    "linear": ("the formula", "integer products of a block", "panels of 16 rows, in vectors", "tiles of four rows"),
}
KERNEL = "the kernel"


def least_ms(run: Callable[[], object], repetitions: int) -> float:
    """Return the least processor time of this thread, which other processes do not lengthen."""
    best = float("inf")
    for _ in range(repetitions):
        begin = time.thread_time_ns()
        run()
        best = min(best, (time.thread_time_ns() - begin) / 1e6)
    return best


def attention_ms(ladder: Ladder, keys: int, dim: int, repetitions: int) -> list[float]:
    """Return the time of every step, and of the kernel with int8 keys and values."""
    rng = np.random.default_rng(0)
    q = rng.standard_normal((1, dim), dtype=np.float32)
    k, v = (rng.standard_normal((keys, 1, dim), dtype=np.float32) for _ in range(2))
    pages = {}
    for dtype in ("f32", "int8"):
        layout = KVLayout(1, 1, dim, dtype)
        pages[dtype] = PageTable(layout.new_page() for _ in range(-(-keys // 64)))
        append_kv(layout, list(pages[dtype]), 0, 0, k, v)
    times = []
    for step in range(ATTENTION_STEPS):
        cache = list(pages["int8" if step == 3 else "f32"])
        arguments = q[0], k[:, 0].copy(), v[:, 0].copy(), cache, dim**-0.5
        times.append(least_ms(partial(ladder.attention, step, *arguments), repetitions))
    program = Program(1, KVLayout(1, 1, dim, "int8"), 1)
    x = program.embed("qkv", pack(np.tile(q, 3)), program.buffer("qkv", 3 * dim))
    program.attention("attention", x, 0, 1, program.buffer("out", dim), dim**-0.5)
    last = [Slice(pages["int8"], keys - 1, np.zeros(1, np.int32))]
    return [*times, least_ms(lambda: program.run(last), repetitions)]


def linear_ms(ladder: Ladder, rows: int, shape: tuple[int, int], repetitions: int) -> list[float]:
    """Return the time of every step, and of the kernel."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((rows, shape[1]), dtype=np.float32)
    stored = quantize(rng.standard_normal(shape, dtype=np.float32), "q8_0")
    matrix = pack(Tensor(stored, "q8_0", shape))
    times = []
    for step in range(LINEAR_STEPS):
        times.append(least_ms(partial(ladder.linear, step, stored, matrix.data, shape[0], x), repetitions))
    program = Program(rows, threads=1)
    source = program.embed("x", pack(x), program.buffer("x", shape[1]))
    program.linear("linear", source, [matrix], program.buffer("out", shape[0]))
    batch = [Slice(PageTable(), 0, np.arange(rows, dtype=np.int32))]
    return [*times, least_ms(lambda: program.run(batch), repetitions)]


def table(name: str, times: Sequence[float]) -> str:
    """Return a row for each step: its idea, its time, and its speed-up over the step before and over the first."""
    lines = [f"| {name} | adds | ms | to the step before | to v0 |", "|---|---|--:|--:|--:|"]
    for step, ms in enumerate(times):
        last = step == len(times) - 1
        adds = KERNEL if last else LADDERS[name][step]
        before = f"{times[step - 1] / ms:.1f}" if step else ""
        lines.append(f"| {'' if last else f'v{step}'} | {adds} | {ms:.3f} | {before} | {times[0] / ms:.1f} |")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--keys", type=int, default=4096, help="keys that are attended to")
    parser.add_argument("--dim", type=int, default=128, help="width of a head, a multiple of 32")
    parser.add_argument("--rows", type=int, default=64, help="rows of activations")
    parser.add_argument("--shape", nargs=2, type=int, default=(1024, 1024), metavar=("N", "K"), help="of the matrix")
    parser.add_argument("--repetitions", type=int, default=9)
    options = parser.parse_args(arguments)
    rows, columns = options.shape
    with tempfile.TemporaryDirectory() as folder:
        ladder = Ladder(Path(folder), ["-march=native"])
        print(f"CPU level {level()}, one thread\n")
        print(f"One query, {options.keys} keys, head_dim {options.dim}:\n")
        print(table("attention", attention_ms(ladder, options.keys, options.dim, options.repetitions)))
        print(f"\n{options.rows} rows times a q8_0 matrix ({rows}, {columns}):\n")
        print(table("linear", linear_ms(ladder, options.rows, (rows, columns), options.repetitions)))


if __name__ == "__main__":
    main()
