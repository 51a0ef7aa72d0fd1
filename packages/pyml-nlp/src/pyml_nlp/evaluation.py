"""Evaluation of a model's predictions for a text: log probabilities, perplexity, divergence from another model.

Letters: V = vocabulary size.

Logits are computed for a few rows at a time, so that memory does not grow with the text.
"""

from __future__ import annotations

import itertools
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np

from pyml_core.errors import PymlError, quoted
from pyml_core.sampling.arrays import PIECE
from pyml_nn import KVCache

from .sampling import F32Array, log_sum_exp, top_logprobs
from .tokenizer import Tokenizer
from .tokenizer.base import TextError
from .values import whole

ROW_BYTES = 64 << 20
"""Maximum size of the logits that are kept at a time, in bytes."""

SIGMAS = 1.959964
"""Half the width of a 95 % interval, in standard errors."""

Progress = Callable[[int, int], None]


class Predictor(Protocol):
    """The parts of a language model that evaluation uses."""

    @property
    def name(self) -> str:
        """Its name in messages."""
        ...

    @property
    def tokenizer(self) -> Tokenizer:
        """The model's tokenizer."""
        ...

    @property
    def vocab_size(self) -> int:
        """The width of a row of logits (V)."""
        ...

    @property
    def context_length(self) -> int:
        """Maximum number of positions of a sequence."""
        ...

    def new_cache(self, max_length: int | None = None) -> KVCache:
        """Return an empty KV cache."""
        ...

    def forward(self, batch: Sequence[tuple[KVCache, Sequence[int], Sequence[int] | None]]) -> list[F32Array]:
        """Return logits (len(positions), V) of each sequence."""
        ...


class TokenScore(NamedTuple):
    """The log probability of one token of a text.

    Attributes:
        token: its id.
        logprob: natural logarithm of its probability, given the tokens before it: the softmax of the model's logits,
            before any temperature, penalty or truncation. None for the first token.
        top_logprobs: (token id, logprob) of the most probable tokens at its position, most probable first.
    """

    token: int
    logprob: float | None
    top_logprobs: tuple[tuple[int, float], ...]


class Estimate(NamedTuple):
    """A mean over positions and its 95 % interval, which assumes independent positions."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Comparison:
    """Divergence of a model's predictions from a reference's, at the same positions.

    Attributes:
        perplexity: perplexity of the reference.
        kld: mean Kullback-Leibler divergence from the reference to the model, in nats.
        max_kld: the largest divergence.
        same_top: share of positions where both have the same most probable token.
    """

    perplexity: Estimate
    kld: Estimate
    max_kld: float
    same_top: Estimate


@dataclass(frozen=True)
class Evaluation:
    """The result of :func:`evaluate`.

    Attributes:
        tokens: number of tokens of the text.
        windows: number of windows that were run.
        positions: number of tokens that were predicted.
        perplexity: exponential of the mean of their negative log probabilities; the interval is the mean's.
        comparison: comparison with the reference, if there is one.
    """

    tokens: int
    windows: int
    positions: int
    perplexity: Estimate
    comparison: Comparison | None


class Window(NamedTuple):
    """Tokens that are run as one sequence; those from ``first`` on are scored."""

    ids: list[int]
    first: int


def score(lm: Predictor, ids: Sequence[int], top: int = 0) -> list[TokenScore]:
    """Return the log probability of each token of a sequence; see :meth:`LanguageModel.score`."""
    top = min(whole("top", top, 0), lm.vocab_size)
    if not ids:
        raise TextError("the text is empty: expected at least one token")
    scores = [TokenScore(ids[0], None, ())]
    for token, row in _predictions(lm, Window(list(ids), 1)):
        scores.append(TokenScore(token, *top_logprobs(row, token, top)))
    return scores


def evaluate(
    lm: Predictor,
    text: str,
    window: int = 512,
    stride: int | None = None,
    limit: int | None = None,
    reference: Predictor | None = None,
    progress: Progress | None = None,
) -> Evaluation:
    """Compute the perplexity of a text, and the divergence from a reference.

    Args:
        lm: the model.
        text: the text to predict.
        window, stride: see :func:`windows`.
        limit: maximum number of windows to run, from 1; None: all.
        reference: a model with the same tokens; None: no comparison.
        progress: called with the number of finished windows and of all windows.

    Raises:
        PymlError: a number is out of range, the text has fewer than two tokens, or the reference has other tokens.
    """
    window = whole("window", window)
    stride = None if stride is None else whole("stride", stride)
    limit = None if limit is None else min(whole("limit", limit, 1), sys.maxsize)
    prefix = list(lm.tokenizer.metadata.prefix)
    ids = lm.tokenizer.encode(text, add_special=False)
    if reference is not None and (
        reference.vocab_size != lm.vocab_size or reference.tokenizer.encode(text, add_special=False) != ids
    ):
        raise PymlError(f"expected models with the same tokens, got {lm.name} and {reference.name}")
    context = min(model.context_length for model in (lm, reference) if model is not None)
    if window > context:
        raise PymlError(f"window must be in 4 .. {context} (the context), got {quoted(window)}")
    parts = list(itertools.islice(windows([*prefix, *ids], prefix, window, stride), limit))
    losses, reference_losses, klds, same = [], [], [], []
    for number, part in enumerate(parts):
        if reference is None:
            for token, row in _predictions(lm, part):
                losses.append(log_sum_exp(row) - float(row[token]))
        else:
            rows = zip(_predictions(lm, part), _predictions(reference, part), strict=True)
            for (token, row), (_, expected) in rows:
                norm, expected_norm = log_sum_exp(row), log_sum_exp(expected)
                losses.append(norm - float(row[token]))
                reference_losses.append(expected_norm - float(expected[token]))
                klds.append(kl_divergence(expected, row, expected_norm, norm))
                same.append(row.argmax() == expected.argmax())
        if progress is not None:
            progress(number + 1, len(parts))
    comparison = None
    if reference is not None:
        comparison = Comparison(_perplexity(reference_losses), _mean(klds), max(klds), _share(same))
    return Evaluation(len(ids) + len(prefix), len(parts), len(losses), _perplexity(losses), comparison)


def windows(ids: Sequence[int], prefix: Sequence[int], size: int, stride: int | None = None) -> Iterator[Window]:
    """Split a text into windows.

    Without a stride this follows llama.cpp's ``perplexity`` tool: windows of ``size`` tokens, one after the other; the
    rest at the end is left out. A window's first tokens become ``prefix`` (the beginning-of-sequence token, if the
    model has one). Only the second half of a window is scored, so that half a window precedes each scored token.

    With a stride a window begins every ``stride`` tokens, and tokens that were not in an earlier window are scored, as
    in Hugging Face's guide to perplexity. Every token except the first is scored once.

    A text of fewer than ``size`` tokens is one window, and all of it is scored.

    Raises:
        PymlError: fewer than two tokens, a window of fewer than four, or a stride not in 1 .. ``size``.
    """
    if size < 4:
        raise PymlError(f"window must be > 3, got {size}")
    if stride is not None and not 1 <= stride <= size:
        raise PymlError(f"stride must be in 1 .. {size} (the window), got {stride}")
    if len(ids) < 2:
        raise PymlError(f"the text is too short: expected two tokens or more, got {len(ids)}")
    if len(ids) < size:
        yield Window(list(ids), 1)
    elif stride is None:
        for start in range(0, len(ids) - size + 1, size):
            yield Window([*prefix, *ids[start + len(prefix) : start + size]], size // 2 + 1)
    else:
        scored = 1
        for start in range(0, len(ids), stride):
            end = min(start + size, len(ids))
            yield Window(list(ids[start:end]), scored - start)
            scored = end
            if end == len(ids):
                return


def kl_divergence(p: F32Array, q: F32Array, p_norm: float, q_norm: float) -> float:
    """Return the Kullback-Leibler divergence from the softmax of ``p`` to that of ``q`` in nats, summed in float64.

    Args:
        p, q: logits (V,).
        p_norm, q_norm: their :func:`.log_sum_exp`.
    """
    total = 0.0
    for start in range(0, p.size, PIECE):
        a, b = (row[start : start + PIECE].astype(np.float64) for row in (p, q))
        total += float(np.exp(a - p_norm) @ (a - b))
    return max(0.0, total - (p_norm - q_norm))  # below 0 only by rounding


def _predictions(lm: Predictor, window: Window) -> Iterator[tuple[int, F32Array]]:
    """Iterate over the scored tokens of a window and the logits (V,) that predict them."""
    ids, first = window
    step = min(512, max(16, ROW_BYTES // (4 * lm.vocab_size)))
    cache = lm.new_cache(len(ids))
    for start in range(0, len(ids) - 1, step):
        part = ids[start : min(start + step, len(ids) - 1)]
        wanted = [index for index in range(len(part)) if start + index + 1 >= first]
        (rows,) = lm.forward([(cache, part, wanted)])
        for index, row in zip(wanted, rows, strict=True):
            yield ids[start + index + 1], row


def _mean(values: Sequence[float]) -> Estimate:
    mean = math.fsum(values) / len(values)
    if len(values) < 2:
        return Estimate(mean, -math.inf, math.inf)
    variance = math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1)
    error = SIGMAS * math.sqrt(variance / len(values))
    return Estimate(mean, mean - error, mean + error)


def _perplexity(losses: Sequence[float]) -> Estimate:
    value, low, high = _mean(losses)
    return Estimate(math.exp(value), math.exp(low), math.exp(high) if high < 700 else math.inf)


def _share(found: Sequence[bool]) -> Estimate:
    """Return a share and its interval after Wilson (1927), which is valid near 0 and 1 too."""
    n, share, z2 = len(found), sum(found) / len(found), SIGMAS**2
    centre = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = SIGMAS / (1 + z2 / n) * math.sqrt(share * (1 - share) / n + z2 / (4 * n * n))
    return Estimate(share, max(0.0, centre - half), min(1.0, centre + half))
