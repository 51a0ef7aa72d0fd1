"""The machine's limits: plausible figures at every level."""

from __future__ import annotations

import pytest

import pyml_core
from pyml_core import cpu
from pyml_core.limits import Limits, measure_limits


@pytest.mark.parametrize("level", cpu.levels())
def test_every_level_has_limits(level: str) -> None:
    with cpu.use_level(level):
        limits = measure_limits(2, 1 << 22)
    assert (limits.threads, limits.level) == (2, level)
    assert min(limits.read_gb_s, limits.int8_gop_s, limits.f32_gflop_s) > 0.01
    assert max(limits.read_gb_s, limits.int8_gop_s, limits.f32_gflop_s) < 1e7  # the loops were not optimised away


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
