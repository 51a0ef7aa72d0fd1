"""From logits to the next token: bias, penalties, temperature, truncation, and a draw whose noise has no state.

Letters: V = vocabulary size, C = candidates, the tokens that are not excluded, S = different tokens of a text.

:class:`Sampler` chooses in native code. The other modules are its definition in NumPy. Both give identical results:
elementary functions are written out (``elementary``), and probabilities are summed as integers, so that no sum depends
on its order (``weights``).
"""

from __future__ import annotations

from .._native import Sampler, top_logprobs
from ..sampled import SampledToken
from .arrays import F32Array, F64Array, I64Array, IdArray
from .choice import check_finite, sample
from .penalties import History
from .rules import SamplingRules

__all__ = [
    "F32Array",
    "F64Array",
    "History",
    "I64Array",
    "IdArray",
    "SampledToken",
    "Sampler",
    "SamplingRules",
    "check_finite",
    "sample",
    "top_logprobs",
]
