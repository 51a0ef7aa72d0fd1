"""How far an engine's next-token distributions lie from a reference's. Needs NumPy only: every runner imports it."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

F32Array = npt.NDArray[np.float32]


def divergence(reference: F32Array, logits: F32Array) -> dict[str, Any]:
    """Compare logits (positions, vocabulary) with the reference's.

    Returns:
        ``kld``: for each position the Kullback-Leibler divergence from the reference to the engine in nats;
        ``same_top``: number of positions where both have the same most probable token.

    Raises:
        ValueError: other shapes, or a logit that is not finite.
    """
    if reference.shape != logits.shape:
        raise ValueError(f"logits: expected the shape {reference.shape}, got {logits.shape}")
    klds, same = [], 0
    for expected, row in zip(reference, logits, strict=True):
        p, q = expected - expected.max(), row - row.max()
        weights = np.exp(p)  # float32 like the logits; sums are float64
        p_sum, q_sum = float(weights.sum(dtype=np.float64)), float(np.exp(q).sum(dtype=np.float64))
        mean = float((weights * (p - q)).sum(dtype=np.float64)) / p_sum
        kld = mean - math.log(p_sum / q_sum)
        if not math.isfinite(kld):
            raise ValueError("logits: expected finite numbers")
        klds.append(max(0.0, kld))  # below 0 only by rounding
        same += int(expected.argmax() == row.argmax())
    return {"kld": klds, "same_top": same}
