"""The machine's limits: plausible figures at every level."""

from __future__ import annotations

import time

import numpy as np
import pytest
from core_cases import normal, random_weight, timed_run

import pyml_core
from pyml_core import Program, Slice, cpu, pack
from pyml_core.kv_layout import PageTable
from pyml_core.limits import Limits, measure_limits

PATIENCE = 20  # seconds until a limit is too low


@pytest.mark.parametrize("level", cpu.levels())
def test_every_level_has_limits(level: str) -> None:
    with cpu.use_level(level):
        limits = measure_limits(2, 1 << 22)
    assert (limits.threads, limits.level) == (2, level)
    assert min(limits.read_gb_s, limits.int8_gop_s, limits.f32_gflop_s) > 0.01
    assert max(limits.read_gb_s, limits.int8_gop_s, limits.f32_gflop_s) < 1e7  # the loops were not optimised away


def product_gop_s(dtype: str, seconds: float) -> float:
    """The best rate of a product of 96 rows with a matrix that stays in the caches, on one thread."""
    rows, columns, tokens = 512, 768, 96
    numbers = np.random.default_rng(0)
    program = Program(tokens, threads=1)
    x = program.embed("x", pack(normal(numbers, tokens, columns)), program.buffer("x", columns))
    program.linear("product", x, [pack(random_weight(dtype, rows, columns, numbers))], program.buffer("y", rows))
    best, deadline = 0.0, time.monotonic() + seconds
    while time.monotonic() < deadline:
        _, timings = timed_run(program, [Slice(PageTable(), 0, np.arange(tokens, dtype=np.int32))])
        best = max(best, timings[-1].flops / timings[-1].ms / 1e6)
    return best


@pytest.mark.parametrize("level", cpu.levels())
def test_no_product_is_faster_than_the_limit(level: str) -> None:
    """The limit is measured again until it is above the products, which other processes slow down as well."""
    with cpu.use_level(level):
        product = max(product_gop_s(dtype, 0.2) for dtype in ("q4_0", "q4_1", "q5_0", "q4_K", "q8_0"))
        limit, deadline = 0.0, time.monotonic() + PATIENCE
        while limit < product and time.monotonic() < deadline:
            limit = max(limit, measure_limits(1, 1 << 20).int8_gop_s)
    assert limit >= product


def test_the_roof() -> None:
    limits = Limits(1, "scalar", read_gb_s=10.0, int8_gop_s=400.0, f32_gflop_s=100.0)
    assert limits.roof(2.0, quantized=True) == 20.0
    assert limits.roof(1000.0, quantized=True) == 400.0
    assert limits.roof(1000.0, quantized=False) == 100.0


@pytest.mark.parametrize(
    ("threads", "read_bytes", "message"),
    [(0, 1 << 22, "threads: expected 1 to 256, got 0"), (2, 4096, "read_bytes: expected at least 4096 for each of 2")],
)
def test_bad_arguments(threads: int, read_bytes: int, message: str) -> None:
    with pytest.raises(pyml_core.PymlError, match=message):
        measure_limits(threads, read_bytes)
