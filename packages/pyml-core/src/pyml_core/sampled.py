"""The result of a choice of a token, see :mod:`pyml_core.sampling`."""

from __future__ import annotations

from typing import NamedTuple


class SampledToken(NamedTuple):
    """A token that was chosen after a run, or from a row of logits.

    Attributes:
        token: its id.
        logit: the model's logit of it, before bias and penalties.
        ms: milliseconds of the run; 0 where there was none.
        logprob: log probability in the softmax of all of the model's logits; None if it was not asked for.
        top_logprobs: (id, logprob) of the most probable tokens, most probable first (ties: lower id first).
    """

    token: int
    logit: float
    ms: float = 0.0
    logprob: float | None = None
    top_logprobs: tuple[tuple[int, float], ...] | None = None
