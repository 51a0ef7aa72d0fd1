"""Curves of milliseconds over prompt lengths: power laws through them, and where one overtakes another."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

REACH = 64  # a curve is continued to so many times the longest length
TAIL = 3  # longest lengths that a curve is fitted to where it is to be continued

Curve = Mapping[int, float]
Law = Callable[[float], float]


@dataclass(frozen=True)
class Fit:
    """ms = factor * tokens ** exponent, least squares in logarithms; r2 is the share of the variance explained."""

    exponent: float
    factor: float
    r2: float

    def at(self, tokens: float) -> float:
        """Milliseconds that the curve has there."""
        return float(self.factor * tokens**self.exponent)


@dataclass(frozen=True)
class Crossing:
    """The length from which one curve lies above another; ``measured``: between two lengths that were measured."""

    tokens: float
    measured: bool


def fit(values: Curve) -> Fit | None:
    """A power law through length -> ms; None with fewer than two lengths."""
    if len(values) < 2:
        return None
    x, y = np.log(list(values)), np.log(list(values.values()))
    exponent, shift = np.polyfit(x, y, 1)
    total = float(((y - y.mean()) ** 2).sum())
    left = float(((y - exponent * x - shift) ** 2).sum())
    return Fit(float(exponent), math.exp(float(shift)), 1 - left / total if total > 1e-12 else 1.0)


def tail(values: Curve) -> dict[int, float]:
    """The longest lengths of a curve, where it no longer shows what every run costs."""
    return {length: values[length] for length in sorted(values)[-TAIL:]}


def pairs(start: float, count: float, window: int) -> float:
    """(query, key) pairs of ``count`` tokens from position ``start`` on; each sees itself and what came before."""
    return _seen(start + count, window) - _seen(start, window)


def _seen(positions: float, window: int) -> float:
    growing = min(positions, window or positions)
    return growing * (growing + 1) / 2 + (positions - growing) * window


def crossing(low: Curve, high: Curve, windows: Sequence[int] = (0,)) -> Crossing | None:
    """From which length on ``high`` (attention's quadratic parts) takes more than ``low`` (parts linear in tokens).

    Between measured lengths it is interpolated in logarithms. Beyond them ``low`` is continued as a + b n and ``high``
    as c n + d (query, key) pairs, which the layers' ``windows`` bound (0: none), both fitted to the longest lengths.
    None if they do not meet within ``REACH`` times the longest.
    """
    lengths = sorted(set(low) & set(high))
    if not lengths:
        return None
    first = len(lengths)  # from here on it stays above
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
    flat = continued(tail(low), (lambda n: 1.0, lambda n: n))
    steep = continued(tail(high), (lambda n: n, lambda n: sum(pairs(0, n, window) for window in windows)))
    near, far = float(lengths[-1]), float(REACH * lengths[-1])
    if steep(far) <= flat(far):
        return None
    while far / near > 1.001:
        middle = math.sqrt(near * far)
        near, far = (near, middle) if steep(middle) > flat(middle) else (middle, far)
    return Crossing(far, False)


def continued(values: Curve, terms: Sequence[Law]) -> Law:
    """The sum of two terms, with factors of at least 0, that comes nearest to a curve: least squares of its ratios."""
    lengths = np.array(list(values), float)
    ms = np.array(list(values.values()), float)
    columns: npt.NDArray[np.float64] = np.array([[term(n) for term in terms] for n in lengths]) / ms[:, None]
    best = np.linalg.lstsq(columns, np.ones(len(ms)))[0]
    if (best < 0).any():  # then one of the two alone, whichever is nearer
        alone = [float(column.sum() / (column @ column)) for column in columns.T]
        misses = [float(((column * factor - 1) ** 2).sum()) for column, factor in zip(columns.T, alone, strict=True)]
        best = np.array([factor if miss == min(misses) else 0.0 for factor, miss in zip(alone, misses, strict=True)])
    return lambda n: sum(float(factor) * term(n) for factor, term in zip(best, terms, strict=True))
