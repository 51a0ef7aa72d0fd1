"""Array types that the rules share, and sums over a vocabulary in pieces that stay in the cache."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

F32Array = npt.NDArray[np.float32]
F64Array = npt.NDArray[np.float64]
IdArray = npt.NDArray[np.int64]

PIECE = 16384
"""Elements worked on at a time, so that temporaries stay in the cache."""


F32_MAX = float(np.finfo(np.float32).max)
F32_TINY = float(np.finfo(np.float32).tiny)
"""The largest float32, and the least one that has all its bits."""


def below(bound: float) -> np.float32:
    """A float32 that is surely less than ``bound``, for comparing float32 numbers with a float64 bound."""
    if bound <= -F32_MAX:
        return np.float32(-np.inf)
    lower: np.float32 = np.nextafter(np.float32(min(bound, F32_MAX)), np.float32(-np.inf))
    return lower


def log_sum_exp(logits: F32Array, temperature: float = 1.0) -> float:
    """``log(sum(exp(logits / temperature)))``, summed in float64."""
    top = float(logits.max()) / temperature
    total = 0.0
    for start in range(0, logits.size, PIECE):
        total += float(np.exp(logits[start : start + PIECE].astype(np.float64) / temperature - top).sum())
    return top + math.log(total)


def entropy(logits: F32Array, temperature: float = 1.0) -> tuple[float, float]:
    """:func:`log_sum_exp`, and the entropy of the softmax of ``logits / temperature`` in nats, summed in float64."""
    top = float(logits.max()) / temperature
    total = moment = 0.0
    for start in range(0, logits.size, PIECE):
        # Twice the least float64 exponent below the top there is no weight left, and 0 * -inf would be no number.
        shifted = np.maximum(logits[start : start + PIECE].astype(np.float64) / temperature - top, -1500.0)
        weights = np.exp(shifted)
        total += float(weights.sum())
        moment += float(weights @ shifted)
    return top + math.log(total), math.log(total) - moment / total
