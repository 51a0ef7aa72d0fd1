"""From logits to the next token: bias, penalties, temperature, truncation, and a draw whose noise has no state.

Letters: V = vocabulary size, C = candidates, the tokens that are still in play.

The order of the rules is :data:`ORDER` unless another one is asked for. Every rule is a pure function and exact;
none of them sorts the whole vocabulary.
"""

from __future__ import annotations

from .arrays import F32Array, F64Array, IdArray, log_sum_exp
from .choice import check_finite, sample, top_logprobs
from .penalties import History
from .rules import GREEDY_BELOW, ORDER, PENALTIES, Sampling

__all__ = [
    "GREEDY_BELOW",
    "ORDER",
    "PENALTIES",
    "F32Array",
    "F64Array",
    "History",
    "IdArray",
    "Sampling",
    "check_finite",
    "log_sum_exp",
    "sample",
    "top_logprobs",
]
