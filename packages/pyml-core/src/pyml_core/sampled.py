"""The result of a choice of a token, see :mod:`pyml_core.sampling`."""

from __future__ import annotations

from typing import NamedTuple


class SampledToken(NamedTuple):
    """A token that was chosen after a run, or from a row of logits.

    Attributes:
        token: its id.
        logit: the model's logit of the token, before bias and penalties.
        ms: milliseconds of the run; 0 without a run, and for an accepted drafted token.
        logprob: log probability in the softmax of all of the model's logits; None if not requested.
        top_logprobs: (id, logprob) of the most probable tokens, most probable first (ties: lower id first).
        choosing_ms: milliseconds of choosing it: the text's share of the time after the run.
        error: the reason why no token could be chosen; other fields are undefined then. None: a token was chosen.
    """

    token: int
    logit: float
    ms: float = 0.0
    logprob: float | None = None
    top_logprobs: tuple[tuple[int, float], ...] | None = None
    choosing_ms: float = 0.0
    error: Exception | None = None
