"""exp64 and log64: their errors, and the same bits in NumPy and in native code."""

from __future__ import annotations

import math
from decimal import Decimal, localcontext

import numpy as np

from pyml_core import _native
from pyml_core.sampling.elementary import exp64, log64

RANDOM = np.random.RandomState(1)
EXPONENTS = np.concatenate([
    -RANDOM.rand(400_000) * 40, -RANDOM.rand(300_000) * 708, -(10.0 ** -(RANDOM.rand(300_000) * 300)),
    [0.0, -0.0, -708.0, np.nextafter(-708.0, -1000), -1e300, -np.inf, -5e-324], -np.arange(1, 1000) * math.log(2) / 2,
])  # fmt: skip
POSITIVE = np.concatenate([
    RANDOM.rand(400_000) + 2.0**-34, (RANDOM.randint(0, 1 << 32, 300_000, np.uint64) + 0.5) * 2.0**-32,
    10.0 ** (RANDOM.rand(300_000) * 600 - 300), [1.0, np.nextafter(1.0, 2), np.nextafter(1.0, 0), 0.5**0.5, 2.3e-308],
    2.0 ** np.arange(-1000.0, 1000),
])  # fmt: skip


def test_the_same_bits(level: str) -> None:
    assert _native.elementary("exp64", EXPONENTS, level).tobytes() == exp64(EXPONENTS).tobytes()
    assert _native.elementary("log64", POSITIVE, level).tobytes() == log64(POSITIVE).tobytes()
    few = EXPONENTS[:37]
    assert _native.elementary("exp64", few, level).tobytes() == exp64(few).tobytes()


def errors(got: np.ndarray, exact: list[Decimal]) -> np.ndarray:
    """In units of the last place of the exact result."""
    return np.array([
        abs(float((Decimal(float(g)) - e) / Decimal(math.ulp(abs(float(e)))))) for g, e in zip(got, exact, strict=True)
    ])  # fmt: skip


def test_errors_of_the_exponential() -> None:
    x = EXPONENTS[(EXPONENTS >= -708) & (EXPONENTS < 0)]
    x = np.concatenate([RANDOM.choice(x, 4000), -np.arange(1, 500) * math.log(2) / 2])
    with localcontext() as context:
        context.prec = 40
        found = errors(exp64(x), [Decimal(float(value)).exp() for value in x])
    assert found.max() < 1.0
    assert exp64(np.array([0.0, -0.0])).tolist() == [1.0, 1.0]
    assert exp64(np.array([-708.1, -np.inf])).tolist() == [0.0, 0.0]
    # All of the points, against the C library, whose error is below 1.
    everything = EXPONENTS[EXPONENTS >= -708]
    expected = np.array([math.exp(value) for value in everything])
    assert (np.abs(exp64(everything) - expected) / np.spacing(expected)).max() <= 2


def test_errors_of_the_logarithm() -> None:
    x = np.concatenate([RANDOM.choice(POSITIVE, 4000), 1 - 2.0 ** -np.arange(2.0, 53), 1 + 2.0 ** -np.arange(2.0, 52)])
    x = x[x != 1.0]
    with localcontext() as context:
        context.prec = 40
        found = errors(log64(x), [Decimal(float(value)).ln() for value in x])
    assert found.max() < 1.0
    assert log64(np.array([1.0])).tolist() == [0.0]
    expected = np.array([math.log(value) for value in POSITIVE])
    assert (np.abs(log64(POSITIVE) - expected) / np.spacing(np.abs(expected))).max() <= 2
