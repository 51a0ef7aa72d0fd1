"""Curves of milliseconds over prompt lengths: power-law fits, and crossings of two curves."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

MAX_EXTRAPOLATION = 64  # a curve is extrapolated up to this multiple of the longest length
TAIL = 3  # number of the longest lengths that an extrapolation is fitted to

Curve = Mapping[int, float]
Law = Callable[[float], float]


@dataclass(frozen=True)
class Fit:
    """ms = factor * tokens ** exponent: least squares in logarithms; r2 is the share of the variance explained."""

    exponent: float
    factor: float
    r2: float

    def at(self, tokens: float) -> float:
        """Return the milliseconds of the curve at a length."""
        return float(self.factor * tokens**self.exponent)


@dataclass(frozen=True)
class Crossing:
    """The length from which one curve lies above another; ``measured``: whether it is within the measured lengths."""

    tokens: float
    measured: bool


def fit(values: Curve) -> Fit | None:
    """Fit a power law to length -> ms. Returns None for fewer than two lengths."""
    if len(values) < 2:
        return None
    x, y = np.log(list(values)), np.log(list(values.values()))
    exponent, shift = np.polyfit(x, y, 1)
    total = float(((y - y.mean()) ** 2).sum())
    left = float(((y - exponent * x - shift) ** 2).sum())
    return Fit(float(exponent), math.exp(float(shift)), 1 - left / total if total > 1e-12 else 1.0)


def tail(values: Curve) -> dict[int, float]:
    """Return the longest lengths of a curve, where the fixed costs of a run no longer matter."""
    return {length: values[length] for length in sorted(values)[-TAIL:]}


def pairs(start: float, count: float, window: int) -> float:
    """Count (query, key) pairs of ``count`` tokens from position ``start`` on; each sees itself and earlier tokens."""
    return _seen(start + count, window) - _seen(start, window)


def _seen(positions: float, window: int) -> float:
    growing = min(positions, window or positions)
    return growing * (growing + 1) / 2 + (positions - growing) * window


def crossing(low: Curve, high: Curve, windows: Sequence[int] = (0,)) -> Crossing | None:
    """Find the length from which ``high`` (attention's quadratic parts) exceeds ``low`` (parts linear in tokens).

    Between measured lengths it is interpolated in logarithms. Beyond them both curves are extrapolated from the longest
    lengths: ``low`` as a + b n, ``high`` as c n + d (query, key) pairs, limited by the layers' ``windows`` (0: none).
    Returns None if they do not cross within ``MAX_EXTRAPOLATION`` times the longest length.
    """
    lengths = sorted(set(low) & set(high))
    if not lengths:
        return None
    first = len(lengths)  # from this index on, high stays above low
    while first > 0 and high[lengths[first - 1]] > low[lengths[first - 1]]:
        first -= 1
    if first == 0:
        return Crossing(float(lengths[0]), True)
    if first < len(lengths):
        a, b = lengths[first - 1], lengths[first]
        gap_a, gap_b = math.log(high[a] / low[a]), math.log(high[b] / low[b])
        place = math.log(a) + (math.log(b) - math.log(a)) * gap_a / (gap_a - gap_b)
        return Crossing(math.exp(place), True)
    if len(lengths) < 2:
        return None
    flat = extrapolated(tail(low), (lambda n: 1.0, lambda n: n))
    steep = extrapolated(tail(high), (lambda n: n, lambda n: sum(pairs(0, n, window) for window in windows)))
    near, far = float(lengths[-1]), float(MAX_EXTRAPOLATION * lengths[-1])
    if steep(far) <= flat(far):
        return None
    while far / near > 1.001:
        middle = math.sqrt(near * far)
        near, far = (near, middle) if steep(middle) > flat(middle) else (middle, far)
    return Crossing(far, False)


def extrapolated(values: Curve, terms: Sequence[Law]) -> Law:
    """Fit the sum of two terms with non-negative factors to a curve, by least squares of the ratios."""
    lengths = np.array(list(values), float)
    ms = np.array(list(values.values()), float)
    columns: npt.NDArray[np.float64] = np.array([[term(n) for term in terms] for n in lengths]) / ms[:, None]
    best = np.linalg.lstsq(columns, np.ones(len(ms)))[0]
    if (best < 0).any():  # then only one of the two terms, the one that fits better
        alone = [float(column.sum() / (column @ column)) for column in columns.T]
        misses = [float(((column * factor - 1) ** 2).sum()) for column, factor in zip(columns.T, alone, strict=True)]
        best = np.array([factor if miss == min(misses) else 0.0 for factor, miss in zip(alone, misses, strict=True)])
    return lambda n: sum(float(factor) * term(n) for factor, term in zip(best, terms, strict=True))
