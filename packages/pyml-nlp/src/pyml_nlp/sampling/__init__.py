"""From logits to the next token: bias, penalties, temperature, truncation, and a draw whose noise has no state.

Letters: V = vocabulary size, C = candidates, the tokens that are not excluded.

The options are :class:`pyml_nlp.SamplingOptions`. Every rule is a pure function and exact; none of them sorts the whole
vocabulary.
"""

from __future__ import annotations

from .arrays import F32Array, F64Array, IdArray, log_sum_exp
from .choice import check_finite, sample, top_logprobs
from .penalties import History

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
