"""From logits to the next token of a text, and to the step that reports it."""

from __future__ import annotations

import time

import numpy as np

from pyml_core.want import GreedyToken, TopLogits

from ..engine import Engine
from ..options.generation import SHIFT
from ..sampling import F32Array, check_finite, sample, top_logprobs
from ..structured.matcher import Matcher
from .completion import LENGTH, STOP, Completion, Logits, Step


class Chooser:
    """Chooses the next token of a text and adds it.

    Args:
        engine: of the model.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def choose(self, completion: Completion, logits: Logits | None, model_ms: float) -> Step:
        """Add the token that the grammar forces, or the one that the rules choose from the logits.

        Args:
            completion: the text.
            logits: of the text's last position; None: a token is forced.
            model_ms: milliseconds of the run that computed them.

        Raises:
            PymlError: the logits are not finite, or no token may come next.
        """
        start = time.perf_counter()
        position, options = completion.position, completion.options
        if completion.forced:
            token = completion.forced.pop(0)
        elif isinstance(logits, GreedyToken):
            check_finite(logits.logit, logits.token, position)
            token = logits.token
        elif logits is not None:
            token = _sampled(completion, logits)
        else:
            raise RuntimeError("expected logits where no token is forced")
        logprob, top = None, None
        if options.logprobs is not None and isinstance(logits, np.ndarray):
            logprob, top = top_logprobs(logits, token, options.logprobs)
            completion.logprobs.append((logprob, top))
        silent = token in self._engine.eos_ids or token in options.stop_ids
        reason = None
        if silent or (completion.matcher is not None and _advanced(completion.matcher, completion, token)):
            reason = STOP
        elif len(completion.tokens) + 1 >= options.max_tokens or _fills_context(completion):
            reason = LENGTH
        text = completion.take(token, reason, silent)
        reason = completion.finish_reason
        if reason is not None:
            self._engine.prefix_cache.add(completion.cache)
        sample_ms = (time.perf_counter() - start) * 1e3
        index = len(completion.tokens) - 1
        return Step(token, text, index, position, completion.sequence, logprob, top, reason, model_ms, sample_ms)


def largest(logits: F32Array | TopLogits) -> GreedyToken:
    """The result of greedy choice, for rows of drafted tokens."""
    if isinstance(logits, TopLogits):
        return GreedyToken(*logits.best(), 0.0)
    token = int(logits.argmax())
    return GreedyToken(token, float(logits[token]), 0.0)


def _sampled(completion: Completion, logits: F32Array | TopLogits) -> int:
    """The token that the rules choose, among those that the grammar allows."""
    options, ids = completion.options, None
    if isinstance(logits, TopLogits):
        values, ids = logits.logits, logits.ids
    elif completion.matcher is not None:
        values, ids = completion.matcher.restrict(logits)
    else:
        values = logits
    return sample(values, options.sampling, options.sample_index, completion.position, completion.history, ids=ids)


def _advanced(matcher: Matcher, completion: Completion, token: int) -> bool:
    """Advance the grammar by a token; whether the text ends with it."""
    matcher.take(token)
    if not completion.forced:
        completion.forced = matcher.forced()
    return matcher.ended


def _fills_context(completion: Completion) -> bool:
    """Whether the next token has no place in the context."""
    return completion.options.overflow != SHIFT and completion.position >= completion.cache.max_length
