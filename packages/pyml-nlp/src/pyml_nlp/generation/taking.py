"""From a chosen token to the step that reports it."""

from __future__ import annotations

import time

from pyml_core.errors import PymlError, one_line
from pyml_core.want import SampledToken

from ..engine import Engine
from ..options.generation import SHIFT
from .completion import LENGTH, STOP, Completion, Step


class Taker:
    """Adds chosen tokens to their texts.

    Args:
        engine: of the model.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def take(self, completion: Completion, found: SampledToken | None, model_ms: float) -> Step:
        """Add the token that was chosen, or the one that the grammar forces.

        Args:
            completion: the text.
            found: the token; None: it is forced.
            model_ms: milliseconds of the run after which it was chosen.

        Raises:
            PymlError: no token could be chosen.
        """
        start = time.perf_counter()
        position, options = completion.position, completion.options
        logprob, top, choosing_ms = None, None, 0.0
        if found is None:
            token = completion.take_forced()
        elif found.error is not None:
            raise as_pyml_error(found.error)
        else:
            token, choosing_ms = found.token, found.choosing_ms
            if options.logprobs is not None and found.logprob is not None:
                logprob, top = found.logprob, found.top_logprobs or ()
                completion.logprobs.append((logprob, top))
        silent = token in completion.ends
        reason = None
        if silent or (completion.grammar_ended and not completion.chosen and not completion.forced):
            reason = STOP
        elif len(completion.tokens) + 1 >= options.max_tokens or _fills_context(completion):
            reason = LENGTH
        text = completion.take(token, reason, silent)
        reason = completion.finish_reason
        if reason is not None:
            self._engine.prefix_cache.add(completion.cache, completion.salt)
        sample_ms = (time.perf_counter() - start) * 1e3 + choosing_ms
        index = len(completion.tokens) - 1
        return Step(token, text, index, position, completion.sequence, logprob, top, reason, model_ms, sample_ms)


def as_pyml_error(error: Exception) -> PymlError:
    """The error as one of pyml's; the original one is its cause."""
    if isinstance(error, PymlError):
        return error
    own = PymlError(f"{type(error).__name__} while a token was chosen: {one_line(str(error))}")
    own.__cause__ = error
    return own


def _fills_context(completion: Completion) -> bool:
    """Whether the next token has no place in the context."""
    return completion.options.overflow != SHIFT and completion.position >= completion.cache.max_length
