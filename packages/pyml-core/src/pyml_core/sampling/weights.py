"""Weights of tokens: probabilities as integers, whose sums do not depend on their order."""

from __future__ import annotations

import math

import numpy as np

from .arrays import NO_WEIGHT, WEIGHT_BITS, F32Array, F64Array, I64Array
from .elementary import exp64, log64


def differences(logits: F32Array, temperature: float) -> F64Array:
    """``(logits - largest) / temperature``, float64 (C,), at least :data:`NO_WEIGHT`."""
    scale = 1.0 / temperature
    return np.maximum((logits.astype(np.float64) - float(logits.max())) * scale, NO_WEIGHT)


def weights_of(logits: F32Array, temperature: float) -> I64Array:
    """Weights proportional to the softmax of ``logits / temperature``, int64 (C,); the largest one is ``2**44``."""
    scaled = exp64(differences(logits, temperature)) * 2.0**WEIGHT_BITS
    return np.rint(scaled).astype(np.int64)


def share(p: float, total: int) -> int:
    """Return the smallest weight that is at least ``p * total``, clamped to 1 .. ``total``."""
    return min(max(math.ceil(p * float(total)), 1), total)


def log_sum_exp(logits: F32Array) -> float:
    """``log(sum(exp(logits)))``, from the weights."""
    total = float(int(weights_of(logits, 1.0).sum()))
    return float(logits.max()) + float(log64(np.array([total * 2.0**-WEIGHT_BITS]))[0])
