"""Rules that exclude tokens: top-k, top-p, min-p and typical. Each returns the indices that are kept, ascending."""

from __future__ import annotations

import numpy as np

from .arrays import F32Array, F64Array, I64Array, IdArray
from .elementary import exp64
from .weights import differences, share, weights_of


def top_k_ids(logits: F32Array, k: int) -> IdArray:
    """Return the indices (ascending) of the ``k`` largest logits, and of all tokens tied with the last of them."""
    if k >= logits.size:
        return np.arange(logits.size)
    return np.flatnonzero(logits >= np.partition(logits, logits.size - k)[logits.size - k])


def top_p_ids(logits: F32Array, p: float, temperature: float = 1.0) -> IdArray:
    """Return the indices (ascending) of the fewest most probable tokens whose probabilities sum to at least ``p``.

    Probabilities are the softmax of ``logits / temperature``. Equal logits are ordered by index.
    Source: Holtzman et al. 2019, arXiv 1904.09751.
    """
    return _fewest(-logits.astype(np.float64), weights_of(logits, temperature), p)


def min_p_ids(logits: F32Array, p: float, temperature: float = 1.0) -> IdArray:
    """Return the indices (ascending) of the tokens that are at least ``p`` times as probable as the most probable one.

    Probabilities are the softmax of ``logits / temperature``. Source: Nguyen et al. 2024, arXiv 2407.01082.
    """
    scale = 1.0 / temperature
    ratios = exp64((logits.astype(np.float64) - float(logits.max())) * scale)
    return np.flatnonzero(ratios >= p * (1 - 1e-12))  # keeps a token exactly at the bound


def typical_ids(logits: F32Array, p: float, temperature: float = 1.0) -> IdArray:
    """Return the indices (ascending) of the fewest most typical tokens whose probabilities sum to at least ``p``.

    A token is more typical if its information, -log(probability), is closer to the entropy of the distribution, the
    softmax of ``logits / temperature``. With d = (logit - largest) / temperature, information is log(sum(exp d)) - d
    and entropy is log(sum(exp d)) - mean(d), so that their distance is that of d from its mean. Equally typical tokens
    are ordered by index. Source: Meister et al. 2022, arXiv 2202.00666.
    """
    d = differences(logits, temperature)
    weights = weights_of(logits, temperature)
    moment = int(np.rint(weights.astype(np.float64) * -d).astype(np.int64).sum())
    mean = float(moment) / float(int(weights.sum()))
    return _fewest(np.abs(d + mean), weights, p)


def _fewest(distances: F64Array, weights: I64Array, p: float) -> IdArray:
    """Return the indices (ascending) of the fewest nearest tokens whose weights sum to ``p`` of the total."""
    order = np.argsort(distances, kind="stable")
    sums = np.cumsum(weights[order])
    count = int(np.searchsorted(sums, share(p, int(sums[-1])))) + 1
    return np.sort(order[:count])
