"""The next token from logits, without a model: what :class:`pyml_nlp.SamplingOptions` does to a row of numbers.

Letters: V = vocabulary size, C = candidates, the tokens that are not excluded.

The choice itself is native code; :mod:`pyml_core.sampling` is its definition in NumPy. A generation keeps a
:class:`pyml_core.sampling.Sampler` for each text instead.
"""

from __future__ import annotations

import math

import numpy as np

from pyml_core.sampling import F32Array, F64Array, History, IdArray, Sampler, check_finite, top_logprobs
from pyml_core.sampling.arrays import PIECE

from .options.sampling import SamplingOptions

__all__ = [
    "F32Array",
    "F64Array",
    "History",
    "IdArray",
    "check_finite",
    "log_sum_exp",
    "sample",
    "top_logprobs",
]


def sample(
    logits: F32Array,
    sampling: SamplingOptions,
    sequence: int,
    position: int,
    history: History | None = None,
    *,
    ids: IdArray | None = None,
) -> int:
    """Choose the token at ``position`` of ``sequence``.

    Args:
        logits: float32 (V,), or (C,) with ``ids``; left as it is.
        sampling: the rules, with a seed unless greedy.
        sequence: number of the text among those generated together.
        position: where the chosen token will stand in its sequence, prompt included.
        history: tokens of the prompt and of the text so far, for the penalties; None: none.
        ids: int64 (C,), ascending: the tokens that the logits are of; None: 0, 1, 2, ... The tokens that are left out
            are excluded; the same token is chosen as from all of them if these are at least
            :attr:`SamplingOptions.required_top_k` of the largest and those tied with the last of them.

    Raises:
        PymlError: the logits have no finite largest value (NaN or infinity in the model's output), or a rule leaves no
            token.
    """
    rules = sampling.core_rules
    history = history if history is not None and rules.penalised else History()
    tokens = [logits.size - 1, *(token for token, _ in rules.logit_bias), *history.seen.max(initial=0, keepdims=True)]
    vocabulary = 1 + int(max(tokens if ids is None else [*tokens, ids[-1]]))
    generated = np.repeat(history.seen, history.counts)
    return Sampler(rules, sequence, vocabulary, history.seen, generated).choose(logits, position, ids).token


def log_sum_exp(logits: F32Array) -> float:
    """``log(sum(exp(logits)))``, summed in float64."""
    top = float(logits.max())
    total = 0.0
    for start in range(0, logits.size, PIECE):  # pieces stay in the cache
        total += float(np.exp(logits[start : start + PIECE].astype(np.float64) - top).sum())
    return top + math.log(total)
