"""Rows of logits, and their probabilities as the formula has them."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st


def random_logits(seed: int, size: int, spread: float = 3.0, ties: bool = False) -> np.ndarray:
    logits = (np.random.RandomState(seed).standard_normal(size) * spread).astype(np.float32)
    return np.round(logits) if ties else logits


def softmax(logits: np.ndarray, temperature: float = 1.0) -> np.ndarray:
    weights = np.exp((logits.astype(np.float64) - logits.max()) / temperature)
    return np.asarray(weights / weights.sum())


logit_arrays = st.builds(
    random_logits,
    st.integers(0, 2**31),
    st.sampled_from([1, 2, 3, 17, 64, 1000, 40_000]),
    st.sampled_from([0.0, 0.1, 1.0, 5.0, 30.0]),
    st.booleans(),
)
