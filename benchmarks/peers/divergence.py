"""How far an engine's next-token distributions lie from a reference's. Needs NumPy only: every runner imports it."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

F32Array = npt.NDArray[np.float32]
F64Array = npt.NDArray[np.float64]


def log_softmax(row: F32Array) -> F64Array:
    """Natural logarithms of the probabilities of one position, in float64."""
    shifted = row.astype(np.float64) - float(row.max())
    result: F64Array = shifted - np.log(np.exp(shifted).sum())
    return result


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
        if not np.isfinite(row).all():
            raise ValueError("logits: expected finite numbers")
        p, q = log_softmax(expected), log_softmax(row)
        klds.append(max(0.0, float(np.exp(p) @ (p - q))))  # below 0 only by rounding
        same += int(expected.argmax() == row.argmax())
    return {"kld": klds, "same_top": same}
