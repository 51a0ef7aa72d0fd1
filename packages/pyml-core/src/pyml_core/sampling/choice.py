"""The next token: the rules in order, and the draw."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from ..errors import PymlError
from .arrays import F32Array, F64Array, IdArray
from .noise import draw, noise_key
from .penalties import History, penalize_repetition, subtract
from .rules import SamplingRules
from .truncation import min_p_ids, top_k_ids, top_p_ids, typical_ids
from .weights import log_sum_exp

_TRUNCATE: dict[str, Callable[[F32Array, float, float], IdArray]] = {
    "top_p": top_p_ids,
    "min_p": min_p_ids,
    "typical_p": typical_ids,
}


def sample(
    logits: F32Array,
    rules: SamplingRules,
    sequence: int,
    position: int,
    history: History | None = None,
    *,
    ids: IdArray | None = None,
) -> int:
    """Choose the token at ``position`` of ``sequence``.

    Args:
        logits: float32 (V,), or (C,) with ``ids``; not changed.
        rules: the rules.
        sequence: number of the text among those generated together.
        position: position of the chosen token in its sequence, including the prompt.
        history: tokens of the prompt and of the text so far, for the penalties; None: no tokens.
        ids: int64 (C,), ascending: token ids of the logits; None: 0, 1, 2, ... Other tokens are excluded. The result is
            that of all logits if top-k is the first rule, and ``ids`` has at least the ``rules.top_k`` largest and
            those tied with the last of them.

    Raises:
        PymlError: the largest logit is not finite (NaN or infinity in the model's output), or a rule excludes every
            token.
    """
    best = int(logits.argmax())
    check_finite(float(logits[best]), best if ids is None else int(ids[best]), position)
    temperature = 1.0
    for rule in rules.order:
        if rule == "temperature":
            temperature = rules.temperature
        elif rule == "top_k":
            logits, ids = _only(top_k_ids(logits, rules.top_k), logits, ids)
        elif rule in _TRUNCATE:
            logits, ids = _only(_TRUNCATE[rule](logits, getattr(rules, rule), temperature), logits, ids)
        else:
            logits = _changed(rule, logits, ids, rules, history or History(), temperature)
            best = int(logits.argmax())
            if not math.isfinite(logits[best]):
                raise PymlError(f"{rule} leaves no token that could stand at position {position}")
    if not rules.greedy:
        best = draw(logits, temperature, noise_key(rules.seed, sequence, position), ids)
    return best if ids is None else int(ids[best])


def check_finite(logit: float, token: int, position: int) -> None:
    """Raise :class:`PymlError` if the largest logit at a position is NaN or infinity."""
    if not math.isfinite(logit):
        raise PymlError(f"the model's logits are not finite: logit {logit} for token {token} at position {position}")


def _changed(
    rule: str, logits: F32Array, ids: IdArray | None, rules: SamplingRules, history: History, temperature: float
) -> F32Array:
    """Apply a bias or a penalty. Logits are not divided by the temperature yet, so amounts are multiplied by it."""
    if rule == "repetition_penalty":
        return penalize_repetition(logits, history.seen, rules.repetition_penalty, ids)
    tokens, counts = history.seen, history.counts.astype(np.float64)
    if rule == "logit_bias":
        tokens = np.array([token for token, _ in rules.logit_bias], np.int64)
        amounts = -np.array([amount for _, amount in rules.logit_bias], np.float64)
    elif rule == "frequency_penalty":
        amounts = _product(counts, rules.frequency_penalty)
    else:
        amounts = np.minimum(counts, 1.0) * rules.presence_penalty
    return subtract(logits, tokens, _product(amounts, temperature), ids)


def _product(values: F64Array, factor: float) -> F64Array:
    """Return the product; infinite on overflow."""
    with np.errstate(over="ignore"):
        return values * factor


def _only(kept: IdArray, logits: F32Array, ids: IdArray | None) -> tuple[F32Array, IdArray]:
    """Return the kept logits and their token ids."""
    return logits[kept], kept if ids is None else ids[kept]


def top_logprobs(logits: F32Array, token: int, n: int) -> tuple[float, tuple[tuple[int, float], ...]]:
    """Return the token's log probability, and the ``n`` most probable tokens with theirs (ties: lower id first).

    Probabilities are the model's own: the softmax of its logits before bias, penalties, temperature and truncation.
    """
    norm = log_sum_exp(logits)
    best: list[tuple[int, float]] = []
    if n > 0:
        ids = top_k_ids(logits, min(n, logits.size))
        order = ids[np.argsort(-logits[ids], kind="stable")][:n]
        best = [(int(i), float(logits[i]) - norm) for i in order]
    return float(logits[token]) - norm, tuple(best)
