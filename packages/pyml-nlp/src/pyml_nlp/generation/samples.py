"""Several texts of one prompt: their requests, and the best of them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace

from ..options.generation import GenerationOptions
from ..values import whole
from .completion import Completion
from .request import Request

MAX_SAMPLES = 1 << 16
"""Most texts of one prompt: their requests are made at once."""


def sample_requests(
    prompt: Sequence[int], options: GenerationOptions, n: int, best_of: int | None = None
) -> list[Request]:
    """Return ``best_of`` (None: ``n``) requests of one prompt and one seed, with consecutive sample indices.

    Raises:
        ArgumentError: ``n`` is not a whole number in 1 .. ``MAX_SAMPLES``, or ``best_of`` not one from ``n`` on.
        PymlError: an empty prompt.
    """
    n = whole("n", n, 1, MAX_SAMPLES)
    count = n if best_of is None else whole("best_of", best_of, n, MAX_SAMPLES)
    if best_of is not None and options.logprobs is None:
        options = replace(options, logprobs=0)
    options = options.seeded()
    first = options.sample_index
    return [Request(prompt, replace(options, sample_index=first + index)) for index in range(count)]


def best(completions: Iterable[Completion], n: int) -> list[Completion]:
    """Return the ``n`` texts with the highest mean log probability of a token, the highest one first."""
    return sorted(completions, key=mean_logprob, reverse=True)[:n]


def mean_logprob(completion: Completion) -> float:
    """Return the mean log probability of a text's tokens; minus infinity if it has none."""
    logprobs = [logprob for logprob, _ in completion.logprobs]
    return math.fsum(logprobs) / len(logprobs) if logprobs else -math.inf
