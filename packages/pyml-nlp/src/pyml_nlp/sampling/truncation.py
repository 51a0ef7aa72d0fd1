"""Rules that exclude tokens: top-k, top-p, min-p and typical.

Each one gives the indices that stay, ascending. They are exact, and none of them sorts the whole vocabulary: each first
finds a cheap bound that excludes most tokens.
"""

from __future__ import annotations

import math

import numpy as np

from .arrays import F32Array, F64Array, IdArray, below, entropy, log_sum_exp


def top_k_ids(logits: F32Array, k: int) -> IdArray:
    """Ids (ascending) of the ``k`` largest logits; every token tied with the last of them is kept too."""
    size = logits.size
    if k >= size:
        return np.arange(size)
    # The k-th largest of the maxima of disjoint groups is a lower bound of the k-th largest of all.
    groups = max(4 * k, 2048)
    candidates: IdArray | None = None
    if groups * 8 <= size:
        whole = size // groups * groups
        maxima = logits[:whole].reshape(-1, groups).max(axis=0)
        candidates = np.flatnonzero(logits >= np.partition(maxima, groups - k)[groups - k])
    values = logits if candidates is None else logits[candidates]
    kept = np.flatnonzero(values >= np.partition(values, values.size - k)[values.size - k])
    return kept if candidates is None else candidates[kept]


def top_p_ids(logits: F32Array, p: float, temperature: float = 1.0) -> IdArray:
    """Indices (ascending) of the fewest most probable tokens whose probabilities sum to at least ``p``.

    Probabilities are the softmax of ``logits / temperature``. Of equally probable tokens the lower index comes first.
    Source: Holtzman et al. 2019, arXiv 1904.09751.
    """
    norm = log_sum_exp(logits, temperature)
    floor = norm + _negligible(logits.size, p)
    candidates = np.flatnonzero(logits >= below(floor * temperature))
    logprobs = logits[candidates].astype(np.float64) / temperature - norm
    kept: IdArray = candidates[_fewest(logprobs.max() - logprobs, np.exp(logprobs), p)]
    return kept


def min_p_ids(logits: F32Array, p: float, temperature: float = 1.0) -> IdArray:
    """Indices (ascending) of the tokens that are at least ``p`` times as probable as the most probable one.

    Probabilities are the softmax of ``logits / temperature``. Source: Nguyen et al. 2024, arXiv 2407.01082.
    """
    # Compared in float64, so that a token exactly at the bound stays: exp(log p) need not be p.
    nearly = np.flatnonzero(logits >= below(float(logits.max()) + (math.log(p) - 1e-6) * temperature))
    ratios = np.exp((logits[nearly].astype(np.float64) - float(logits.max())) / temperature)
    kept: IdArray = nearly[ratios >= p * (1 - 1e-12)]
    return kept


def typical_ids(logits: F32Array, p: float, temperature: float = 1.0) -> IdArray:
    """Indices (ascending) of the fewest most typical tokens whose probabilities sum to at least ``p``.

    A token is the more typical the closer its information, -log(probability), is to the entropy of the distribution,
    the softmax of ``logits / temperature``. Of equally typical tokens the lower index comes first.
    Source: Meister et al. 2022, arXiv 2202.00666.
    """
    norm, expected = entropy(logits, temperature)
    # No token is more than `expected` on the probable side of it, so that those below twice that come last.
    floor = norm + min(_negligible(logits.size, p), -2.0 * expected - 1e-6)
    candidates = np.flatnonzero(logits >= below(floor * temperature))
    logprobs = logits[candidates].astype(np.float64) / temperature - norm
    kept: IdArray = candidates[_fewest(np.abs(logprobs + expected), np.exp(logprobs), p)]
    return kept


def _negligible(size: int, p: float) -> float:
    """A log probability below which all of ``size`` tokens together cannot keep a sum from reaching ``p``.

    Tokens below (1 - p) / size together have less than 1 - p; half of it allows for rounding.
    """
    return math.log(max(0.5 * (1.0 - p) / size, 1e-300))


def _fewest(distances: F64Array, probabilities: F64Array, p: float) -> IdArray:
    """Indices (ascending) of the fewest nearest candidates whose probabilities sum to at least ``p``; all, if none do.

    Only the bucket of almost equally near ones in which the sum reaches ``p`` has to be sorted.
    """
    bucket = np.minimum(distances * 64.0, 4095.0).astype(np.int64)
    mass = np.cumsum(np.bincount(bucket, probabilities))
    last = min(int(np.searchsorted(mass, p)), mass.size - 1)
    before = float(mass[last - 1]) if last else 0.0
    edge = np.flatnonzero(bucket == last)
    order = edge[np.argsort(distances[edge], kind="stable")]
    count = int(np.searchsorted(before + np.cumsum(probabilities[order]), p)) + 1
    kept = bucket < last
    kept[order[:count]] = True
    return np.flatnonzero(kept)
