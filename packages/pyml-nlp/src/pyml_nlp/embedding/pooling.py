"""Pooling: from the hidden states of a text's tokens to one vector.

Letters: T = tokens of a text, W = hidden size. Source: sentence-transformers' ``Pooling`` and ``Normalize``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt

F32Array = npt.NDArray[np.float32]


def mean(hidden: F32Array) -> F32Array:
    """The mean of all rows, added up in float64: (T, W) to (W)."""
    return np.asarray(hidden.sum(axis=0, dtype=np.float64) / len(hidden), np.float32)


def mean_sqrt_len(hidden: F32Array) -> F32Array:
    """The sum of all rows divided by the square root of their number: (T, W) to (W)."""
    return np.asarray(hidden.sum(axis=0, dtype=np.float64) / np.sqrt(len(hidden)), np.float32)


def largest(hidden: F32Array) -> F32Array:
    """The largest element of each column: (T, W) to (W)."""
    return np.asarray(hidden.max(axis=0), np.float32)


def first(hidden: F32Array) -> F32Array:
    """The row of the first token, which is CLS: (T, W) to (W)."""
    return np.asarray(hidden[0], np.float32)


def last(hidden: F32Array) -> F32Array:
    """The row of the last token: (T, W) to (W)."""
    return np.asarray(hidden[-1], np.float32)


POOLING: Mapping[str, Callable[[F32Array], F32Array]] = {
    "mean": mean, "mean_sqrt_len_tokens": mean_sqrt_len, "max": largest, "cls": first, "lasttoken": last,
}  # fmt: skip
"""Names in ``1_Pooling/config.json`` -> functions."""


def normalized(vector: F32Array) -> F32Array:
    """The vector divided by its length, which is at least 1e-12: (W)."""
    length = np.sqrt(np.square(vector, dtype=np.float64).sum())
    return np.asarray(vector / max(float(length), 1e-12), np.float32)
