"""From logits to the next token: repetition penalty, temperature, top-k, top-p, and a draw whose noise has no state.

Letters: V = vocabulary size, C = candidates, the tokens that are still in play.

The order is: repetition penalty -> / temperature -> top-k -> top-p -> draw. The draw adds Gumbel noise to each
candidate and takes the largest (Gumbel-max: Gumbel 1954; Maddison et al. 2014, arXiv 1411.0030), which is a draw from
the softmax. The noise of a token is a hash of (seed, sequence, position, token id), never the next number of a shared
stream, so that a text depends neither on the texts beside it, nor on how often anything was computed before it.

Every rule is a pure function. They are exact, and none of them sorts the whole vocabulary: each first finds a cheap
bound that proves most tokens out of play.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pyml_core.errors import PymlError

F32Array = npt.NDArray[np.float32]
F64Array = npt.NDArray[np.float64]
IdArray = npt.NDArray[np.int64]

GREEDY_BELOW = 1e-7
"""Temperatures below this one take the most probable token."""

_MASK = (1 << 64) - 1
_GOLDEN = 0x9E3779B97F4A7C15
_MIX = (0xBF58476D1CE4E5B9, 0x94D049BB133111EB)
_PIECE = 16384  # elements worked on at a time, so that temporaries stay in the cache
_LARGEST_GUMBEL = -math.log(-math.log1p(-(2.0**-33)))  # 22.9: what the largest of those numbers gives


@dataclass(frozen=True)
class Sampling:
    """How tokens are chosen.

    Attributes:
        temperature: logits are divided by it; below 1e-7 the most probable token is taken (after the penalty).
        top_k: keep the k most probable tokens, and those tied with the last of them. None: keep all.
        top_p: then keep the fewest tokens whose probabilities reach this sum. None: keep all.
        repetition_penalty: see :func:`penalize`. None or 1: none.
        seed: of the noise, 0 .. 2**64 - 1. None: one from the operating system, see :meth:`seeded`.

    Raises:
        PymlError: a value out of its range.
    """

    temperature: float = 0.0
    top_k: int | None = None
    top_p: float | None = None
    repetition_penalty: float | None = None
    seed: int | None = None

    def __post_init__(self) -> None:
        for name, problem in self.problems():
            raise PymlError(f"{name} {problem}")

    def problems(self) -> Iterable[tuple[str, str]]:
        """What is out of range: (name, what is wrong with it)."""
        return sampling_problems(self.temperature, self.top_k, self.top_p, self.repetition_penalty, self.seed)

    @property
    def greedy(self) -> bool:
        """Whether the most probable token is taken."""
        return self.temperature < GREEDY_BELOW

    @property
    def candidates(self) -> int | None:
        """How many of the largest logits decide, with those tied with the last of them; None: any of them may."""
        if self.repetition_penalty not in (None, 1.0):
            return None
        return 1 if self.greedy else self.top_k

    def seeded(self) -> Sampling:
        """The same with a seed: this one's, or a new random one."""
        if self.seed is not None:
            return self
        seed = int.from_bytes(os.urandom(6), "little")
        return Sampling(self.temperature, self.top_k, self.top_p, self.repetition_penalty, seed)


def sampling_problems(
    temperature: float, top_k: int | None, top_p: float | None, repetition_penalty: float | None, seed: int | None
) -> Iterable[tuple[str, str]]:
    """Yield (name, what is wrong) for every value out of its range. NaN is out of every range."""
    if not 0.0 <= temperature < math.inf:
        yield "temperature", f"must be >= 0.0, got {temperature:g}"
    if top_k is not None and top_k < 1:
        yield "top_k", f"must be > 0, got {top_k}"
    if top_p is not None and not 0.0 < top_p <= 1.0:
        yield "top_p", f"must be in (0.0, 1.0], got {top_p:g}"
    if repetition_penalty is not None and not 0.0 < repetition_penalty < math.inf:
        yield "repetition_penalty", f"must be > 0.0, got {repetition_penalty:g}"
    if seed is not None and not 0 <= seed <= _MASK:
        yield "seed", f"must be in 0 .. 2**64 - 1, got {seed}"


def sample(
    logits: F32Array,
    sampling: Sampling,
    sequence: int,
    position: int,
    seen: Iterable[int] = (),
    *,
    ids: IdArray | None = None,
) -> int:
    """Choose the token at ``position`` of ``sequence``.

    Args:
        logits: float32 (V,), or (C,) with ``ids``; left as it is.
        sampling: the rules, with a seed unless greedy.
        sequence: number of the text among those generated together.
        position: where the chosen token will stand in its sequence, prompt included.
        seen: token ids of the prompt and of the text so far, for the repetition penalty; repeats are ignored.
        ids: int64 (C,), ascending: the tokens that the logits are of; None: 0, 1, 2, ... The tokens that are left out
            are out of play; the same token is chosen as from all of them if these are at least
            :attr:`Sampling.candidates` of the largest and those tied with the last of them.

    Raises:
        PymlError: the logits have no finite largest value (NaN or infinity in the model's output).
    """
    if sampling.repetition_penalty is not None:
        logits = penalize(logits, seen, sampling.repetition_penalty, ids)
    best = int(logits.argmax())
    if sampling.greedy or not math.isfinite(logits[best]):
        token = best if ids is None else int(ids[best])
        if math.isfinite(logits[best]):
            return token
        raise PymlError(
            f"the model's logits are not finite: logit {logits[best]} for token {token} at position {position}"
        )
    if sampling.top_k is not None and sampling.top_k < logits.size:
        logits, ids = _only(top_k_ids(logits, sampling.top_k), logits, ids)
    if sampling.top_p is not None and sampling.top_p < 1.0:
        logits, ids = _only(top_p_ids(logits, sampling.top_p, sampling.temperature), logits, ids)
    chosen = draw(logits, sampling.temperature, noise_key(sampling.seed or 0, sequence, position), ids)
    return chosen if ids is None else int(ids[chosen])


def _only(kept: IdArray, logits: F32Array, ids: IdArray | None) -> tuple[F32Array, IdArray]:
    """The kept logits and their token ids."""
    return logits[kept], kept if ids is None else ids[kept]


# ---- the rules


def penalize(logits: F32Array, seen: Iterable[int], penalty: float, ids: IdArray | None = None) -> F32Array:
    """A copy where each token in ``seen`` is less likely: its logit divided by ``penalty``, or multiplied if negative.

    A token counts once however often it occurred, so that the penalty does not grow with the length of the text.
    Prompt and generated text count alike. Source: Keskar et al. 2019, arXiv 1909.05858, section 4.1, as in Hugging
    Face transformers' ``RepetitionPenaltyLogitsProcessor``.
    """
    rows = np.fromiter(set(seen), np.int64)
    if ids is not None:
        rows = np.flatnonzero(np.isin(ids, rows))
    changed = logits.copy()
    values = changed[rows]
    changed[rows] = np.where(values > 0, values / np.float32(penalty), values * np.float32(penalty))
    return changed


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
    # All tokens below (1 - p) / V together have less than 1 - p, so the sum is reached without them; half of it
    # allows for rounding.
    floor = (norm + math.log(max(0.5 * (1.0 - p) / logits.size, 1e-300))) * temperature
    candidates = np.flatnonzero(logits >= _below(floor))
    logprobs = logits[candidates].astype(np.float64) / temperature - norm
    probabilities = np.exp(logprobs)
    # Only the bucket of almost equally probable tokens in which the sum reaches p has to be sorted.
    bucket = np.minimum((logprobs.max() - logprobs) * 64.0, 4095.0).astype(np.int64)
    mass = np.cumsum(np.bincount(bucket, probabilities))
    last = min(int(np.searchsorted(mass, p)), mass.size - 1)
    before = float(mass[last - 1]) if last else 0.0
    edge = np.flatnonzero(bucket == last)
    order = edge[np.argsort(-probabilities[edge], kind="stable")]
    count = int(np.searchsorted(before + np.cumsum(probabilities[order]), p)) + 1
    kept = bucket < last
    kept[order[:count]] = True
    chosen: IdArray = candidates[kept]
    return chosen


def log_sum_exp(logits: F32Array, temperature: float = 1.0) -> float:
    """``log(sum(exp(logits / temperature)))``, summed in float64."""
    top = float(logits.max()) / temperature
    total = 0.0
    for start in range(0, logits.size, _PIECE):
        total += float(np.exp(logits[start : start + _PIECE].astype(np.float64) / temperature - top).sum())
    return top + math.log(total)


def top_logprobs(logits: F32Array, token: int, n: int) -> tuple[float, tuple[tuple[int, float], ...]]:
    """The token's log probability, and the ``n`` most probable tokens with theirs, in order (ties: lower id first).

    These are the model's own: the softmax of its logits before penalty, temperature and truncation.
    """
    norm = log_sum_exp(logits)
    best: list[tuple[int, float]] = []
    if n > 0:
        ids = top_k_ids(logits, min(n, logits.size))
        order = ids[np.argsort(-logits[ids], kind="stable")][:n]
        best = [(int(i), float(logits[i]) - norm) for i in order]
    return float(logits[token]) - norm, tuple(best)


# ---- the draw


def noise_key(seed: int, sequence: int, position: int) -> int:
    """The 64-bit state from which the noise of every token at one position of one sequence is made."""
    state = 0
    for part in (seed, sequence, position):
        state = _mix((state ^ part & _MASK) + _GOLDEN & _MASK)
    return state


def hashes(key: int, ids: IdArray) -> npt.NDArray[np.uint32]:
    """32 bits a token: the upper half of SplitMix64's output number ``id`` from the state ``key``.

    Source: Steele, Lea and Flood 2014, "Fast splittable pseudorandom number generators" (the constants of
    java.util.SplittableRandom).
    """
    z = ids.astype(np.uint64)
    z *= np.uint64(_GOLDEN)
    z += np.uint64(key + _GOLDEN & _MASK)
    z ^= z >> np.uint64(30)
    z *= np.uint64(_MIX[0])
    z ^= z >> np.uint64(27)
    z *= np.uint64(_MIX[1])
    z ^= z >> np.uint64(31)
    z >>= np.uint64(32)
    return z.astype(np.uint32)


def uniform(key: int, ids: IdArray) -> F64Array:
    """A number in (0, 1) a token: ``(hash + 1/2) / 2**32``, float64."""
    return (hashes(key, ids).astype(np.float64) + 0.5) * 2.0**-32


def gumbel(key: int, ids: IdArray) -> F64Array:
    """Standard Gumbel noise a token, ``-log(-log(uniform))``, float64, between -3.1 and 22.9."""
    noise: F64Array = -np.log(-np.log(uniform(key, ids)))
    return noise


def draw(logits: F32Array, temperature: float, key: int, ids: IdArray | None = None) -> int:
    """Index of the largest ``logits / temperature + gumbel``: a draw from the softmax.

    Args:
        logits: float32 (C,).
        ids: their token ids (C,); None: 0, 1, 2, ...
    """

    def scores(part: IdArray) -> F64Array:
        return logits[part].astype(np.float64) / temperature + gumbel(key, part if ids is None else ids[part])

    top = float(logits.max())
    near = np.flatnonzero(logits >= _below(top - 3.0 * temperature))[:_PIECE]
    reached = float(scores(near).max())
    # The rest would lose even with the largest noise there is.
    candidates = np.flatnonzero(logits >= _below((reached - _LARGEST_GUMBEL) * temperature))
    if candidates.size > _PIECE:
        starts = range(0, candidates.size, _PIECE)
        candidates = np.concatenate(
            [_screened(logits, temperature, key, ids, candidates[i : i + _PIECE], reached) for i in starts]
        )
    return int(candidates[int(scores(candidates).argmax())])


def _screened(
    logits: F32Array, temperature: float, key: int, ids: IdArray | None, part: IdArray, reached: float
) -> IdArray:
    """Those of ``part`` whose score may be ``reached`` or more, without a logarithm.

    With w = exp(logit / temperature - reached), a score of ``reached`` needs -log(u) <= w, and therefore 1 - u <= w.
    """
    w = np.exp((logits[part].astype(np.float64) / temperature - reached).astype(np.float32))
    complement = (~hashes(key, part if ids is None else ids[part])).astype(np.float32)  # (1 - u) * 2**32 - 1/2
    kept: IdArray = part[complement <= w * np.float32(1.001 * 2**32)]  # 1.001: rounding
    return kept


def _below(bound: float) -> np.float32:
    """A float32 that is surely less than ``bound``, for comparing float32 numbers with a float64 bound."""
    below: np.float32 = np.nextafter(np.float32(bound), np.float32(-np.inf))
    return below


def _mix(z: int) -> int:
    """SplitMix64's output function, on a Python integer."""
    z = (z ^ z >> 30) * _MIX[0] & _MASK
    z = (z ^ z >> 27) * _MIX[1] & _MASK
    return z ^ z >> 31
