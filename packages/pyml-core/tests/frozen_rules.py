"""The rules of sampling in float64 sums and NumPy's exponential, as they were before their bits were defined.

A frozen copy, for comparison: do not mend it.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from pyml_core.sampling import History, SamplingRules, penalties
from pyml_core.sampling.noise import hashes, noise_key

PIECE = 16384
F32_MAX = float(np.finfo(np.float32).max)


def below(bound: float) -> np.float32:
    """A float32 that is surely less than ``bound``, for comparing float32 numbers with a float64 bound."""
    if bound <= -F32_MAX:
        return np.float32(-np.inf)
    lower: np.float32 = np.nextafter(np.float32(min(bound, F32_MAX)), np.float32(-np.inf))
    return lower


def log_sum_exp(logits: Any, temperature: float = 1.0) -> float:
    """``log(sum(exp(logits / temperature)))``, summed in float64."""
    top = float(logits.max()) / temperature
    total = 0.0
    for start in range(0, logits.size, PIECE):
        total += float(np.exp(logits[start : start + PIECE].astype(np.float64) / temperature - top).sum())
    return top + math.log(total)


def entropy(logits: Any, temperature: float = 1.0) -> tuple[float, float]:
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


def top_k_ids(logits: Any, k: int) -> Any:
    """Ids (ascending) of the ``k`` largest logits; every token tied with the last of them is kept too."""
    size = logits.size
    if k >= size:
        return np.arange(size)
    # The k-th largest of the maxima of disjoint groups is a lower bound of the k-th largest of all.
    groups = max(4 * k, 2048)
    candidates: Any | None = None
    if groups * 8 <= size:
        whole = size // groups * groups
        maxima = logits[:whole].reshape(-1, groups).max(axis=0)
        candidates = np.flatnonzero(logits >= np.partition(maxima, groups - k)[groups - k])
    values = logits if candidates is None else logits[candidates]
    kept = np.flatnonzero(values >= np.partition(values, values.size - k)[values.size - k])
    return kept if candidates is None else candidates[kept]


def top_p_ids(logits: Any, p: float, temperature: float = 1.0) -> Any:
    """Indices (ascending) of the fewest most probable tokens whose probabilities sum to at least ``p``.

    Probabilities are the softmax of ``logits / temperature``. Of equally probable tokens the lower index comes first.
    Source: Holtzman et al. 2019, arXiv 1904.09751.
    """
    norm = log_sum_exp(logits, temperature)
    floor = norm + _negligible(logits.size, p)
    candidates = np.flatnonzero(logits >= below(floor * temperature))
    logprobs = logits[candidates].astype(np.float64) / temperature - norm
    kept: Any = candidates[_fewest(logprobs.max() - logprobs, np.exp(logprobs), p)]
    return kept


def min_p_ids(logits: Any, p: float, temperature: float = 1.0) -> Any:
    """Indices (ascending) of the tokens that are at least ``p`` times as probable as the most probable one.

    Probabilities are the softmax of ``logits / temperature``. Source: Nguyen et al. 2024, arXiv 2407.01082.
    """
    # Compared in float64, so that a token exactly at the bound stays: exp(log p) need not be p.
    nearly = np.flatnonzero(logits >= below(float(logits.max()) + (math.log(p) - 1e-6) * temperature))
    ratios = np.exp((logits[nearly].astype(np.float64) - float(logits.max())) / temperature)
    kept: Any = nearly[ratios >= p * (1 - 1e-12)]
    return kept


def typical_ids(logits: Any, p: float, temperature: float = 1.0) -> Any:
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
    kept: Any = candidates[_fewest(np.abs(logprobs + expected), np.exp(logprobs), p)]
    return kept


def _negligible(size: int, p: float) -> float:
    """A log probability below which all of ``size`` tokens together cannot keep a sum from reaching ``p``.

    Tokens below (1 - p) / size together have less than 1 - p; half of it allows for rounding.
    """
    return math.log(max(0.5 * (1.0 - p) / size, 1e-300))


def _fewest(distances: Any, probabilities: Any, p: float) -> Any:
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


LARGEST_GUMBEL = -math.log(-math.log1p(-(2.0**-33)))


def gumbel(key: int, ids: Any) -> Any:
    return -np.log(-np.log((hashes(key, ids).astype(np.float64) + 0.5) * 2.0**-32))


def draw(logits: Any, temperature: float, key: int, ids: Any | None = None) -> int:
    """Index of the largest ``logits / temperature + gumbel``: a draw from the softmax.

    Args:
        logits: float32 (C,).
        ids: their token ids (C,); None: 0, 1, 2, ...
    """

    def scores(part: Any) -> Any:
        return logits[part].astype(np.float64) / temperature + gumbel(key, part if ids is None else ids[part])

    top = float(logits.max())
    near = np.flatnonzero(logits >= below(top - 3.0 * temperature))[:PIECE]
    reached = float(scores(near).max())
    # The rest would lose even with the largest noise there is.
    candidates = np.flatnonzero(logits >= below((reached - LARGEST_GUMBEL) * temperature))
    if candidates.size > PIECE:
        starts = range(0, candidates.size, PIECE)
        candidates = np.concatenate(
            [_screened(logits, temperature, key, ids, candidates[i : i + PIECE], reached) for i in starts]
        )
    return int(candidates[int(scores(candidates).argmax())])


def _screened(logits: Any, temperature: float, key: int, ids: Any | None, part: Any, reached: float) -> Any:
    """Those of ``part`` whose score may be ``reached`` or more, without a logarithm.

    With w = exp(logit / temperature - reached), a score of ``reached`` needs -log(u) <= w, and therefore 1 - u <= w.
    """
    w = np.exp((logits[part].astype(np.float64) / temperature - reached).astype(np.float32))
    complement = (~hashes(key, part if ids is None else ids[part])).astype(np.float32)  # (1 - u) * 2**32 - 1/2
    kept: Any = part[complement <= w * np.float32(1.001 * 2**32)]  # 1.001: rounding
    return kept


def sample(logits: Any, rules: SamplingRules, sequence: int, position: int, history: History) -> int:
    temperature, ids = 1.0, None
    cuts: dict[str, Any] = {"top_p": top_p_ids, "min_p": min_p_ids, "typical_p": typical_ids}
    for rule in rules.order:
        if rule == "temperature":
            temperature = rules.temperature
        elif rule == "top_k" or rule in cuts:
            value = getattr(rules, rule)
            kept = top_k_ids(logits, value) if rule == "top_k" else cuts[rule](logits, value, temperature)
            logits, ids = logits[kept], kept if ids is None else ids[kept]
        elif rule == "repetition_penalty":
            logits = penalties.penalize_repetition(logits, history.seen, rules.repetition_penalty, ids)
        else:
            amounts: Any = history.counts * rules.frequency_penalty
            tokens = history.seen
            if rule == "logit_bias":
                tokens = np.array([token for token, _ in rules.logit_bias])
                amounts = -np.array([amount for _, amount in rules.logit_bias])
            elif rule == "presence_penalty":
                amounts = np.minimum(history.counts, 1) * rules.presence_penalty
            logits = penalties.subtract(logits, tokens, amounts * temperature, ids)
    best = draw(logits, temperature, noise_key(rules.seed, sequence, position), ids)
    return best if ids is None else int(ids[best])
