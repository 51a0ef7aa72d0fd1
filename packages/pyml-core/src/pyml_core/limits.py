"""Peak memory bandwidth and arithmetic rates of this machine, as measured now; kernels are compared with them.

Source: Williams, Waterman and Patterson 2009, "Roofline", doi 10.1145/1498765.1498785.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from . import _native, cpu
from .errors import PymlError

READ_BYTES = 384 << 20  # larger than last-level caches
PASSES = 12  # short ones: other processes leave some of them alone
_PASS_NS = 4e6  # minimum duration of an arithmetic loop
_PAGE = 4096


@dataclass(frozen=True)
class Limits:
    """The measured limits, each the best of a few passes on all threads.

    Attributes:
        threads: number of threads.
        level: CPU level of the instructions.
        read_gb_s: sequential reads from memory, in 1e9 bytes a second.
        int8_gop_s: int8 dot products from the L1 cache, in 1e9 operations a second; a multiply-add is two operations.
        f32_gflop_s: float32 multiply-adds from the L1 cache, in 1e9 operations a second.
    """

    threads: int
    level: str
    read_gb_s: float
    int8_gop_s: float
    f32_gflop_s: float

    def roof(self, intensity: float, quantized: bool) -> float:
        """Return the limit of an operation with ``intensity`` arithmetic operations a byte, in 1e9 a second."""
        peak = self.int8_gop_s if quantized else self.f32_gflop_s
        return min(peak, intensity * self.read_gb_s)


def measure_limits(threads: int | None = None, read_bytes: int = READ_BYTES) -> Limits:
    """Measure read bandwidth and the rates of int8 and float32 arithmetic. Takes about a second.

    Args:
        threads: number of threads, 1 to 256; None: :func:`pyml_core.cpu.default_threads`.
        read_bytes: memory to allocate and read; a size that fits in a cache measures the cache.

    Raises:
        PymlError: an argument is out of range.
    """
    threads = cpu.default_threads() if threads is None else threads
    if not 1 <= threads <= _native.THREADS_MAX:
        raise PymlError(f"threads: expected 1 to {_native.THREADS_MAX}, got {threads}")
    if read_bytes < threads * _PAGE:
        raise PymlError(f"read_bytes: expected at least {_PAGE} for each of {threads} threads, got {read_bytes}")
    level = cpu.level()
    share = read_bytes // threads // _PAGE * _PAGE
    memory = _native.aligned_empty((share * threads // 4,), np.float32)
    memory.fill(1.0)

    def rate(what: str, amount: int) -> float:
        """Return the rate of the best pass, in 1e9 a second."""
        passes = [_native.measure_limit(level, threads, what, memory, amount) for _ in range(PASSES)]
        return max(done / ns for done, ns in passes)

    def steps(what: str) -> int:
        """Return a number of steps that takes at least ``_PASS_NS``."""
        count = 1000
        # The shortest of three: a pass that other processes interrupt looks long enough.
        while min(_native.measure_limit(level, threads, what, memory, count)[1] for _ in range(3)) < _PASS_NS:
            count *= 4
        return count

    peaks = {what: rate(what, steps(what)) for what in ("int8", "f32")}
    return Limits(threads, level, rate("read", share), peaks["int8"], peaks["f32"])
